"""The measures, one function each."""

from __future__ import annotations

import torch
from torch import Tensor

from ..stats import ClassStats, check_matrix, unit

__all__ = [
    "cdnv",
    "cdnv_pairs",
    "nc1",
    "nc1_ratio",
    "nc2_angles",
    "nc2_etf",
    "nc2_norms",
    "nc3",
    "nc4",
    "nc4_bias",
    "nc5",
    "uniformity",
]

F64 = torch.float64


def nc1(stats: ClassStats) -> float:
    """Within-class variability against the between-class one: ``tr(Sigma_W Sigma_B^+) / C``.

    Exactly zero if every sample equals its class mean, and never negative.

    Args:
        stats: of any features.

    Source: Papyan, Han & Donoho (2020), Figure 6; Zhu et al. (2021), NC1.
    """
    return stats.within_pinv_trace / stats.num_classes


def nc1_ratio(stats: ClassStats) -> float:
    """``tr Sigma_W / tr Sigma_B``: like :func:`nc1`, but dominated by the widest directions.

    Args:
        stats: of any features.

    Source: a common variant, without the inverse that makes :func:`nc1` look at every direction.
    """
    return stats.trace_ratio


def cdnv(stats: ClassStats) -> float:
    """Class-distance normalized variance, mean over pairs of classes.

    ``V_ij = (v_i + v_j) / (2 ‖mu_i - mu_j‖²)`` with ``v_c`` the mean squared distance of class c's
    samples to ``mu_c``. Infinite where two class means coincide and their samples do not; two means
    closer than about ``1e-7`` of their distance from ``mu_G`` count as one. Every pair counts once,
    in every ``weighting`` of the ``stats``. The one-sided form ``v_i / ‖mu_i - mu_j‖²`` has the
    same mean.

    Source: Galanti, György & Hutter (2022).
    """
    size = unit(stats.centered_means)
    means, within = stats.centered_means / size, (stats.spread / size).square()
    squares = means.square().sum(1)
    total, C = torch.zeros((), dtype=means.dtype, device=means.device), stats.num_classes
    for rows in _blocks(C):
        scale = squares[rows, None] + squares
        distances = scale - 2 * (means[rows] @ means.T)
        variances = within[rows, None] + within
        distances = torch.where(distances > 1e-14 * scale, distances, 0.0)
        values = torch.where(variances > 0, variances / (2 * distances), 0.0)
        total += values.triu(1 + rows.start).sum()
    return float(total / (C * (C - 1) / 2))


def cdnv_pairs(
    stats: ClassStats, *, form: str = "symmetric", unbiased: bool = False
) -> Tensor:
    """The class-distance normalized variance of every pair, ``(C, C)`` with NaN on the diagonal.

    Args:
        stats: of any features.
        form: ``"symmetric"``, ``(v_i + v_j) / (2 ‖mu_i - mu_j‖²)``, of Galanti, György & Hutter
            (2022); or ``"one-sided"``, ``v_i / ‖mu_i - mu_j‖²``, of their later versions. The means
            over pairs are the same.
        unbiased: variances over ``n - 1``, and squared distances minus what the errors of the two
            means add, ``v_i/n_i + v_j/n_j``: numerator and denominator are then unbiased for few
            samples a class. A pair that is not told apart has a negative or infinite value.

    Raises:
        ValueError: an unknown form, or a class of one sample with ``unbiased``.
    """
    if form not in ("symmetric", "one-sided"):
        raise ValueError(f"form must be 'symmetric' or 'one-sided', got {form!r}")
    size = unit(stats.centered_means)
    means, variances = stats.centered_means / size, (stats.spread / size).square()
    squares = torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist").square()
    if unbiased:
        if (stats.counts < 2).any():
            raise ValueError("an unbiased variance needs two samples of every class")
        variances = variances * stats.counts / (stats.counts - 1)
        errors = variances / stats.counts
        squares = squares - errors[:, None] - errors
    top = variances[:, None] + 0 * variances
    if form == "symmetric":
        top = (top + top.T) / 2
    return (top / squares).fill_diagonal_(torch.nan)


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
    return _from_etf(vectors, vectors)


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
    rows, C = _directions(vectors), len(vectors)
    total = 0.0
    for some in _blocks(C):
        cosines = (rows[some] @ rows.T + 1 / (C - 1)).abs()
        cosines[:, some].fill_diagonal_(0)
        total += float(cosines.sum())
    return total / (C * (C - 1))


def uniformity(vectors: Tensor, *, s: float = 0.0) -> float:
    """Hyperspherical energy of the directions, above that of a simplex ETF.

    Mean over ``i≠j`` of ``k(‖u_i - u_j‖) - k(e)``, with ``u`` the vectors at unit norm, ``e`` the
    distance ``sqrt(2C/(C-1))`` of a simplex ETF, and the kernel ``k(r) = r^{-s}``, or
    ``-log r`` for ``s = 0``. Zero for the simplex ETF, which is the minimum where ``d >= C - 1``;
    for fewer dimensions the minimum is positive, and this is what NC2 becomes there. Infinite
    where two directions coincide.

    Args:
        vectors: as in :func:`nc2_angles`.
        s: power of the kernel, at least 0.

    Raises:
        ValueError: as :func:`nc2_angles`, or a negative ``s``.

    Source: Liu et al. (2023), "Generalizing and decoupling neural collapse via hyperspherical
    uniformity gap", GNC2.
    """
    if not s >= 0:
        raise ValueError(f"s must be at least 0, got {s}")
    rows, C = _directions(vectors), len(vectors)
    etf, total = (2 * C / (C - 1)) ** 0.5, 0.0
    for some in _blocks(C):
        distances = torch.cdist(rows[some], rows, compute_mode="donot_use_mm_for_euclid_dist") / etf
        distances[:, some].fill_diagonal_(1)
        energy = -distances.log() if s == 0 else (distances**-s - 1) * etf**-s
        total += float(energy.sum())
    return total / (C * (C - 1))


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
    weight = weight.to(means.device)
    if means.shape != weight.shape:
        raise ValueError(f"means are {tuple(means.shape)}, but weight is {tuple(weight.shape)}")
    if form == "frobenius":
        return _norm(weight / _norm(weight) - means / _norm(means))
    if form == "product":
        return _from_etf(weight, means)
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


def nc5(means: Tensor, outside: Tensor, *, center: Tensor | None = None) -> float:
    """Mean ``|cos|`` between the class means and the mean of out-of-distribution features.

    Zero where the two are orthogonal, so that features from outside show up near the origin of the
    between-class space.

    Args:
        means: ``(C, d)`` class means, **not** centered.
        outside: ``(d,)``, mean of the features of data of no class.
        center: ``(d,)``, mu_G, subtracted from both if given; the paper does not.

    Raises:
        ValueError: shapes that do not fit, not finite, or one of the means is zero.

    Source: Ammar et al. (2024), "NECO: neural collapse based out-of-distribution detection", NC5.
    """
    means = check_matrix("means", means)
    outside = check_matrix("outside", outside, means.shape[1:]).to(means.device)
    if center is not None:
        center = check_matrix("center", center, means.shape[1:]).to(means.device)
        means, outside = means - center, outside - center
    rows, far = _directions(means), outside / unit(outside)
    if not far.any():
        raise ValueError("the mean of the features from outside is zero: it has no angle")
    return float((rows @ (far / far.norm())).abs().mean())


def _vectors(name: str, vectors: Tensor) -> Tensor:
    """Checked, in float64, in a unit in which squares neither overflow nor vanish."""
    vectors = check_matrix(name, vectors)
    if len(vectors) < 2:
        raise ValueError(f"{name} must be (C, d) with C >= 2, got {tuple(vectors.shape)}")
    if not vectors.any():
        raise ValueError(f"{name} are zero")
    return vectors / unit(vectors)


def _directions(vectors: Tensor) -> Tensor:
    """The rows at unit norm."""
    vectors = _vectors("vectors", vectors)
    vectors = vectors / vectors.abs().amax(1, keepdim=True).clamp(min=torch.finfo(F64).tiny)
    norms = vectors.norm(dim=1, keepdim=True)
    if not norms.all():
        raise ValueError(f"row {int(norms.argmin())} of the vectors is zero: it has no angle")
    return vectors / norms


def _from_etf(left: Tensor, right: Tensor) -> float:
    """``‖P/‖P‖_F - E‖_F`` with ``P = left rightᵀ``, a block of rows at a time."""
    C, parts = len(left), list(_blocks(len(left)))
    products = [left[rows] @ right.T for rows in parts] if len(parts) == 1 else None

    def product(rows):
        return products[0] if products else left[rows] @ right.T

    size = sum(float(product(rows).square().sum()) for rows in parts) ** 0.5
    if size == 0:
        raise ValueError("weight and means are orthogonal: W Mᵀ is zero")
    total = 0.0
    for rows in parts:
        off = product(rows) / size + 1 / (C * (C - 1) ** 0.5)
        off[:, rows].diagonal().sub_(1 / (C - 1) ** 0.5)
        total += float(off.square().sum())
    return total**0.5


def _blocks(C: int):
    """Slices of rows of a ``(C, C)`` matrix, of at most 64 MB or so; all of it up to C = 2048."""
    step = C if C <= 2048 else max(1, (1 << 23) // C)
    return (slice(start, min(start + step, C)) for start in range(0, C, step))


def _norm(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x))
