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
collapse in transfer learning". For regression (NRC1 to NRC3, at the end): Andriopoulos et al.
(2024), "The prevalence of neural collapse in neural multivariate regression".
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from .geometry import etf_gram
from .stats import Batches, ClassStats, check_matrix

__all__ = [
    "NCReport",
    "NRC3Fit",
    "NRCReport",
    "cdnv",
    "covariance_root",
    "explained_variance",
    "measure",
    "measure_batches",
    "measure_regression",
    "nc1",
    "nc1_ratio",
    "nc2_angles",
    "nc2_etf",
    "nc2_norms",
    "nc3",
    "nc4",
    "nc4_bias",
    "nrc1",
    "nrc2",
    "nrc3",
    "nrc3_fit",
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


# --- regression: NRC1, NRC2, NRC3 ----------------------------------------------------------------
#
# Features (..., N, d), targets (N, n) or (..., N, n), weights (..., n, d): leading axes are batches
# and come back as the shape of the result. Everything is computed in float64. A problem of a batch
# whose measure has no value gives NaN there; a single problem raises ValueError.


def covariance_root(targets: Tensor) -> Tensor:
    """Symmetric square root of the targets' covariance, ``Sigma^{1/2}``, in float64.

    ``Sigma = (Y - mean)ᵀ (Y - mean) / N``: centered over samples, divided by N (not N - 1), and the
    root is the symmetric one, not a Cholesky factor. NRC3 is wrong with any of the three changed.

    Args:
        targets: ``(..., N, n)``.

    Returns:
        ``(..., n, n)``.

    Raises:
        ValueError: not a matrix, fewer than two samples, or not finite.
    """
    targets = _regression("targets", targets)
    centered = targets - targets.mean(-2, keepdim=True)
    values, vectors = torch.linalg.eigh(centered.mT @ centered / targets.shape[-2])
    return (vectors * values.clamp(min=0).sqrt().unsqueeze(-2)) @ vectors.mT


def explained_variance(features: Tensor, k: int | None = None) -> Tensor:
    """Shares of the variance along the first ``k`` principal components, largest first.

    Args:
        features: ``(..., N, d)``.
        k: by default all ``d``.

    Returns:
        ``(..., k)``.

    Raises:
        ValueError: a bad shape, not finite, ``k`` outside ``[1, d]``, or constant features.
    """
    features = _regression("features", features)
    if k is not None and not 1 <= k <= features.shape[-1]:
        raise ValueError(f"k must be in [1, {features.shape[-1]}], got {k}")
    values, _ = _principal(features)
    return (values / values.sum(-1, keepdim=True))[..., :k]


def nrc1(features: Tensor, num_targets: int, *, centered: bool = False) -> Tensor:
    """Share of the normalized features outside their first ``n`` principal directions.

    Mean over samples of ``‖h̃ - P h̃‖²`` with ``h̃ = h / ‖h‖``, in ``[0, 1]``. The directions are
    those of the centered features, but ``h̃`` itself is **not** centered: a constant offset of all
    features counts. With ``centered`` it does not: ``h`` is then ``h - mean``.

    Args:
        features: ``(..., N, d)``; a feature that is zero counts as lying inside.
        num_targets: n.
        centered: whether to subtract the mean before normalizing; the paper does not.

    Raises:
        ValueError: a bad shape, not finite, n outside ``[1, d]``, or constant features.

    Source: Andriopoulos et al. (2024), NRC1. Cost O(N d² + d³) a problem.
    """
    features = _regression("features", features)
    _check_targets(num_targets, features)
    return _nrc1(features, _principal(features), num_targets, centered)


def nrc2(features: Tensor, weight: Tensor, *, centered: bool = False) -> Tensor:
    """Share of the normalized features outside the row space of the last layer.

    Args:
        features: ``(..., N, d)``.
        weight: ``(..., n, d)``. Its row space is cut at the resolution of its dtype, so that a
            direction that weight decay has switched off does not count.
        centered: as in :func:`nrc1`.

    Raises:
        ValueError: shapes that do not fit, not finite, or a weight that is zero.

    Source: Andriopoulos et al. (2024), NRC2.
    """
    resolution = torch.finfo(torch.as_tensor(weight).dtype).eps
    features, weight = _regression("features", features), _regression("weight", weight, rows=1)
    _same_dim(features, weight)
    _, s, rows = torch.linalg.svd(weight, full_matrices=False)
    zero = s[..., 0] == 0
    if features.dim() == 2 and bool(zero.any()):
        raise ValueError("the weight is zero: it has no row space")
    kept = s > resolution * weight.shape[-1] * s[..., :1]
    outside = _outside(features, (rows * kept.unsqueeze(-1)).mT, centered)
    return torch.where(zero, torch.nan, outside)


def nrc3(weight: Tensor, root: Tensor, gamma: float | Tensor) -> Tensor:
    """Distance between the directions of ``W Wᵀ`` and ``Sigma^{1/2} - sqrt(gamma) I``.

    ``‖W Wᵀ/‖W Wᵀ‖_F - A/‖A‖_F‖_F²`` with ``A = Sigma^{1/2} - sqrt(gamma) I``, in ``[0, 4]``. For
    n = 1 it is trivially 0.

    Args:
        weight: ``(..., n, d)``.
        root: ``(..., n, n)``, from :func:`covariance_root`.
        gamma: not negative; a number or a tensor of the batch's shape.

    Raises:
        ValueError: shapes that do not fit, not finite, a zero weight, or a negative gamma.

    Source: Andriopoulos et al. (2024), NRC3.
    """
    gram, root = _grams(weight, root)
    gamma = torch.as_tensor(gamma, dtype=root.dtype, device=root.device)
    if not (gamma >= 0).all():
        raise ValueError(f"gamma must not be negative, got {gamma}")
    return _mismatch(gram, root, gamma.sqrt())


@dataclass(frozen=True)
class NRC3Fit:
    """Best gamma in ``[0, lambda_min]`` of :func:`nrc3_fit`; tensors of the batch's shape.

    Attributes:
        value: NRC3 at the best gamma.
        gamma: that gamma.
        ratio: ``gamma / lambda_min``.
        inside: True where the optimum lies inside the interval. At its upper end
            ``Sigma^{1/2} - sqrt(gamma) I`` has lost a dimension, and NRC3 is blind to a ``W`` that
            has lost it too.
    """

    value: Tensor
    gamma: Tensor
    ratio: Tensor
    inside: Tensor


def nrc3_fit(weight: Tensor, root: Tensor) -> NRC3Fit:
    """The gamma in ``[0, lambda_min(Sigma)]`` that minimizes :func:`nrc3`, in closed form.

    With ``G = W Wᵀ``, ``R = Sigma^{1/2}``, ``t = tr R``, ``a = tr Sigma`` the only stationary point
    is ``sqrt(gamma) = (t tr(GR) - a tr G) / (n tr(GR) - t tr G)``. It is the minimum if the
    denominator is positive; otherwise, or if it lies outside, the minimum is at an end. (The paper
    scans 1000 values.)

    Args:
        weight: ``(..., n, d)``.
        root: ``(..., n, n)``, from :func:`covariance_root`.

    Raises:
        ValueError: as :func:`nrc3`.
    """
    gram, root = _grams(weight, root)
    n = root.shape[-1]
    t, a, g0 = _trace(root), root.square().sum((-2, -1)), _trace(gram)
    g1 = (gram * root).sum((-2, -1))
    top, bottom = t * g1 - a * g0, n * g1 - t * g0
    end = torch.linalg.eigvalsh(root)[..., 0].clamp(min=0).expand(bottom.shape)
    flat = bottom <= 1e-12 * (n * g1).abs()
    stationary = torch.where(flat, 0.0, top / torch.where(flat, 1.0, bottom))
    candidates = torch.stack([stationary.clamp(min=0).minimum(end), torch.zeros_like(end), end])
    values = torch.stack([_mismatch(gram, root, s) for s in candidates])
    values = values.where(values == values, torch.inf)  # the upper end of a multiple of I
    value, best = values.min(0)
    value = torch.where(value.isinf(), torch.nan, value)
    s = candidates.gather(0, best[None])[0]
    inside = (best == 0) & (s == stationary) & (s > 0) & (s < end)
    return NRC3Fit(value, s.square(), (s / end).square(), inside)


@dataclass(frozen=True)
class NRCReport:
    """Regression collapse of one or many networks; tensors of the batch's shape.

    Read ``r2`` and ``feature_norm`` first: where the network has not learned the targets, or weight
    decay has switched it off, the other numbers are noise of any size.

    Attributes:
        nrc1, nrc1_centered: see :func:`nrc1`.
        nrc2, nrc2_centered: see :func:`nrc2`; NaN for a zero weight.
        nrc3: at its best gamma, see :func:`nrc3_fit`; NaN for a zero weight.
        gamma_ratio: that gamma over the smallest eigenvalue of Sigma.
        gamma_inside: whether it lies inside its interval.
        evr: ``(..., k)``, see :func:`explained_variance`.
        rank: number of principal components with more than 0.1 % of the variance; 0 for constant
            features.
        mse: mean over samples and components.
        r2: ``1 - SS_res / SS_tot``, over all components together.
        feature_norm: root of the mean ``‖h‖²``.
        weight_norm: ``‖W‖_F``.
    """

    nrc1: Tensor
    nrc1_centered: Tensor
    nrc2: Tensor
    nrc2_centered: Tensor
    nrc3: Tensor
    gamma_ratio: Tensor
    gamma_inside: Tensor
    evr: Tensor
    rank: Tensor
    mse: Tensor
    r2: Tensor
    feature_norm: Tensor
    weight_norm: Tensor


def measure_regression(
    features: Tensor, targets: Tensor, weight: Tensor, bias: Tensor | None = None, *, k: int = 5
) -> NRCReport:
    """Measure the regression collapse of one network or of a batch of them.

    Args:
        features: ``(..., N, d)``, the input of the last linear layer.
        targets: ``(N, n)`` or ``(..., N, n)``.
        weight: ``(..., n, d)``.
        bias: ``(..., n)``; by default zero.
        k: explained-variance ratios to report, at most d.

    Raises:
        ValueError: shapes that do not fit, or not finite.
    """
    given = torch.as_tensor(weight).detach()  # its dtype decides which directions are switched off
    features, weight = _regression("features", features), _regression("weight", weight, rows=1)
    targets = _regression("targets", targets)
    _same_dim(features, weight)
    if targets.shape[-2:] != (features.shape[-2], weight.shape[-2]):
        raise ValueError(
            f"targets are {tuple(targets.shape)}, features {tuple(features.shape)}, weight "
            f"{tuple(weight.shape)}: expected targets (..., N, n)"
        )
    output = features @ weight.mT
    if bias is not None:
        output = output + torch.as_tensor(bias).detach().to(output).unsqueeze(-2)
    mse = (output - targets).square().mean((-2, -1))
    spread = (targets - targets.mean(-2, keepdim=True)).square().mean((-2, -1))
    root = covariance_root(targets)
    batch = features.dim() > 2
    f, w, given = (x if batch else x[None] for x in (features, weight, given))
    n = weight.shape[-2]
    _check_targets(n, f)
    principal, fit = _principal(f), nrc3_fit(w, root)
    share = principal[0] / principal[0].sum(-1, keepdim=True)
    report = {
        "nrc1": _nrc1(f, principal, n, centered=False),
        "nrc1_centered": _nrc1(f, principal, n, centered=True),
        "nrc2": nrc2(f, given),
        "nrc2_centered": nrc2(f, given, centered=True),
        "nrc3": fit.value,
        "gamma_ratio": fit.ratio,
        "gamma_inside": fit.inside,
        "evr": share[..., : min(k, features.shape[-1])],
        "rank": (share > 1e-3).sum(-1),
        "mse": mse,
        "r2": 1 - mse / spread,
        "feature_norm": f.square().sum(-1).mean(-1).sqrt(),
        "weight_norm": w.square().sum((-2, -1)).sqrt(),
    }
    if not batch:
        report = {k: v if k in ("mse", "r2") else v[0] for k, v in report.items()}
    return NRCReport(**report)


def _regression(name: str, x: Tensor, rows: int = 2) -> Tensor:
    """``x`` as float64 without a gradient, checked."""
    x = torch.as_tensor(x).detach()
    if x.dim() < 2 or x.shape[-2] < rows or x.shape[-1] < 1:
        raise ValueError(f"{name} must be (..., N, k) with N >= {rows}, got {tuple(x.shape)}")
    x = x.double()
    if not x.isfinite().all():
        raise ValueError(f"{name} of shape {tuple(x.shape)} hold a NaN or an infinite value")
    return x


def _same_dim(features: Tensor, weight: Tensor) -> None:
    if features.shape[-1] != weight.shape[-1] or features.shape[:-2] != weight.shape[:-2]:
        raise ValueError(
            f"features are {tuple(features.shape)}, but weight is {tuple(weight.shape)}"
        )


def _principal(features: Tensor) -> tuple[Tensor, Tensor]:
    """Variances ``(..., d)``, largest first, and directions ``(..., d, d)``, one a column.

    The variances of constant features are NaN (in a batch) or an error.
    """
    centered = features - features.mean(-2, keepdim=True)
    values, vectors = torch.linalg.eigh(centered.mT @ centered / features.shape[-2])
    values, vectors = values.flip(-1).clamp(min=0), vectors.flip(-1)
    size = features.square().sum(-1).mean(-1)
    constant = values.sum(-1) <= 1e-20 * size
    if features.dim() == 2 and bool(constant):
        raise ValueError(f"the features of shape {tuple(features.shape)} are constant")
    return torch.where(constant.unsqueeze(-1), torch.nan, values), vectors


def _check_targets(n: int, features: Tensor) -> None:
    if not 1 <= n <= features.shape[-1]:
        raise ValueError(f"num_targets must be in [1, d={features.shape[-1]}], got {n}")


def _nrc1(features: Tensor, principal: tuple[Tensor, Tensor], n: int, centered: bool) -> Tensor:
    """:func:`nrc1` from the result of :func:`_principal`; NaN for constant features of a batch."""
    values, vectors = principal
    outside = _outside(features, vectors[..., :n], centered)
    return torch.where(values.isnan().any(-1), torch.nan, outside)


def _outside(features: Tensor, basis: Tensor, centered: bool) -> Tensor:
    """Mean of ``‖h̃ - B Bᵀ h̃‖²`` for a basis of orthonormal (or zero) columns."""
    if centered:
        features = features - features.mean(-2, keepdim=True)
    unit = features / torch.linalg.vector_norm(features, dim=-1, keepdim=True).clamp(min=1e-300)
    return (unit - (unit @ basis) @ basis.mT).square().sum(-1).mean(-1)


def _grams(weight: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    weight = _regression("weight", weight, rows=1)
    root = torch.as_tensor(root).detach().double()
    n = weight.shape[-2]
    if root.dim() < 2 or root.shape[-2:] != (n, n):
        raise ValueError(f"root must be (..., {n}, {n}), got {tuple(root.shape)}")
    gram = weight @ weight.mT
    if gram.dim() == 2 and not gram.any():
        raise ValueError("the weight is zero: W Wᵀ has no direction")
    return gram, root.to(gram.device)


def _mismatch(gram: Tensor, root: Tensor, s: Tensor) -> Tensor:
    """NRC3 at ``sqrt(gamma) = s``; NaN where one of the two matrices is zero."""
    eye = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device)
    target = root - s[..., None, None] * eye
    unit = [m / torch.linalg.matrix_norm(m, keepdim=True) for m in (gram, target)]
    return (unit[0] - unit[1]).square().sum((-2, -1))


def _trace(m: Tensor) -> Tensor:
    return m.diagonal(dim1=-2, dim2=-1).sum(-1)
