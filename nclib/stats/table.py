"""Class statistics, from which every measure of collapse is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from . import sums as _sums

#: The conventions for averages over samples of unequal classes. They agree for equal counts.
#:
#: * ``"class"``: every class counts once. ``mu_G`` is the mean of the class means, ``Sigma_B`` and
#:   ``Sigma_W`` are means over classes.
#: * ``"sample"``: every sample counts once. ``mu_G``, ``Sigma_B`` and ``Sigma_W`` are means over
#:   samples, so a class weighs ``n_c / N``. The usual decomposition of the total covariance.
#: * ``"mixed"``: ``mu_G`` and ``Sigma_W`` over samples, ``Sigma_B`` over classes, as in the code of
#:   Zhu et al. (2021) and of the many that descend from it.
#: * ``"papyan"``: ``mu_G`` and ``Sigma_B`` over classes, ``Sigma_W`` over samples, as in the
#:   notebook of Papyan, Han & Donoho (2020), the default of the package ``neural-collapse`` of
#:   R. Wu, and ``gnn_collapse``.
WEIGHTINGS = ("class", "sample", "mixed", "papyan")

Batches = (
    Callable[[], Iterable[tuple[Tensor, Tensor]]] | Iterable[tuple[Tensor, Tensor]]
)


@dataclass(frozen=True, eq=False)
class ClassStats:
    """What the measures need to know of ``(N, d)`` features with ``C`` classes.

    Make one with :meth:`from_features` or :meth:`from_batches`, or batch by batch with
    :class:`nclib.stats.ClassMeans` and :class:`nclib.stats.ClassScatter`. Tensors are float64
    (counts are int64) and stay on the features' device (on the CPU for Apple's GPUs).

    Attributes:
        counts: ``(C,)`` samples a class.
        means: ``(C, d)`` class means.
        spread: ``(C,)`` root of the mean squared distance of a class's samples to their mean.
        within_pinv: ``(C,)`` ``tr(Sigma_c Sigma_B^+)``, with ``Sigma_c`` the covariance of class c.
        singular_values: ``(r,)`` square roots of the positive eigenvalues of ``Sigma_B``,
            ascending; ``r`` is the rank of ``Sigma_B``.
        weighting: one of :data:`WEIGHTINGS`.
        classes: ``(C,)`` the labels of the rows, where not all classes were measured; else None.
        disagreements: samples on which the nearest-class-center rule and the linear classifier
            decide differently; None without a classifier, as are the next two.
        center_hits: samples that the nearest-class-center rule gives their own label.
        linear_hits: samples that the linear classifier gives their own label.
    """

    counts: Tensor
    means: Tensor
    spread: Tensor
    within_pinv: Tensor
    singular_values: Tensor
    weighting: str
    classes: Tensor | None = None
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
        return class_weights(self.weighting, self.counts)[0] @ self.means

    @cached_property
    def centered_means(self) -> Tensor:
        """``(C, d)``: ``mu_c - mu_G``."""
        return self.means - self.global_mean

    @property
    def within(self) -> Tensor:
        """``(C,)``: mean squared distance of a class's samples to their mean."""
        return self.spread.square()

    @cached_property
    def between_trace(self) -> float:
        """``tr Sigma_B``."""
        size = _sums.unit(self.centered_means)
        return self._scaled(size)[1] * size * size

    @cached_property
    def within_trace(self) -> float:
        """``tr Sigma_W``."""
        size = _sums.unit(self.spread)
        return self._scaled(size)[0] * size * size

    @cached_property
    def trace_ratio(self) -> float:
        """``tr Sigma_W / tr Sigma_B``, whatever the scale of the features."""
        within, between = self._scaled(_sums.unit(self.centered_means))
        return within / between

    def _scaled(self, size: float) -> tuple[float, float]:
        """Both traces in units of ``size²``."""
        _, between, within = class_weights(self.weighting, self.counts)
        means, spread = self.centered_means / size, self.spread / size
        return float(within @ spread.square()), float(between @ means.square().sum(1))

    @cached_property
    def within_pinv_trace(self) -> float:
        """``tr(Sigma_W Sigma_B^+)``."""
        return float(class_weights(self.weighting, self.counts)[2] @ self.within_pinv)

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
        classes=None,
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
            classes: labels of the classes to measure, or ``"seen"`` for those that have a sample;
                samples and rows of the classifier of other classes are left out. By default all.

        Raises:
            ValueError: wrong shapes or dtypes, NaN or infinity, a label out of range, a class
                without samples, fewer than two samples or classes, equal class means, a bias
                without a weight, or an unknown ``weighting``.
        """
        features, labels = torch.as_tensor(features), torch.as_tensor(labels)
        _sums.check_batch(features, labels)
        if len(features) < 2:
            raise ValueError(f"need at least 2 samples, got features {tuple(features.shape)}")
        if num_classes is None and weight is not None:
            num_classes = len(_sums.check_matrix("weight", weight))
        _sums.check_labels(labels, num_classes)
        if isinstance(classes, str):
            _check_seen(classes)
            classes = labels.unique()
        if classes is None:  # before a table is made for a stray label
            num_classes = int(labels.max()) + 1 if num_classes is None else num_classes
            if num_classes > len(labels):
                raise ValueError(
                    f"{len(labels)} samples cannot show all of {num_classes} classes: is a label "
                    f"stray (the largest is {int(labels.max())}), or are classes= needed?"
                )
        return cls.from_batches(
            lambda: ((features, labels),),
            num_classes,
            weighting=weighting,
            weight=weight,
            bias=bias,
            classes=classes,
        )

    @classmethod
    def from_batches(
        cls,
        batches: Batches,
        num_classes: int | None = None,
        *,
        weighting: str = "class",
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        classes=None,
    ) -> ClassStats:
        """Statistics of features that arrive in batches.

        Args:
            batches: ``(features (B, d), labels (B,))`` in anything that can be walked twice (a
                list, a ``DataLoader``), or a function that is called once for each of the two
                passes and gives something to walk. Both passes must see the same samples, in any
                order and any split; a batch may reuse the memory of the one before.
            num_classes: C; by default the rows of ``weight``.
            weighting, weight, bias, classes: as in :meth:`from_features`.

        Raises:
            ValueError: as in :meth:`from_features`; an iterator, which can be walked only once; or
                the two passes saw different samples.
        """
        from .first import ClassMeans
        from .second import ClassScatter

        if weighting not in WEIGHTINGS:
            raise ValueError(f"weighting must be one of {WEIGHTINGS}, got {weighting!r}")
        if bias is not None and weight is None:
            raise ValueError("a bias was given without a weight")
        if num_classes is None and weight is not None:
            num_classes = len(_sums.check_matrix("weight", weight))
        seen = isinstance(classes, str)
        if seen:
            _check_seen(classes)
        first = ClassMeans(num_classes, None if seen else classes)
        for features, labels in walk(batches):
            first.update(features, labels)
        if seen:
            first = first.seen()
        second = ClassScatter(first, weighting=weighting, weight=weight, bias=bias)
        for features, labels in walk(batches):
            second.update(features, labels)
        return second.compute()


def walk(batches: Batches) -> Iterator:
    """One pass over batches.

    Raises:
        ValueError: an iterator, which can be walked only once.
    """
    if callable(batches) and not hasattr(batches, "__iter__"):
        return iter(batches())
    found = iter(batches)
    if found is batches:
        raise ValueError(
            "an iterator can be walked only once, and two passes are needed: give a list, a "
            "DataLoader, or a function that makes the iterator"
        )
    return found


def _check_seen(classes: str) -> None:
    if classes != "seen":
        raise ValueError(f'classes must be labels or "seen", got {classes!r}')


def class_weights(weighting: str, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Class weights, each ``(C,)`` with sum one, of mu_G, of Sigma_B and of Sigma_W."""
    samples = counts.double() / counts.sum()
    classes = torch.full_like(samples, 1 / len(counts))
    mean = samples if weighting in ("sample", "mixed") else classes
    between = samples if weighting == "sample" else classes
    return mean, between, classes if weighting == "class" else samples


def between_space(centered: Tensor, weights: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values ``(r,)``, ascending, and row basis ``(d, r)`` of the between-class space.

    Args:
        centered: ``(C, d)`` means minus mu_G, ``weights`` ``(C,)`` those of Sigma_B.
        means: ``(C, d)``, which say what rounding is. All three in a unit in which squares are
            safe.
    """
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
