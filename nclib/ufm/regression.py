"""The regression model with weight decay on features and head, and its closed-form optimum."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .common import Decay, normal, per_problem, together

__all__ = ["RegressionOptimum", "regression_loss", "regression_optimum", "regression_solution"]


def regression_loss(
    W: Tensor, H: Tensor, b: Tensor, targets: Tensor, lam_w: Decay, lam_h: Decay
) -> Tensor:
    """Regression UFM with weight decay on features and head (Andriopoulos et al. 2024, eq. 1).

    1/(2M) Σ_i ‖W h_i + b − y_i‖² + λ_H/(2M) Σ_i ‖h_i‖² + λ_W/2 ‖W‖²; the square is a **sum** over
    the n components. A mean over components gives the same problem with λ replaced by nλ.

    Args:
        W: ``(B, n, d)``.
        H: ``(B, M, d)`` features, one row a sample.
        b: ``(B, n)`` bias.
        targets: ``(M, n)``, or ``(B, M, n)``.
        lam_w, lam_h: floats, or ``(B,)`` tensors.

    Returns:
        ``(B,)`` losses. Cost O(B·M·n·d).

    Raises:
        ValueError: shapes do not fit.
    """
    if (
        W.dim() != 3 or H.dim() != 3 or W.shape[-1] != H.shape[-1] or b.shape != W.shape[:2]
        or targets.shape[-2:] != (H.shape[1], W.shape[1])
    ):
        raise ValueError(
            f"expected W (B,n,d), H (B,M,d), b (B,n), targets (M,n); got {tuple(W.shape)}, "
            f"{tuple(H.shape)}, {tuple(b.shape)}, {tuple(targets.shape)}"
        )
    targets = targets.to(H.device)
    error, size, norm = (
        x.square().flatten(1).sum(1) for x in (H @ W.mT + b.unsqueeze(1) - targets, H, W)
    )
    lam_w, lam_h = per_problem("lam_w", lam_w, W), per_problem("lam_h", lam_h, W)
    return (error + lam_h * size) / (2 * H.shape[1]) + 0.5 * lam_w * norm


@dataclass(frozen=True)
class RegressionOptimum:
    """Global optimum of :func:`regression_loss`, float64, with the batch shape of Σ and the λ's.

    Attributes:
        c: λ_W λ_H, the level below which a direction of the targets is given up.
        loss: the optimal value.
        rank: number of eigenvalues of Σ above c: rank of W and of the features.
        gram: ``(..., n, n)``, W Wᵀ = √(λ_H/λ_W) [Σ^{1/2} − √c I]₊.
        residual: ``(..., n, n)``, covariance of the residuals: eigenvalues min(c, λ_i), those of
            Σ's own eigenvectors; c I while c < λ_min.
        evr: ``(..., n)``, shares of the variance of the features, largest first; NaN at rank 0.
        root: ``(..., n, n)``, [Σ^{1/2} − √c I]₊^{1/2}, the factor of W.
    """

    c: Tensor
    loss: Tensor
    rank: Tensor
    gram: Tensor
    residual: Tensor
    evr: Tensor
    root: Tensor


def regression_optimum(covariance: Tensor, lam_w: Decay, lam_h: Decay) -> RegressionOptimum:
    """Closed form of the global optimum, for any c = λ_W λ_H > 0 and correlated targets.

    With Σ = U diag(λ) Uᵀ: W = (λ_H/λ_W)^{1/4} U diag((√λ_i − √c)₊^{1/2}) R with R Rᵀ = I. For
    c < λ_min or a diagonal Σ this is Theorem 4.1 of Andriopoulos et al. (2024). Between, for a
    correlated Σ, the theorem as printed (keep the first columns of the symmetric root) depends on
    the basis; this is the form that attains the minimum.

    Args:
        covariance: ``(..., n, n)``, Σ with 1/M.
        lam_w, lam_h: positive floats or tensors that broadcast with the batch.

    Raises:
        ValueError: not symmetric positive semi-definite, or a λ that is not positive.
    """
    covariance = torch.as_tensor(covariance, dtype=torch.float64)
    if covariance.dim() < 2 or covariance.shape[-1] != covariance.shape[-2]:
        raise ValueError(f"covariance must be (..., n, n), got {tuple(covariance.shape)}")
    if not torch.allclose(covariance, covariance.mT, rtol=1e-9, atol=1e-12):
        raise ValueError("covariance is not symmetric")
    covariance, lam_w, lam_h = together(covariance, lam_w, lam_h)
    if not (lam_w > 0).all() or not (lam_h > 0).all():
        raise ValueError("λ_W and λ_H must be positive")
    values, U = torch.linalg.eigh(covariance)
    if not (values >= -1e-9 * values.abs().amax(-1, keepdim=True)).all():
        raise ValueError("covariance has a negative eigenvalue")
    values, c = values.clamp(min=0), (lam_w * lam_h).unsqueeze(-1)
    shrunk = (values.sqrt() - c.sqrt()).clamp(min=0)
    loss = torch.where(values > c, (c * values).sqrt() - c / 2, values / 2).sum(-1)
    ratio = (lam_h / lam_w).sqrt()[..., None, None]

    def build(eigenvalues: Tensor) -> Tensor:
        return (U * eigenvalues.unsqueeze(-2)) @ U.mT

    return RegressionOptimum(
        c=c.squeeze(-1),
        loss=loss,
        rank=(values > c).sum(-1),
        gram=ratio * build(shrunk),
        residual=build(torch.minimum(values, c)),
        evr=(shrunk / shrunk.sum(-1, keepdim=True)).flip(-1),
        root=build(shrunk.sqrt()),
    )


def regression_solution(
    targets: Tensor, lam_w: float, lam_h: float, dim: int, *,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """One global minimizer ``{"W": (1,n,d), "H": (1,M,d), "b": (1,n)}`` in float64.

    H = √(λ_W/λ_H) Wᵀ Σ^{-1/2} (Y − ȳ), one row a sample; b = ȳ. The n orthonormal rows R of
    :func:`regression_optimum` are the first coordinates, or random if a generator is given.

    Args:
        targets: ``(M, n)`` with a covariance of full rank.
        lam_w, lam_h: positive numbers.
        dim: d ≥ n.

    Raises:
        ValueError: d < n, or a covariance without full rank.
    """
    targets = torch.as_tensor(targets, dtype=torch.float64)
    M, n = targets.shape
    if dim < n:
        raise ValueError(f"need d ≥ n, got d={dim}, n={n}")
    mean = targets.mean(0)
    values, U = torch.linalg.eigh((targets - mean).T @ (targets - mean) / M)
    if not values[0] > 1e-12 * values[-1]:
        raise ValueError(f"the targets' covariance is singular: eigenvalues {values.tolist()}")
    c = lam_w * lam_h
    rows = torch.eye(n, dim, dtype=torch.float64)
    if generator is not None:
        rows = torch.linalg.qr(normal(dim, n, generator=generator)).Q.T
    rows = rows.to(targets.device)
    W = (lam_h / lam_w) ** 0.25 * (U * (values.sqrt() - c**0.5).clamp(min=0).sqrt()) @ rows
    white = (targets - mean) @ (U / values.sqrt()) @ U.T
    return {"W": W[None], "H": (lam_w / lam_h) ** 0.5 * (white @ W)[None], "b": mean[None]}
