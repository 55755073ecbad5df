"""One report of all measures."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ..stats import Batches, ClassStats, check_matrix
from .measures import (
    cdnv,
    nc1,
    nc1_ratio,
    nc2_angles,
    nc2_etf,
    nc2_norms,
    nc3,
    nc4,
    nc4_bias,
    uniformity,
)

__all__ = ["NCReport", "measure", "measure_batches", "report"]


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
        uniformity: mean over pairs of ``log(e / ‖u_i - u_j‖)`` of the directions of the centered
            class means, ``e`` the distance in a simplex ETF, see :func:`uniformity`; NaN if one of
            the means is zero.
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
    uniformity: float
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
    classes=None,
) -> NCReport:
    """Measure the collapse of features in memory and, if given, of a classifier on them.

    Args:
        features: ``(N, d)`` of any float dtype, the input of the classifier.
        labels: ``(N,)`` integers in ``[0, C)``.
        weight: ``(C, d)``.
        bias: ``(C,)``; by default zero.
        num_classes: C; by default the rows of ``weight``, else the largest label plus one.
        weighting: ``"class"``, ``"sample"``, ``"mixed"`` or ``"papyan"``, see
            :data:`nclib.stats.WEIGHTINGS`.
        classes: labels of the classes to measure, or ``"seen"`` for those that have a sample.
            Samples and rows of the classifier of other classes are left out, of the decisions too.
            By default all C, each of which then needs a sample.

    Raises:
        ValueError: see :meth:`nclib.stats.ClassStats.from_features`.
    """
    stats = ClassStats.from_features(
        features, labels, num_classes, weighting=weighting, weight=weight, bias=bias,
        classes=classes,
    )
    return report(stats, weight, bias)


def measure_batches(
    batches: Batches,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    num_classes: int | None = None,
    weighting: str = "class",
    classes=None,
) -> NCReport:
    """The same as :func:`measure`, of features that arrive in batches.

    Args:
        batches: anything that can be walked twice (a list, a ``DataLoader``), or a function that
            is called once for each of two passes, see
            :meth:`nclib.stats.ClassStats.from_batches`.
        weight, bias, weighting, classes: as in :func:`measure`.
        num_classes: C; by default the rows of ``weight``. One of the two is needed.

    Raises:
        ValueError: see :meth:`nclib.stats.ClassStats.from_batches`.
    """
    stats = ClassStats.from_batches(
        batches, num_classes, weighting=weighting, weight=weight, bias=bias, classes=classes
    )
    return report(stats, weight, bias)


def report(
    stats: ClassStats, weight: Tensor | None = None, bias: Tensor | None = None
) -> NCReport:
    """All measures of statistics that were made with that ``weight`` and ``bias``.

    Args:
        stats: made with the same classifier, e.g. by :meth:`nclib.stats.ClassScatter.compute`.
        weight: ``(C, d)``, all rows of the head. ``bias``: ``(C,)``.

    Raises:
        ValueError: a weight whose decisions the statistics do not hold.
    """
    means = stats.centered_means
    of_weight = dict.fromkeys(
        ("nc2_etf_weight", "nc2_norms_weight", "nc2_angles_weight", "nc3", "nc3_product", "nc4",
         "nc4_bias", "center_accuracy", "linear_accuracy")
    )
    if weight is not None:
        weight = check_matrix("weight", weight).to(means.device)
        bias = None if bias is None else torch.as_tensor(bias).detach().to(means.device)
        if stats.classes is not None:
            kept = stats.classes.to(means.device)
            weight, bias = weight[kept], None if bias is None else bias[kept]
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
        uniformity=_or_nan(uniformity, means),
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
