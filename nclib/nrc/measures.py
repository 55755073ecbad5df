"""The measures, one function each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "NRC3Fit",
    "covariance_root",
    "explained_variance",
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
    targets, size = scaled(checked("targets", targets))
    centered = targets - targets.mean(-2, keepdim=True)
    values, vectors = torch.linalg.eigh(centered.mT @ centered / targets.shape[-2])
    return size * ((vectors * values.clamp(min=0).sqrt().unsqueeze(-2)) @ vectors.mT)


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
    features, _ = scaled(checked("features", features))
    if k is not None and not 1 <= k <= features.shape[-1]:
        raise ValueError(f"k must be in [1, {features.shape[-1]}], got {k}")
    values, _ = principal(features)
    return (values / values.sum(-1, keepdim=True))[..., :k]


def nrc1(features: Tensor, num_targets: int, *, centered: bool = False) -> Tensor:
    """Share of the normalized features outside their first ``n`` principal directions.

    Mean over samples of ``‖h̃ - P h̃‖²`` with ``h̃ = h / ‖h‖``, in ``[0, 1]``. The directions are
    those of the centered features, but ``h̃`` itself is **not** centered: a constant offset of all
    features counts. With ``centered`` it does not: ``h`` is then ``h - mean``. Where the centered
    features have fewer than n directions, to the precision that they came in, only these count.

    Args:
        features: ``(..., N, d)``; a feature that is zero counts as lying inside.
        num_targets: n.
        centered: whether to subtract the mean before normalizing; the paper does not.

    Raises:
        ValueError: a bad shape, not finite, n outside ``[1, d]``, or constant features.

    Source: Andriopoulos et al. (2024), NRC1. Cost O(N d² + d³) a problem.
    """
    resolution = resolution_of(features)
    features, _ = scaled(checked("features", features))
    check_targets(num_targets, features)
    return share_outside(features, principal(features), num_targets, centered, resolution)


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
    resolution = resolution_of(weight)
    features, weight = checked("features", features), checked("weight", weight, rows=1)
    same_dim(features, weight)
    (features, _), (weight, _) = scaled(features), scaled(weight.to(features.device))
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
        gamma: not negative; a number or a tensor of the batch's shape. Its unit is that of
            ``root`` squared.

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
    root, size = scaled(root)
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
    return NRC3Fit(value, (s * size[..., 0, 0]).square(), (s / end).square(), inside)


def checked(name: str, x: Tensor, rows: int = 2) -> Tensor:
    """``x`` as float64 without a gradient, checked."""
    x = torch.as_tensor(x).detach()
    if x.device.type == "mps":  # no float64 there
        x = x.cpu()
    if x.dim() < 2 or x.shape[-2] < rows or x.shape[-1] < 1:
        raise ValueError(f"{name} must be (..., N, k) with N >= {rows}, got {tuple(x.shape)}")
    x = x.double()
    if not x.isfinite().all():
        raise ValueError(f"{name} of shape {tuple(x.shape)} hold a NaN or an infinite value")
    return x


def same_dim(features: Tensor, weight: Tensor) -> None:
    if features.shape[-1] != weight.shape[-1] or features.shape[:-2] != weight.shape[:-2]:
        raise ValueError(
            f"features are {tuple(features.shape)}, but weight is {tuple(weight.shape)}"
        )


def principal(features: Tensor) -> tuple[Tensor, Tensor]:
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


def check_targets(n: int, features: Tensor) -> None:
    if not 1 <= n <= features.shape[-1]:
        raise ValueError(f"num_targets must be in [1, d={features.shape[-1]}], got {n}")


def share_outside(
    features: Tensor, principal: tuple[Tensor, Tensor], n: int, centered: bool, resolution: float
) -> Tensor:
    """:func:`nrc1` from the result of :func:`principal`; NaN for constant features of a batch."""
    values, vectors = principal
    size = features.square().sum(-1).mean(-1, keepdim=True)
    rounding = 10 * values.shape[-1] * torch.finfo(values.dtype).eps * values[..., :1]
    kept = values[..., :n] > torch.maximum(rounding, resolution**2 * size)
    outside = _outside(features, vectors[..., :n] * kept.unsqueeze(-2), centered)
    return torch.where(values.isnan().any(-1), torch.nan, outside)


def _outside(features: Tensor, basis: Tensor, centered: bool) -> Tensor:
    """Mean of ``‖h̃ - B Bᵀ h̃‖²`` for a basis of orthonormal (or zero) columns."""
    if centered:
        features = features - features.mean(-2, keepdim=True)
    features, _ = scaled(features, (-1,))
    unit = features / torch.linalg.vector_norm(features, dim=-1, keepdim=True).clamp(min=1e-300)
    return (unit - (unit @ basis) @ basis.mT).square().sum(-1).mean(-1)


def _grams(weight: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    weight, _ = scaled(checked("weight", weight, rows=1))
    root = torch.as_tensor(root).detach().to(weight)
    n = weight.shape[-2]
    if root.dim() < 2 or root.shape[-2:] != (n, n):
        raise ValueError(f"root must be (..., {n}, {n}), got {tuple(root.shape)}")
    gram = weight @ weight.mT
    if gram.dim() == 2 and not gram.any():
        raise ValueError("the weight is zero: W Wᵀ has no direction")
    return gram, root


def _mismatch(gram: Tensor, root: Tensor, s: Tensor) -> Tensor:
    """NRC3 at ``sqrt(gamma) = s``; NaN where one of the two matrices is zero."""
    eye = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device)
    target = root - s[..., None, None] * eye
    unit = [scaled(m)[0] for m in (gram, target)]
    unit = [m / torch.linalg.matrix_norm(m, keepdim=True) for m in unit]
    return (unit[0] - unit[1]).square().sum((-2, -1))


def _trace(m: Tensor) -> Tensor:
    return m.diagonal(dim1=-2, dim2=-1).sum(-1)


def resolution_of(x: Tensor) -> float:
    """Relative precision of the numbers given."""
    dtype = torch.as_tensor(x).dtype
    return torch.finfo(dtype if dtype.is_floating_point else torch.float64).eps


def scaled(x: Tensor, dims: tuple[int, ...] = (-2, -1)) -> tuple[Tensor, Tensor]:
    """``x`` over the power of two at its largest entry, and that power: squares stay in range."""
    largest = x.abs().amax(dims, keepdim=True)
    exponent = torch.frexp(largest).exponent - 1
    size = torch.where(largest > 0, torch.exp2(exponent.to(x.dtype)), 1.0)
    return x / size, size
