"""The cross-entropy model on balanced classes, and its closed-form optimum."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["CEOptimum", "ce_loss", "ce_optimum", "init", "labels"]


def labels(num_classes: int, per_class: int, device: torch.device | str = "cpu") -> Tensor:
    """Classes of the samples of a balanced UFM: ``(N,)`` with N = K·n, sorted."""
    return torch.arange(num_classes, device=device).repeat_interleave(per_class)


def ce_loss(W: Tensor, H: Tensor, b: Tensor, lam_w, lam_h, lam_b=0.0) -> Tensor:
    """Regularized cross-entropy UFM on balanced classes (Zhu et al. 2021).

    (1/N) Σ CE(W h + b, y) + λ_W/2 ‖W‖² + λ_H/2 ‖H‖² + λ_b/2 ‖b‖².

    Args:
        W: ``(B, K, d)`` classifier rows.
        H: ``(B, N, d)`` features, one row a sample, ordered as :func:`labels`.
        b: ``(B, K)`` bias.
        lam_w, lam_h, lam_b: floats, or ``(B,)`` tensors.

    Returns:
        ``(B,)`` losses. Cost O(B·N·K·d).

    Raises:
        ValueError: shapes do not fit, or N is no multiple of K.
    """
    K, N = W.shape[-2], H.shape[-2]
    if W.dim() != 3 or H.dim() != 3 or W.shape[-1] != H.shape[-1] or b.shape != W.shape[:2]:
        raise ValueError(
            f"expected W (B,K,d), H (B,N,d), b (B,K); got {tuple(W.shape)}, {tuple(H.shape)}, "
            f"{tuple(b.shape)}"
        )
    if N % K:
        raise ValueError(f"N={N} samples cannot be balanced over K={K} classes")
    logits = H @ W.mT + b.unsqueeze(-2)
    own = logits.unflatten(-2, (K, N // K)).diagonal(dim1=-3, dim2=-1)  # (B, n, K)
    fit = logits.logsumexp(-1).mean(-1) - own.mean((-2, -1))
    squares = [x.square().flatten(1).sum(-1) for x in (W, H, b)]
    return fit + sum(0.5 * lam * s for lam, s in zip((lam_w, lam_h, lam_b), squares, strict=True))


@dataclass(frozen=True)
class CEOptimum:
    """Global optimum of :func:`ce_loss`; every field is a float64 tensor of the λ's shape.

    ``s`` is √(n λ_W λ_H); ``gap`` the logit of the own class minus that of any other;
    ``p_wrong`` the probability of each wrong class; norms are of one row of W and one feature.
    Below s = 1/K the optimum is the collapsed simplex ETF, from there on it is the origin.
    """

    s: Tensor
    loss: Tensor
    gap: Tensor
    p_wrong: Tensor
    weight_norm: Tensor
    feature_norm: Tensor


def ce_optimum(num_classes: int, per_class: int, lam_w, lam_h) -> CEOptimum:
    """Closed form of the global optimum for d ≥ K−1, λ_b ≥ 0 (Zhu et al. 2021, global optimality).

    f* = −log(1 − (K−1)s) + (K−1) s log(1/s − K + 1) where s = √(n λ_W λ_H) < 1/K, else log K.

    Raises:
        ValueError: K < 2, n < 1, or a λ that is not positive.
    """
    K, n = num_classes, per_class
    lam_w = torch.as_tensor(lam_w, dtype=torch.float64)
    lam_h = torch.as_tensor(lam_h, dtype=torch.float64)
    if K < 2 or n < 1:
        raise ValueError(f"need K ≥ 2 and n ≥ 1, got K={K}, n={n}")
    if not (lam_w > 0).all() or not (lam_h > 0).all():
        raise ValueError("λ_W and λ_H must be positive")
    s = (n * lam_w * lam_h).sqrt()
    capped = s.clamp(max=1 / K)  # at s = 1/K the formulas give gap 0 and loss log K
    gap = torch.log1p(1 / capped - K).clamp(min=0)
    w_sq = (n * lam_h / lam_w).sqrt() * gap * (K - 1) / K
    return CEOptimum(
        s=s,
        loss=-torch.log1p(-(K - 1) * capped) + (K - 1) * capped * gap,
        gap=gap,
        p_wrong=capped,
        weight_norm=w_sq.sqrt(),
        feature_norm=(lam_w / (n * lam_h) * w_sq).sqrt(),
    )


def init(
    batch: int, num_classes: int, per_class: int, dim: int, *, scale: float | Tensor = 0.1,
    generator: torch.Generator | None = None, device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Gaussian start ``{"W": (B,K,d), "H": (B,N,d), "b": (B,K)}`` in float64; the bias is zero.

    ``scale`` is the standard deviation of every entry: a float or a ``(B,)`` tensor.
    """
    shapes = {"W": (batch, num_classes, dim), "H": (batch, num_classes * per_class, dim)}
    draws = {
        k: torch.randn(v, dtype=torch.float64, generator=generator).to(device)
        for k, v in shapes.items()
    }
    size = torch.as_tensor(scale, dtype=torch.float64, device=device).reshape(-1, 1, 1)
    out = {k: v * size for k, v in draws.items()}
    return out | {"b": torch.zeros(batch, num_classes, dtype=torch.float64, device=device)}
