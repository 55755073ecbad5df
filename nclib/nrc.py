"""Measures of neural regression collapse: NRC1 to NRC3, and one report of all of them.

Features (..., N, d), targets (N, n) or (..., N, n), weights (..., n, d): leading axes are batches
and come back as the shape of the result. Everything is computed in float64. A problem of a batch
whose measure has no value gives NaN there; a single problem raises ValueError.

Source: Andriopoulos et al. (2024), "The prevalence of neural collapse in neural multivariate
regression".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "NRC3Fit",
    "NRCReport",
    "covariance_root",
    "explained_variance",
    "measure_regression",
    "nrc1",
    "nrc2",
    "nrc3",
    "nrc3_fit",
]


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
