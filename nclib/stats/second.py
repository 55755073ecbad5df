"""The second pass, over the samples of the first."""

from __future__ import annotations

import torch
from torch import Tensor

from . import sums as _sums
from .decide import Decider
from .first import ClassMeans, Stream, collective_device
from .table import WEIGHTINGS, ClassStats, between_space, class_weights

__all__ = ["ClassScatter"]

_SAFE = (1e-4, 1e6)  # sizes of float32 features whose squares need no rescaling
_SAFE_64 = (1e-60, 1e60)


class ClassScatter(Stream):
    """Second pass: spread about the class means, and the decisions of a classifier.

    Args:
        means: a finished first pass. Every sample of it must come again, and no other.
        weighting: one of :data:`nclib.stats.WEIGHTINGS`.
        weight: ``(C, d)`` of a linear classifier, whose decisions are then compared with those of
            the nearest-class-center rule. With ``classes``, C counts all rows of the head, of which
            those of the classes are used.
        bias: ``(C,)`` of that classifier; by default zero.

    Residuals ``h - mu_y`` are formed in the features' own precision, where they are exact near
    collapse, and multiplied once by ``[basis / singular values | weight | a random direction]``.
    The last column tells whether the samples are those of the first pass: it must add up to zero
    in every class.

    Raises:
        ValueError: as :meth:`ClassMeans.compute`; equal class means; a classifier that does not
            fit; a bias without a weight; an unknown ``weighting``.
    """

    def __init__(
        self, means: ClassMeans, *, weighting: str = "class", weight: Tensor | None = None,
        bias: Tensor | None = None,
    ):
        super().__init__()
        if weighting not in WEIGHTINGS:
            raise ValueError(f"weighting must be one of {WEIGHTINGS}, got {weighting!r}")
        if bias is not None and weight is None:
            raise ValueError("a bias was given without a weight")
        self.counts, self.means = means.compute()
        self.num_classes, self.num_labels, self.classes = (
            means.num_classes, means.num_labels, means.classes
        )
        self.weighting = weighting
        self.dim, self.dtype = means.dim, means.dtype
        self.device, self.home = means.device, means.home
        mean_weights, between_weights, _ = class_weights(weighting, self.counts)
        centered = self.means - mean_weights @ self.means
        size = _sums.unit(centered)
        low, high = _SAFE_64 if self.dtype == torch.float64 else _SAFE
        self.unit = 1.0 if low <= size <= high else size
        self.singular_values, basis = between_space(
            centered / size, between_weights, self.means / size
        )
        self.singular_values = self.singular_values * (size / self.unit)
        # In units of ``unit`` from here on.
        self._rounded = self.means.to(self.dtype)
        rounded = self._rounded.double() / self.unit
        self._off = self.means / self.unit - rounded
        self._floor = 4 * torch.finfo(means.given).eps * rounded.norm(dim=1) / self.dim**0.5
        whiten = basis / self.singular_values
        generator = torch.Generator().manual_seed(2020)
        probe = torch.randn(self.dim, 1, dtype=torch.float64, generator=generator).to(self.home)
        self._expected = torch.cat([whiten, probe], 1)
        columns, self.decider = [whiten, probe], None
        if weight is not None:
            weight, bias = self._head(weight, bias)
            starts = rounded - (self.means - centered) / self.unit
            self.decider = Decider(
                (centered / self.unit) @ basis, starts @ basis,
                self.singular_values, rounded, weight * self.unit, bias, self.dtype, self.device,
            )
            if not self.decider.wide:
                columns.append(weight.T * self.unit)
        # A multiple of eight columns is up to a fifth faster than one column less.
        operand = torch.cat(columns, 1)
        operand = torch.nn.functional.pad(operand, (0, -operand.shape[1] % 8))
        self._operand = operand.T.contiguous().to(self.device, self.dtype).T
        narrow = whiten.shape[1] + 1
        self._narrow = min(narrow + -narrow % 8, operand.shape[1])  # without the classifier
        self._table = self._rounded.to(self.device)
        self._pieces = _sums.Pieces(self.dim, self.dtype, self.device, self._use)
        self._product = torch.empty(
            self._pieces.rows * operand.shape[1], dtype=self.dtype, device=self.device
        )
        self.seen = torch.zeros_like(self.counts)
        self.sums = torch.zeros(self.num_classes, 4, dtype=torch.float64, device=self.home)
        self.decided = torch.zeros(3, dtype=torch.int64, device=self.device)

    def _head(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        rows = self.num_labels if self.num_labels is not None else len(weight)
        weight = _sums.check_matrix("weight", weight, (rows, self.dim)).to(self.home)
        if bias is not None:
            bias = _sums.check_matrix("bias", bias, (rows,)).to(self.home)
        if self.classes is not None:
            kept = self.classes.to(self.home)
            weight, bias = weight[kept], None if bias is None else bias[kept]
        return weight, bias

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch, as :meth:`ClassMeans.update`."""
        with torch.no_grad(), _sums.full_precision():
            self._pieces.add(*self._take(features, labels), self._table)

    def _use(self, r: Tensor, y: Tensor) -> None:
        if self.unit != 1:
            r.mul_(1 / self.unit)
        order, starts, sizes = _sums.sort_labels(y, self.num_classes)
        fused = self.decider is not None and not self.decider.wide and self.decider.crowded
        operand = self._operand if fused else self._operand[:, : self._narrow]
        out = self._product[: len(y) * operand.shape[1]].view(len(y), -1)
        p = torch.mm(r, operand, out=out)
        rank = len(self.singular_values)
        z, probe = p[:, :rank], p[:, rank]
        norms = torch.stack([torch.linalg.vector_norm(v, dim=1) for v in (r, z)], 1)
        columns = torch.cat([norms, probe[:, None]], 1).to(self.home).double()
        columns = torch.cat([columns.square(), columns[:, 2:]], 1)
        self.sums += _sums.sum_by_class(columns, order.to(self.home), starts.to(self.home))
        self.seen += sizes.to(self.home)
        if self.decider is not None:
            products = p[:, rank + 1 : rank + 1 + self.num_classes] if fused else None
            self.decided += self.decider(r, z, products, norms[:, 0], y)

    def merge(self, other: ClassScatter) -> None:
        """Add the samples of another shard of the same first pass; ``other`` stays as it is.

        Raises:
            ValueError: its first pass was another, or its convention or classifier.
        """
        if not torch.equal(self.means, other.means.to(self.home)) or (
            self.weighting, self.decider is None) != (other.weighting, other.decider is None):
            raise ValueError("the shards have different class means, weightings or classifiers")
        self._flush()
        other._flush()
        self._set(*(a + b.to(a.device) for a, b in zip(self._state(), other._state(), strict=True)))

    def sync(self, group=None) -> None:
        """Give every rank the sums of all. Call it on every rank, after ``means.sync()``."""
        import torch.distributed as dist

        if self.synced:
            raise ValueError("synchronized before")
        self._flush()
        at = collective_device(self, group)
        totals = [x.to(at) for x in self._state()]
        for total in totals:
            dist.all_reduce(total, group=group)
        self._set(*totals)
        self.synced = True

    def _state(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.seen, self.sums, self.decided

    def _set(self, seen: Tensor, sums: Tensor, decided: Tensor) -> None:
        self.seen, self.sums = seen.to(self.home), sums.to(self.home)
        self.decided = decided.to(self.device)

    def state_dict(self) -> dict:
        """What :meth:`load_state_dict` of a pass over the same means needs to go on."""
        self._flush()
        names = ("seen", "sums", "decided")
        return dict(zip(names, (x.clone() for x in self._state()), strict=True)) | {
            "synced": self.synced
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on from a :meth:`state_dict`."""
        self._set(*(state[name].clone() for name in ("seen", "sums", "decided")))
        self.synced = state["synced"]

    def compute(self) -> ClassStats:
        """The statistics of both passes.

        Raises:
            ValueError: the two passes saw different samples, or the spread overflows.
        """
        self._flush()
        counts, seen, sums = self.counts, self.seen, self.sums
        if not torch.equal(seen, counts):
            raise ValueError(
                f"the two passes saw different samples: {int(counts.sum())} in the first, "
                f"{int(seen.sum())} in the second, or other counts of the classes"
            )
        if not torch.isfinite(sums).all():
            raise ValueError(f"the spread of the features overflows {self.dtype}: use float64")
        off = self._off @ self._expected  # what the rounding of the means adds is known
        excess = torch.stack([self._off.square().sum(1), off[:, :-1].square().sum(1)], 1)
        drift = (sums[:, 3] - counts * off[:, -1]).abs()
        allowed = 0.02 * sums[:, 2].sqrt() + counts.sqrt() * self._floor
        if (drift > allowed).any():
            worst = int((drift - allowed).argmax())
            raise ValueError(
                "the two passes saw different features: those of the second do not average to the "
                f"class means of the first (class {worst}). Is there augmentation, dropout, batch "
                "norm in training mode, or sampling with replacement?"
            )
        squares = (sums[:, :2] / counts[:, None] - excess).clamp_(min=0)
        decided = () if self.decider is None else self.decided.tolist()
        return ClassStats(
            counts, self.means, squares[:, 0].sqrt() * self.unit, squares[:, 1],
            self.singular_values * self.unit, self.weighting, self.classes, *decided,
        )
