"""Decisions: the nearest-class-center rule, a linear classifier, and where they differ."""

from __future__ import annotations

import torch
from torch import Tensor

_WIDE = 2048  # classes above which no (C, C) table is made, and logits come a block of rows at once
_BLOCK = 1 << 24  # logits in a block


class Decider:
    """Decisions on residuals; three counts a call: disagreements, center hits, linear hits.

    The coordinates in the between-class space are enough for the nearest center, as all centers lie
    in it. A sample nearer to its own center than half the way to the next one needs no comparison.

    Args:
        centers, own: ``(C, r)`` coordinates of the centers, and of the points that residuals start
            from.
        scale: ``(r,)``; times the coordinates of a residual that are given later, the true ones.
        rounded: ``(C, d)``, those points themselves.
        weight, bias: of the classifier.
    """

    def __init__(self, centers, own, scale, rounded, weight, bias, dtype, device):
        C = len(centers)
        self.wide = C > _WIDE
        half = centers.square().sum(1) / 2
        self._safe = (_gaps(own, centers) * (0.5 - 1e-4)).to(device, dtype)
        self._bias = None if bias is None else bias.to(device, dtype)
        if self.wide:
            self._own, self._scale = own.to(device, dtype), scale.to(device, dtype)
            self._centers, self._half = centers.T.to(device, dtype), half.to(device, dtype)
            self._rounded, self._weight = (x.to(device, dtype) for x in (rounded, weight.T))
            return
        logits = rounded @ weight.T
        self._logits = (logits if bias is None else logits + bias).to(device, dtype)
        self._closeness = (own @ centers.T - half).to(device, dtype)
        self._centers = (centers * scale).T.contiguous().to(device, dtype)

    def __call__(self, r, z, products, norms, y) -> Tensor:
        """From residuals ``r (b, d)`` with coordinates ``z (b, r)``, ``products (b, C)`` with the
        classifier (overwritten), and norms."""
        nearest = self.nearest(z, norms, y)
        if self.wide:
            linear = torch.cat([
                _plus(torch.index_select(self._rounded, 0, k).add_(x) @ self._weight, self._bias)
                .argmax(1) for x, k in self._blocks(r, y)
            ])
        else:
            linear = products.add_(torch.index_select(self._logits, 0, y)).argmax(1)
        return torch.stack([(nearest != linear).sum(), (nearest == y).sum(), (linear == y).sum()])

    def nearest(self, z: Tensor, norms: Tensor, labels: Tensor) -> Tensor:
        """Classes ``(b,)`` by the nearest center."""
        far = (norms >= torch.index_select(self._safe, 0, labels)).nonzero().flatten()
        if not len(far):
            return labels
        if 2 * len(far) > len(labels):
            return self._compare(z, labels)
        return labels.index_copy(0, far, self._compare(z[far], labels[far]))

    def _compare(self, z: Tensor, labels: Tensor) -> Tensor:
        if self.wide:
            return torch.cat([
                (torch.index_select(self._own, 0, k).addcmul_(x, self._scale) @ self._centers)
                .sub_(self._half).argmax(1) for x, k in self._blocks(z, labels)
            ])
        closeness = torch.index_select(self._closeness, 0, labels)
        return closeness.addmm_(z, self._centers).argmax(1)

    def _blocks(self, x: Tensor, y: Tensor):
        rows = max(1, _BLOCK // len(self._safe))
        return zip(x.split(rows), y.split(rows), strict=True)


def _plus(logits: Tensor, bias: Tensor | None) -> Tensor:
    return logits if bias is None else logits.add_(bias)


def _gaps(own: Tensor, centers: Tensor) -> Tensor:
    """Distance ``(C,)`` of each point to the nearest center that is not its own."""
    gaps = []
    for start in range(0, len(own), _WIDE):
        distances = torch.cdist(own[start : start + _WIDE], centers)
        distances[:, start:].fill_diagonal_(torch.inf)
        gaps.append(distances.amin(1))
    return torch.cat(gaps)
