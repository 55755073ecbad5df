"""Decisions: the nearest-class-center rule, a linear classifier, and where they differ."""

from __future__ import annotations

import torch
from torch import Tensor

_WIDE = 2048  # classes above which no (C, C) table is made, and logits come a block of rows at once
_BLOCK = 1 << 24  # logits in a block


class Decider:
    """Decisions on residuals; three counts a call: disagreements, center hits, linear hits.

    The coordinates in the between-class space are enough for the nearest center, as all centers lie
    in it. A sample nearer to its own center than half the way to the next one needs no comparison;
    one nearer to it than the classifier's next boundary needs no product with the classifier.

    Attributes:
        crowded: most samples of the last call were beyond that boundary, so that it is faster to
            multiply all of them by the classifier together with what else they are multiplied by.

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
        self.crowded = False
        half = centers.square().sum(1) / 2
        self._safe = (_gaps(own, centers) * (0.5 - 1e-4)).to(device, dtype)
        self._bias = None if bias is None else bias.to(device, dtype)
        if self.wide:
            self._own, self._scale = own.to(device, dtype), scale.to(device, dtype)
            self._centers, self._half = centers.T.to(device, dtype), half.to(device, dtype)
            self._rounded, self._weight = (x.to(device, dtype) for x in (rounded, weight.T))
            return
        logits = rounded @ weight.T
        logits = logits if bias is None else logits + bias
        decided, steady = _steady(logits, weight)
        self._decided, self._steady = decided.to(device), (steady * (1 - 1e-4)).to(device, dtype)
        self._logits, self._weight = (x.to(device, dtype) for x in (logits, weight))
        self._closeness = (own @ centers.T - half).to(device, dtype)
        self._centers = (centers * scale).T.contiguous().to(device, dtype)

    def __call__(self, r, z, products, norms, y) -> Tensor:
        """From residuals ``r (b, d)`` with coordinates ``z (b, r)`` and norms. ``products (b, C)``
        with the classifier are overwritten; None: not known, and computed where they are needed."""
        nearest = self.nearest(z, norms, y)
        linear = self._wide_linear(r, y) if self.wide else self._linear(r, products, norms, y)
        return torch.stack([(nearest != linear).sum(), (nearest == y).sum(), (linear == y).sum()])

    def _linear(self, r: Tensor, products: Tensor | None, norms: Tensor, y: Tensor) -> Tensor:
        far = (norms >= torch.index_select(self._steady, 0, y)).nonzero().flatten()
        self.crowded = 2 * len(far) > len(y)
        if products is not None:
            return products.add_(torch.index_select(self._logits, 0, y)).argmax(1)
        if self.crowded:
            return torch.index_select(self._logits, 0, y).addmm_(r, self._weight.T).argmax(1)
        decided = torch.index_select(self._decided, 0, y)
        if not len(far):
            return decided
        logits = torch.index_select(self._logits, 0, y[far]).addmm_(r[far], self._weight.T)
        return decided.index_copy_(0, far, logits.argmax(1))

    def _wide_linear(self, r: Tensor, y: Tensor) -> Tensor:
        return torch.cat([
            _plus(_mm(torch.index_select(self._rounded, 0, k).add_(x), self._weight), self._bias)
            .argmax(1) for x, k in self._blocks(r, y)
        ])

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
                _mm(torch.index_select(self._own, 0, k).addcmul_(x, self._scale), self._centers)
                .sub_(self._half).argmax(1) for x, k in self._blocks(z, labels)
            ])
        closeness = torch.index_select(self._closeness, 0, labels)
        return closeness.addmm_(z, self._centers).argmax(1)

    def _blocks(self, x: Tensor, y: Tensor):
        rows = max(1, _BLOCK // len(self._safe))
        return zip(x.split(rows), y.split(rows), strict=True)


def _mm(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b``, which autocast leaves alone in this form."""
    return torch.mm(a, b, out=a.new_empty(len(a), b.shape[1]))


def _plus(logits: Tensor, bias: Tensor | None) -> Tensor:
    return logits if bias is None else logits.add_(bias)


def _steady(logits: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Decision ``(C,)`` at each point, and how far from it the first other decision is."""
    decided = logits.argmax(1)
    ahead = logits.gather(1, decided[:, None]) - logits
    gram = weight @ weight.T
    squares = gram.diagonal()[:, None] + gram.diagonal()
    # Never too small: of rows that nearly agree the subtraction leaves rounding errors alone.
    apart = (squares - 2 * gram).clamp_(min=0).add_(squares, alpha=1e-12).sqrt_()
    reach = (ahead / apart[decided]).nan_to_num_(nan=0.0, posinf=torch.inf)
    return decided, reach.scatter_(1, decided[:, None], torch.inf).amin(1)


def _gaps(own: Tensor, centers: Tensor) -> Tensor:
    """Distance ``(C,)`` of each point to the nearest center that is not its own."""
    gaps = []
    for start in range(0, len(own), _WIDE):
        distances = torch.cdist(own[start : start + _WIDE], centers)
        distances[:, start:].fill_diagonal_(torch.inf)
        gaps.append(distances.amin(1))
    return torch.cat(gaps)
