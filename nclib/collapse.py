"""Measures of neural collapse: NC1 to NC4 with their variants, and one report of all of them.

The measures of samples (NC1, CDNV, NC4) take a :class:`nclib.stats.ClassStats`, those of class
means or of classifiers (NC2, NC3) take matrices. :func:`measure` and :func:`measure_batches` do it
all. Every measure is zero at collapse and, unless it says otherwise, has no unit: it keeps its
value when features or classifier are scaled.

Notation: C classes, class means ``mu_c``, global mean ``mu_G``, ``M`` the rows ``mu_c - mu_G``,
``W`` and ``b`` of the linear classifier, ``Sigma_W`` and ``Sigma_B`` the within- and between-class
covariance, ``E = (I - 11ᵀ/C) / sqrt(C - 1)``. :data:`nclib.stats.WEIGHTINGS` says what averages are
over when classes have unequal counts.

Sources: Papyan, Han & Donoho (2020), "Prevalence of neural collapse during the terminal phase of
deep learning training"; Zhu et al. (2021), "A geometric analysis of neural collapse with
unconstrained features", and its code; Galanti, György & Hutter (2022), "On the role of neural
collapse in transfer learning".
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from .frames import etf_gram
from .stats import Batches, ClassStats, check_matrix

__all__ = [
    "NCReport",
    "cdnv",
    "measure",
    "measure_batches",
    "nc1",
    "nc1_ratio",
    "nc2_angles",
    "nc2_etf",
    "nc2_norms",
    "nc3",
    "nc4",
    "nc4_bias",
]


def nc1(stats: ClassStats) -> float:
    """Within-class variability against the between-class one: ``tr(Sigma_W Sigma_B^+) / C``.

    Exactly zero if every sample equals its class mean, and never negative.

    Source: Papyan, Han & Donoho (2020), Figure 6; Zhu et al. (2021), NC1.
    """
    return stats.within_pinv_trace / stats.num_classes


def nc1_ratio(stats: ClassStats) -> float:
    """``tr Sigma_W / tr Sigma_B``: like :func:`nc1`, but dominated by the widest directions.

    Source: a common variant, without the inverse that makes :func:`nc1` look at every direction.
    """
    return stats.within_trace / stats.between_trace


def cdnv(stats: ClassStats) -> float:
    """Class-distance normalized variance, mean over pairs of classes.

    ``V_ij = (v_i + v_j) / (2 ‖mu_i - mu_j‖²)`` with ``v_c`` the mean squared distance of class c's
    samples to ``mu_c``. Infinite where two class means coincide and their samples do not; two means
    closer than about ``1e-7`` of their distance from ``mu_G`` count as one. Every pair counts once,
    in every ``weighting``.

    Source: Galanti, György & Hutter (2022).
    """
    means = stats.centered_means
    squares = means.square().sum(1)
    scale = squares[:, None] + squares
    distances = scale - 2 * (means @ means.T)
    variances = stats.within[:, None] + stats.within
    distances = torch.where(distances > 1e-14 * scale, distances, 0.0)
    values = torch.where(variances > 0, variances / (2 * distances), 0.0)
    C = stats.num_classes
    return float(values.triu(1).sum() / (C * (C - 1) / 2))


def nc2_etf(vectors: Tensor) -> float:
    """Distance of a Gram matrix from that of a simplex ETF: ``‖V Vᵀ / ‖V Vᵀ‖_F - E‖_F``.

    Args:
        vectors: ``(C, d)``, the rows of ``W``, or of ``M`` (that is, centered class means).

    Returns:
        A number in ``[0, 2]``.

    Raises:
        ValueError: not a ``(C, d)`` matrix with ``C >= 2``, not finite, or zero.

    Source: Zhu et al. (2021), NC2, there of the classifier.
    """
    vectors = _vectors("vectors", vectors)
    gram = vectors @ vectors.T
    return _norm(gram / _norm(gram) - _etf(vectors))


def nc2_norms(vectors: Tensor) -> float:
    """Coefficient of variation of the norms: ``std_c ‖v_c‖ / mean_c ‖v_c‖``.

    The standard deviation is that of a population (divided by C).

    Args:
        vectors: as in :func:`nc2_etf`.

    Source: Papyan, Han & Donoho (2020), Figure 2 ("equinorm").
    """
    norms = _vectors("vectors", vectors).norm(dim=1)
    return float(norms.std(correction=0) / norms.mean())


def nc2_angles(vectors: Tensor) -> float:
    """Mean distance of the cosines from those of a simplex ETF.

    ``mean over i≠j of |cos(v_i, v_j) + 1/(C-1)|``, each deviation without its sign: with signs they
    cancel, as any centered vectors of equal norm have cosines of mean ``-1/(C-1)``.

    Args:
        vectors: as in :func:`nc2_etf`; no row may be zero.

    Source: Papyan, Han & Donoho (2020), Figure 4 ("maximal-angle equiangularity").
    """
    vectors = _vectors("vectors", vectors)
    norms = vectors.norm(dim=1, keepdim=True)
    if not norms.all():
        raise ValueError(f"row {int(norms.argmin())} of the vectors is zero: it has no angle")
    C = len(vectors)
    cosines = (vectors / norms) @ (vectors / norms).T
    return float((cosines + 1 / (C - 1)).abs().fill_diagonal_(0).sum() / (C * (C - 1)))


def nc3(*, means: Tensor, weight: Tensor, form: str = "frobenius") -> float:
    """Distance between classifier and class means (self-duality).

    Args:
        means: ``(C, d)``, **centered** class means ``M``.
        weight: ``(C, d)``, ``W``.
        form: ``"frobenius"`` is ``‖W/‖W‖_F - M/‖M‖_F‖_F`` of Papyan, Han & Donoho (2020),
            Figure 5, where it is squared in places; ``"product"`` is
            ``‖W Mᵀ / ‖W Mᵀ‖_F - E‖_F`` of Zhu et al. (2021), which also needs NC2 to be zero.

    Returns:
        A number in ``[0, 2]``.

    Raises:
        ValueError: shapes that differ or are not ``(C, d)``, not finite, zero, or unknown ``form``.
    """
    means, weight = _vectors("means", means), _vectors("weight", weight)
    if means.shape != weight.shape:
        raise ValueError(f"means are {tuple(means.shape)}, but weight is {tuple(weight.shape)}")
    if form == "frobenius":
        return _norm(weight / _norm(weight) - means / _norm(means))
    if form == "product":
        product = weight @ means.T
        size = _norm(product)
        if size == 0:
            raise ValueError("weight and means are orthogonal: W Mᵀ is zero")
        return _norm(product / size - _etf(means))
    raise ValueError(f"form must be 'frobenius' or 'product', got {form!r}")


def nc4(stats: ClassStats) -> float:
    """Fraction of samples on which the nearest class center and the linear classifier disagree.

    The linear rule is ``argmax_c (W h + b)_c``, with the bias.

    Args:
        stats: made with ``weight`` and, if the classifier has one, ``bias``.

    Raises:
        ValueError: the statistics were made without a ``weight``.

    Source: Papyan, Han & Donoho (2020), Figure 7.
    """
    if stats.disagreements is None:
        raise ValueError("nc4 compares decisions: make the statistics with weight= (and bias=)")
    return stats.disagreements / stats.num_samples


def nc4_bias(*, weight: Tensor, bias: Tensor | None, mean: Tensor) -> float:
    """``‖b + W mu_G‖₂``: whether the bias takes the global mean out of the logits.

    It has the unit of a logit: it is not invariant to the scale of features or classifier.

    Args:
        weight: ``(C, d)``.
        bias: ``(C,)``; None is zero.
        mean: ``(d,)``, mu_G.

    Raises:
        ValueError: shapes that do not fit, or not finite.

    Source: the NC4 of Zhu et al. (2021), which is not that of Papyan, Han & Donoho (2020).
    """
    weight = check_matrix("weight", weight)
    shift = weight @ check_matrix("mean", mean, weight.shape[1:]).to(weight.device)
    if bias is not None:
        shift = shift + check_matrix("bias", bias, weight.shape[:1]).to(weight.device)
    return _norm(shift)


@dataclass(frozen=True)
class NCReport:
    """All measures of one set of features; those of a classifier are None without one.

    Attributes:
        nc1: ``tr(Sigma_W Sigma_B^+) / C``, see :func:`nc1`.
        nc1_ratio: ``tr Sigma_W / tr Sigma_B``, see :func:`nc1_ratio`.
        cdnv: mean over pairs of ``(v_i + v_j) / (2 ‖mu_i - mu_j‖²)``, see :func:`cdnv`.
        nc2_etf: ``‖M Mᵀ / ‖M Mᵀ‖_F - E‖_F`` of the centered class means, see :func:`nc2_etf`.
        nc2_norms: ``std_c / mean_c`` of ``‖mu_c - mu_G‖``, see :func:`nc2_norms`.
        nc2_angles: mean ``|cos + 1/(C-1)|`` of the centered class means, see :func:`nc2_angles`;
            NaN if one of them is zero.
        nc2_etf_weight: as ``nc2_etf``, of the rows of ``W``; this is the NC2 of Zhu et al. (2021).
        nc2_norms_weight: as ``nc2_norms``, of the rows of ``W``.
        nc2_angles_weight: as ``nc2_angles``, of the rows of ``W``.
        nc3: ``‖W/‖W‖_F - M/‖M‖_F‖_F``, see :func:`nc3`.
        nc3_product: ``‖W Mᵀ / ‖W Mᵀ‖_F - E‖_F``, see :func:`nc3`; NaN if ``W Mᵀ`` is zero.
        nc4: fraction of samples on which nearest class center and classifier differ, see
            :func:`nc4`.
        nc4_bias: ``‖b + W mu_G‖₂``, in the unit of a logit, see :func:`nc4_bias`.
        center_accuracy: fraction of samples nearest to the center of their own class.
        linear_accuracy: fraction of samples that the classifier gives their own label.
        rank: of ``Sigma_B``; C - 1 in general position, less if ``d < C - 1`` or the means depend.
        num_samples: N.
        num_classes: C.
        dim: d.
        weighting: the convention for averages, see :data:`nclib.stats.WEIGHTINGS`.

    A classifier whose weight is zero has no direction: its NC2 and NC3 are NaN.
    """

    nc1: float
    nc1_ratio: float
    cdnv: float
    nc2_etf: float
    nc2_norms: float
    nc2_angles: float
    nc2_etf_weight: float | None
    nc2_norms_weight: float | None
    nc2_angles_weight: float | None
    nc3: float | None
    nc3_product: float | None
    nc4: float | None
    nc4_bias: float | None
    center_accuracy: float | None
    linear_accuracy: float | None
    rank: int
    num_samples: int
    num_classes: int
    dim: int
    weighting: str

    def to_dict(self) -> dict[str, float | int | str | None]:
        """The fields by name, ready for JSON or a data frame."""
        return asdict(self)


def measure(
    features: Tensor,
    labels: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    num_classes: int | None = None,
    weighting: str = "class",
) -> NCReport:
    """Measure the collapse of features in memory and, if given, of a classifier on them.

    Args:
        features: ``(N, d)`` of any float dtype, the input of the classifier.
        labels: ``(N,)`` integers in ``[0, C)``.
        weight: ``(C, d)``.
        bias: ``(C,)``; by default zero.
        num_classes: C; by default the rows of ``weight``, else the largest label plus one.
        weighting: ``"class"``, ``"sample"`` or ``"mixed"``, see :data:`nclib.stats.WEIGHTINGS`.

    Raises:
        ValueError: see :meth:`nclib.stats.ClassStats.from_features`.
    """
    if num_classes is None and weight is not None:
        num_classes = len(weight)
    stats = ClassStats.from_features(
        features, labels, num_classes, weighting=weighting, weight=weight, bias=bias
    )
    return _report(stats, weight, bias)


def measure_batches(
    batches: Batches,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    num_classes: int | None = None,
    weighting: str = "class",
) -> NCReport:
    """The same as :func:`measure`, of features that arrive in batches.

    Args:
        batches: called once for each of two passes, see
            :meth:`nclib.stats.ClassStats.from_batches`.
        weight, bias, weighting: as in :func:`measure`.
        num_classes: C; by default the rows of ``weight``. One of the two is needed.

    Raises:
        ValueError: see :meth:`nclib.stats.ClassStats.from_batches`.
    """
    if num_classes is None:
        if weight is None:
            raise ValueError("measure_batches needs num_classes or weight")
        num_classes = len(weight)
    stats = ClassStats.from_batches(
        batches, num_classes, weighting=weighting, weight=weight, bias=bias
    )
    return _report(stats, weight, bias)


def _report(stats: ClassStats, weight: Tensor | None, bias: Tensor | None) -> NCReport:
    means = stats.centered_means
    of_weight = dict.fromkeys(
        ("nc2_etf_weight", "nc2_norms_weight", "nc2_angles_weight", "nc3", "nc3_product", "nc4",
         "nc4_bias", "center_accuracy", "linear_accuracy")
    )
    if weight is not None:
        weight = torch.as_tensor(weight).detach().to(stats.means.device)
        of_weight = {
            "nc2_etf_weight": _or_nan(nc2_etf, weight),
            "nc2_norms_weight": _or_nan(nc2_norms, weight),
            "nc2_angles_weight": _or_nan(nc2_angles, weight),
            "nc3": _or_nan(nc3, means=means, weight=weight),
            "nc3_product": _or_nan(nc3, means=means, weight=weight, form="product"),
            "nc4": nc4(stats),
            "nc4_bias": nc4_bias(weight=weight, bias=bias, mean=stats.global_mean),
            "center_accuracy": stats.center_hits / stats.num_samples,
            "linear_accuracy": stats.linear_hits / stats.num_samples,
        }
    return NCReport(
        nc1=nc1(stats),
        nc1_ratio=nc1_ratio(stats),
        cdnv=cdnv(stats),
        nc2_etf=nc2_etf(means),
        nc2_norms=nc2_norms(means),
        nc2_angles=_or_nan(nc2_angles, means),
        **of_weight,
        rank=stats.rank,
        num_samples=stats.num_samples,
        num_classes=stats.num_classes,
        dim=stats.dim,
        weighting=stats.weighting,
    )


def _or_nan(function, *args, **kwargs) -> float:
    """NaN where a measure has no value. What a caller gets wrong was found before."""
    try:
        return function(*args, **kwargs)
    except ValueError:
        return float("nan")


def _vectors(name: str, vectors: Tensor) -> Tensor:
    vectors = check_matrix(name, vectors)
    if len(vectors) < 2:
        raise ValueError(f"{name} must be (C, d) with C >= 2, got {tuple(vectors.shape)}")
    if not vectors.any():
        raise ValueError(f"{name} are zero")
    return vectors


def _etf(vectors: Tensor) -> Tensor:
    return etf_gram(len(vectors), dtype=vectors.dtype, device=vectors.device)


def _norm(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x))
