"""Class statistics of features in two streaming passes, from which every measure is computed.

How it works, with N samples, d features and C classes:

* Pass 1 finds counts and class means. Each sample is first shifted by the first sample seen of its
  class, so near collapse the sums are of tiny numbers and the means are right far beyond the
  features' own precision; identical samples give exactly that sample as their mean.
* The C×C Gram matrix of the centered means (d×d where d < C), in float64, gives the singular
  values and an orthonormal basis of the between-class space. An eigenvalue of the Gram (a squared
  singular value) counts if it exceeds ``10·min(C, d)·eps`` of the largest, with float64's eps, so a
  singular value counts above about ``1.5e-7`` of the largest for C = 10. The rank is at most C - 1.
* Pass 2 multiplies the residuals ``h - mu_y`` once by ``[basis / singular values | weight]``. The
  residual is formed in the features' own precision, where it is exact near collapse; what the
  rounding of the means to that precision adds is known, and taken off again.

Sums over samples are carried in float64. Memory: ``O(C·d + C² + R·(d + C))`` numbers, with R rows
at a time (about 2 MiB of features on a CPU, 64 MiB on an accelerator), whatever N and the size of
the batches are, and never d² for d > C. float16 and bfloat16 features are computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

__all__ = ["WEIGHTINGS", "ClassStats"]

#: The conventions for averages over samples of unequal classes. They agree for equal counts.
#:
#: * ``"class"``: every class counts once. ``mu_G`` is the mean of the class means, ``Sigma_B`` and
#:   ``Sigma_W`` are means over classes.
#: * ``"sample"``: every sample counts once. ``mu_G``, ``Sigma_B`` and ``Sigma_W`` are means over
#:   samples, so a class weighs ``n_c / N``.
#: * ``"mixed"``: ``mu_G`` and ``Sigma_W`` over samples, ``Sigma_B`` over classes, as in the code of
#:   Zhu et al. (2021) and of the many that descend from it.
WEIGHTINGS = ("class", "sample", "mixed")

_CHUNK_BYTES = {"cpu": 1 << 21}  # a chunk and its residuals stay in the cache
_ACCELERATOR_CHUNK_BYTES = 1 << 26

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]


@dataclass(frozen=True, eq=False)
class ClassStats:
    """What the measures need to know of ``(N, d)`` features with ``C`` classes.

    Make one with :meth:`from_features` or :meth:`from_batches`. Tensors are float64 (counts are
    int64) and stay on the features' device.

    Attributes:
        counts: ``(C,)`` samples a class.
        means: ``(C, d)`` class means.
        within: ``(C,)`` mean squared distance of a class's samples to their mean.
        within_pinv: ``(C,)`` ``tr(Sigma_c Sigma_B^+)``, with ``Sigma_c`` the covariance of class c.
        singular_values: ``(r,)`` square roots of the positive eigenvalues of ``Sigma_B``,
            ascending; ``r`` is the rank of ``Sigma_B``.
        weighting: one of :data:`WEIGHTINGS`.
        disagreements: samples on which the nearest-class-center rule and the linear classifier
            decide differently; None without a classifier, as are the next two.
        center_hits: samples that the nearest-class-center rule gives their own label.
        linear_hits: samples that the linear classifier gives their own label.
    """

    counts: Tensor
    means: Tensor
    within: Tensor
    within_pinv: Tensor
    singular_values: Tensor
    weighting: str
    disagreements: int | None = None
    center_hits: int | None = None
    linear_hits: int | None = None

    @property
    def num_classes(self) -> int:
        """C."""
        return self.means.shape[0]

    @property
    def dim(self) -> int:
        """d."""
        return self.means.shape[1]

    @cached_property
    def num_samples(self) -> int:
        """N."""
        return int(self.counts.sum())

    @property
    def rank(self) -> int:
        """Rank of ``Sigma_B``, at most ``min(C - 1, d)``."""
        return len(self.singular_values)

    @cached_property
    def global_mean(self) -> Tensor:
        """``(d,)``: mu_G, in the convention of ``weighting``."""
        return _weights(self.weighting, self.counts)[0] @ self.means

    @cached_property
    def centered_means(self) -> Tensor:
        """``(C, d)``: ``mu_c - mu_G``."""
        return self.means - self.global_mean

    @cached_property
    def between_trace(self) -> float:
        """``tr Sigma_B``."""
        weights = _weights(self.weighting, self.counts)[1]
        return float(weights @ self.centered_means.square().sum(1))

    @cached_property
    def within_trace(self) -> float:
        """``tr Sigma_W``."""
        return float(_weights(self.weighting, self.counts)[2] @ self.within)

    @cached_property
    def within_pinv_trace(self) -> float:
        """``tr(Sigma_W Sigma_B^+)``."""
        return float(_weights(self.weighting, self.counts)[2] @ self.within_pinv)

    @classmethod
    def from_features(
        cls,
        features: Tensor,
        labels: Tensor,
        num_classes: int | None = None,
        *,
        weighting: str = "class",
        weight: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> ClassStats:
        """Statistics of features in memory.

        Args:
            features: ``(N, d)`` of any float dtype.
            labels: ``(N,)`` integers in ``[0, C)``.
            num_classes: C; by default the largest label plus one.
            weighting: one of :data:`WEIGHTINGS`.
            weight: ``(C, d)`` of a linear classifier, whose decisions are then compared with those
                of the nearest-class-center rule.
            bias: ``(C,)`` of that classifier; by default zero.

        Raises:
            ValueError: wrong shapes or dtypes, NaN or infinity, a label out of range, a class
                without samples, fewer than two samples or classes, equal class means, a bias
                without a weight, or an unknown ``weighting``.
        """
        features, labels = torch.as_tensor(features), torch.as_tensor(labels)
        _check_batch(features, labels)
        if len(features) < 2:
            raise ValueError(f"need at least 2 samples, got features {tuple(features.shape)}")
        if num_classes is None:
            num_classes = int(labels.max()) + 1
        return cls.from_batches(
            lambda: ((features, labels),),
            num_classes,
            weighting=weighting,
            weight=weight,
            bias=bias,
        )

    @classmethod
    @torch.no_grad()
    def from_batches(
        cls,
        batches: Batches,
        num_classes: int,
        *,
        weighting: str = "class",
        weight: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> ClassStats:
        """Statistics of features that arrive in batches.

        Args:
            batches: called once for each of the two passes; gives an iterable of
                ``(features (B, d), labels (B,))``. Both passes must see the same samples, in any
                order and any split; a batch may reuse the memory of the one before.
            num_classes: C.
            weighting, weight, bias: as in :meth:`from_features`.

        Raises:
            ValueError: as in :meth:`from_features`, or the two passes saw different counts.
        """
        if weighting not in WEIGHTINGS:
            raise ValueError(f"weighting must be one of {WEIGHTINGS}, got {weighting!r}")
        if num_classes < 2:
            raise ValueError(f"need at least 2 classes, got {num_classes}")
        if bias is not None and weight is None:
            raise ValueError("a bias was given without a weight")
        with _full_precision():
            source = _Source(batches, num_classes, weight, bias)
            counts, means = _pass_one(source)
            mean_w, between_w, _ = _weights(weighting, counts)
            center = mean_w @ means
            singular_values, basis = _between(means, center, between_w)
            within, within_pinv, decided = _pass_two(
                source, counts, means, center, singular_values, basis
            )
        return cls(counts, means, within, within_pinv, singular_values, weighting, *decided)


def _weights(weighting: str, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Class weights, each ``(C,)`` with sum one, of mu_G, of Sigma_B and of Sigma_W."""
    samples = counts.double() / counts.sum()
    classes = torch.full_like(samples, 1 / len(counts))
    if weighting == "class":
        return classes, classes, classes
    return samples, samples if weighting == "sample" else classes, samples


class _Source:
    """Walks the batches and gives residuals in pieces of a size that suits the device.

    A piece is filled from as many batches as fit, so the cost of a pass hardly depends on their
    size; no batch is kept, or copied. Residuals are float32, or float64 for such features.
    """

    def __init__(self, batches: Batches, num_classes: int, weight, bias):
        self._batches = batches
        self.num_classes = num_classes
        self.weight = weight
        self.bias = bias
        self.dim = 0  # until the first batch, which also sets dtype, device and rows a piece

    def residuals(self, table: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """``(features - table[labels] (b, d), labels (b,))`` with ``1 <= b <= rows``.

        The next piece overwrites both. Without a table ``(C, d)``, the features are taken from the
        first sample seen of their class, and these samples are kept in ``first``.
        """
        fill = 0
        learn = table is None
        for features, labels in self._batches():
            _check_batch(features, labels)
            if not self.dim:
                self._start(features)
            if features.shape[1] != self.dim:
                raise ValueError(
                    f"features of one batch are {tuple(features.shape)}, "
                    f"those of the first have d={self.dim}"
                )
            labels = labels.to(device=self.device, dtype=torch.int64)
            if learn and len(labels):
                low, high = (int(v) for v in labels.aminmax())
                if low < 0 or high >= self.num_classes:
                    bad = low if low < 0 else high
                    raise ValueError(f"label {bad} is not in [0, {self.num_classes})")
            pieces = ((features, labels),)
            if len(labels) > self.rows:
                pieces = zip(features.split(self.rows), labels.split(self.rows), strict=True)
            for x, y in pieces:
                if learn:
                    self._meet(x, y)
                    table = self.first
                if fill + len(y) > self.rows:
                    yield self._residuals[:fill], self._labels[:fill]
                    fill = 0
                end = fill + len(y)
                r = self._residuals[fill:end]
                torch.index_select(table, 0, y, out=r)
                torch.sub(x, r, out=r)
                self._labels[fill:end].copy_(y)
                fill = end
        if fill:
            yield self._residuals[:fill], self._labels[:fill]

    def _meet(self, x: Tensor, y: Tensor) -> None:
        """Keep the first sample of each class not seen before."""
        if self._all_met or not len(y):
            return
        order, starts, sizes = _sort(y, self.num_classes)
        new = (sizes > 0) & ~self._met
        samples = x[order[starts.clamp(max=len(y) - 1)]].to(self.dtype)
        self.first = torch.where(new[:, None], samples, self.first)
        self._met |= new
        self._all_met = bool(self._met.all())

    def empty(self, *columns: int, dtype: torch.dtype | None = None) -> Tensor:
        """Room for one piece of ``columns``."""
        return torch.empty(self.rows, *columns, dtype=dtype or self.dtype, device=self.device)

    def _start(self, features: Tensor) -> None:
        C, self.dim, self.device = self.num_classes, features.shape[1], features.device
        self.dtype = torch.promote_types(features.dtype, torch.float32)
        size = _CHUNK_BYTES.get(self.device.type, _ACCELERATOR_CHUNK_BYTES)
        self.rows = max(64, min(1 << 14, size // (self.dim * self.dtype.itemsize)))
        self._residuals, self._labels = self.empty(self.dim), self.empty(dtype=torch.int64)
        self.first = torch.zeros(C, self.dim, dtype=self.dtype, device=self.device)
        self._met = torch.zeros(C, dtype=torch.bool, device=self.device)
        self._all_met = False
        if self.weight is not None:
            self.weight = check_matrix("weight", self.weight, (C, self.dim)).to(self.device)
        if self.bias is not None:
            self.bias = check_matrix("bias", self.bias, (C,)).to(self.device)


def _check_batch(features: Tensor, labels: Tensor) -> None:
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(f"features must be (N, d) with d >= 1, got {tuple(features.shape)}")
    if not features.is_floating_point():
        raise ValueError(f"features must be of a float dtype, got {features.dtype}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    if labels.shape != features.shape[:1]:
        raise ValueError(
            f"labels must be ({len(features)},) for features {tuple(features.shape)}, "
            f"got {tuple(labels.shape)}"
        )


def check_matrix(name: str, value: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
    """``value`` in float64 and outside the graph.

    Raises:
        ValueError: it is not of ``shape`` (by default: not a matrix), or has NaN or infinity.
    """
    value = torch.as_tensor(value).detach().double()
    if value.ndim != 2 if shape is None else value.shape != shape:
        wanted = "a matrix" if shape is None else tuple(shape)
        raise ValueError(f"{name} must be {wanted}, got {tuple(value.shape)}")
    if not torch.isfinite(value).all():
        raise ValueError(f"{name} has NaN or infinity")
    return value


def _pass_one(source: _Source) -> tuple[Tensor, Tensor]:
    """Counts ``(C,)`` and class means ``(C, d)``, float64."""
    total = counts = sums = 0
    for r, y in source.residuals():
        total += len(y)
        order, starts, sizes = _sort(y, source.num_classes)
        counts = counts + sizes
        sums = sums + _sum_by_class(r, order, starts).double()
    if total < 2:
        raise ValueError(f"need at least 2 samples, got {total}")
    if not torch.isfinite(sums).all():
        raise ValueError("features have NaN or infinity")
    empty = (counts == 0).nonzero().flatten().tolist()
    if empty:
        some = ", ".join(map(str, empty[:10])) + (", …" if len(empty) > 10 else "")
        raise ValueError(f"no samples of class {some} (of {source.num_classes} classes)")
    return counts, sums / counts[:, None] + source.first


def _between(means: Tensor, center: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values ``(r,)``, ascending, and row basis ``(d, r)`` of the between-class space."""
    centered = means - center
    rows = centered * weights.sqrt()[:, None]
    C, d = rows.shape
    if C <= d:  # one eigenvalue is zero, as the rows add up to zero with the roots of the weights
        values, left = torch.linalg.eigh(rows @ rows.T)
        values, left = values[1:], left[:, 1:]
    else:
        values, right = torch.linalg.eigh(rows.T @ rows)
    eps = torch.finfo(torch.float64).eps
    if values[-1] <= (16 * eps) ** 2 * means.square().sum(1).max():
        raise ValueError("the class means are equal: there is no between-class variance")
    rank = int((values > 10 * min(C, d) * eps * values[-1]).sum())
    singular_values = values[-rank:].sqrt()
    if C <= d:
        return singular_values, rows.T @ (left[:, -rank:] / singular_values)
    return singular_values, right[:, -rank:]


def _pass_two(
    source: _Source,
    counts: Tensor,
    means: Tensor,
    center: Tensor,
    singular_values: Tensor,
    basis: Tensor,
) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """``within`` and ``within_pinv`` of :class:`ClassStats`, and the counts of the decisions."""
    C, rank, dtype, device = source.num_classes, len(singular_values), source.dtype, source.device
    whiten = basis / singular_values
    rounded = means.to(dtype)
    off = means - rounded.double()

    columns = [whiten.T]
    weight = source.weight
    if weight is not None:
        columns.append(weight)
        logits = rounded.double() @ weight.T
        logits = (logits if source.bias is None else logits + source.bias).to(dtype)
        coordinates = (means - center) @ basis, (rounded - center) @ basis
        nearest_center = _NearestCenter(*coordinates, singular_values, dtype)
    # A multiple of eight columns is up to a fifth faster than one column less.
    operand = torch.cat(columns)
    operand = torch.nn.functional.pad(operand, (0, 0, 0, -len(operand) % 8)).to(dtype).T
    product = source.empty(operand.shape[1])

    seen = torch.zeros_like(counts)
    sums = torch.zeros(C, 2, dtype=torch.float64, device=device)
    decided = torch.zeros(3, dtype=torch.int64, device=device)
    for r, y in source.residuals(rounded):
        order, starts, sizes = _sort(y, C)
        p = product[: len(y)]
        torch.mm(r, operand, out=p)
        z = p[:, :rank]
        norms = torch.stack([torch.linalg.vector_norm(v, dim=1) for v in (r, z)], 1)
        sums += _sum_by_class(norms.double().square(), order, starts)
        seen += sizes
        if weight is not None:
            nearest = nearest_center(z, norms[:, 0], y)
            linear = p[:, rank : rank + C].add_(torch.index_select(logits, 0, y)).argmax(1)
            decided[0] += (nearest != linear).sum()
            decided[1] += (nearest == y).sum()
            decided[2] += (linear == y).sum()
    if not torch.equal(seen, counts):
        raise ValueError(
            f"the two passes saw different samples: {int(counts.sum())} in the first, "
            f"{int(seen.sum())} in the second, or other counts of the classes"
        )
    if not torch.isfinite(sums).all():
        raise ValueError(f"the spread of the features overflows {dtype}: use float64 features")
    # About the true mean, the scatter is less than about its rounded value by what they differ.
    excess = torch.stack([off.square().sum(1), (off @ whiten).square().sum(1)], 1)
    within, within_pinv = (sums / counts[:, None] - excess).clamp_(min=0).unbind(1)
    return within, within_pinv, () if weight is None else tuple(decided.tolist())


class _NearestCenter:
    """The nearest-class-center rule, from residuals and their coordinates.

    The coordinates in the between-class space are enough, as all centers lie in it. A sample nearer
    to its own center than half the way to the next one needs no comparison at all.
    """

    def __init__(self, centers: Tensor, own: Tensor, scale: Tensor, dtype: torch.dtype):
        """Coordinates ``(C, r)`` of the centers and of the points that residuals start from.

        ``scale (r,)`` times the coordinates of a residual that are given later are its true ones.
        """
        gaps = torch.cdist(own, centers).fill_diagonal_(torch.inf).amin(1)
        self._safe = (gaps * (0.5 - 1e-4)).to(dtype)
        self._closeness = (own @ centers.T - centers.square().sum(1) / 2).to(dtype)
        self._centers = (centers * scale).T.to(dtype)

    def __call__(self, z: Tensor, norms: Tensor, labels: Tensor) -> Tensor:
        """Classes ``(b,)`` of residuals with coordinates ``z (b, r)`` and norms ``(b,)``."""
        far = (norms >= torch.index_select(self._safe, 0, labels)).nonzero().flatten()
        if not len(far):
            return labels
        if 2 * len(far) > len(labels):
            return self._compare(z, labels)
        return labels.index_copy(0, far, self._compare(z[far], labels[far]))

    def _compare(self, z: Tensor, labels: Tensor) -> Tensor:
        closeness = torch.index_select(self._closeness, 0, labels)
        return closeness.addmm_(z, self._centers).argmax(1)


# Sums by class go through a stable sort and one sum a segment: on every device the same order of
# additions in every run, which atomic scatter-adds do not give, and no (N, C) one-hot matrix.


def _sort(labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Order ``(b,)`` by class, start of each class in it ``(C,)``, and its size ``(C,)``."""
    ordered, order = torch.sort(labels, stable=True)
    edges = torch.searchsorted(ordered, torch.arange(num_classes + 1, device=labels.device))
    return order, edges[:-1], edges.diff()


def _sum_by_class(values: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    """``(C, k)`` sums of the rows of ``values`` ``(b, k)``."""
    return embedding_bag(order, values, starts, mode="sum")


@contextmanager
def _full_precision():
    """float32 products in float32, whatever the caller allows elsewhere: no TF32, no bfloat16.

    (Autocast leaves alone float64, and in-place and ``out=`` forms, which is all that is used.)
    """
    backends = (torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None))
    if all(hasattr(b, "fp32_precision") for b in backends):
        before = [b.fp32_precision for b in backends]
        try:
            for b in backends:
                b.fp32_precision = "ieee"
            yield
        finally:
            for b, precision in zip(backends, before, strict=True):
                b.fp32_precision = precision
    else:  # torch before 2.9
        before = torch.get_float32_matmul_precision()
        try:
            torch.set_float32_matmul_precision("highest")
            yield
        finally:
            torch.set_float32_matmul_precision(before)
