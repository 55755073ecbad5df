"""The cross-entropy model: balanced classes in closed form, any class sizes by a solver."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..solve import minimize
from .common import Decay, class_sizes, normal, per_problem, together

__all__ = [
    "CEOptimum", "CESolution", "ce_class_loss", "ce_loss", "ce_optimum", "ce_solve", "init",
    "labels",
]


def labels(
    num_classes: int, per_class: int | Sequence[int], device: torch.device | str = "cpu"
) -> Tensor:
    """Classes of the samples of a UFM, sorted: ``(N,)``.

    Args:
        num_classes: K.
        per_class: n for balanced classes, or the K class sizes.
        device: of the result.

    Raises:
        ValueError: a size below 1, or not K of them.
    """
    sizes = torch.tensor(class_sizes(num_classes, per_class), device=device)
    return torch.arange(num_classes, device=device).repeat_interleave(sizes)


def ce_loss(
    W: Tensor, H: Tensor, b: Tensor, lam_w: Decay, lam_h: Decay, lam_b: Decay = 0.0, *,
    counts: Sequence[int] | None = None,
) -> Tensor:
    """Regularized cross-entropy UFM (Zhu et al. 2021).

    (1/N) Σ CE(W h + b, y) + λ_W/2 ‖W‖² + λ_H/2 ‖H‖² + λ_b/2 ‖b‖².

    Args:
        W: ``(B, K, d)`` classifier rows.
        H: ``(B, N, d)`` features, one row a sample, ordered as :func:`labels`.
        b: ``(B, K)`` bias.
        lam_w, lam_h, lam_b: floats, or ``(B,)`` tensors.
        counts: the K class sizes; by default N/K each.

    Returns:
        ``(B,)`` losses. Cost O(B·N·K·d).

    Raises:
        ValueError: shapes do not fit, or N is not the number of samples of the classes.
    """
    K, N = W.shape[-2], H.shape[-2]
    _check_shapes(W, H, b)
    logits = H @ W.mT + b.unsqueeze(-2)
    if counts is None:
        if N % K:
            raise ValueError(f"N={N} samples cannot be balanced over K={K} classes")
        own = logits.unflatten(-2, (K, N // K)).diagonal(dim1=-3, dim2=-1)  # (B, n, K)
        own = own.mean((-2, -1))
    else:
        y = labels(K, counts, H.device)
        if len(y) != N:
            raise ValueError(f"N={N} samples, but the classes have {len(y)}")
        own = logits.gather(-1, y[None, :, None].expand(len(H), -1, 1)).mean((-2, -1))
    return logits.logsumexp(-1).mean(-1) - own + _decay(W, H, b, lam_w, lam_h, lam_b)


def ce_class_loss(
    W: Tensor, M: Tensor, b: Tensor, counts: Tensor | Sequence[float], lam_w: Decay, lam_h: Decay,
    lam_b: Decay = 0.0,
) -> Tensor:
    """:func:`ce_loss` of features that equal their class mean, as they do at every optimum.

    Args:
        W: ``(B, K, d)``. b: ``(B, K)``.
        M: ``(B, K, d)``, the feature of each class.
        counts: ``(K,)`` or ``(B, K)`` class sizes, not necessarily integers.
        lam_w, lam_h, lam_b: floats, or ``(B,)`` tensors.

    Returns:
        ``(B,)`` losses, whatever N is at a cost of O(B·K²·d).

    Raises:
        ValueError: shapes do not fit.
    """
    _check_shapes(W, M, b)
    counts = torch.as_tensor(counts).to(W)
    if M.shape != W.shape or counts.shape not in (W.shape[1:2], W.shape[:2]):
        raise ValueError(
            f"expected W and M (B,K,d), counts (K,) or (B,K); got {tuple(W.shape)}, "
            f"{tuple(M.shape)}, {tuple(counts.shape)}"
        )
    logits = M @ W.mT + b.unsqueeze(-2)
    fits = logits.logsumexp(-1) - logits.diagonal(dim1=-2, dim2=-1)
    fit = (counts * fits).sum(-1) / counts.sum(-1)
    return fit + _decay(W, M * counts.sqrt().unsqueeze(-1), b, lam_w, lam_h, lam_b)


def _check_shapes(W: Tensor, H: Tensor, b: Tensor) -> None:
    if W.dim() != 3 or H.dim() != 3 or W.shape[-1] != H.shape[-1] or b.shape != W.shape[:2]:
        raise ValueError(
            f"expected W (B,K,d), H (B,N,d), b (B,K); got {tuple(W.shape)}, {tuple(H.shape)}, "
            f"{tuple(b.shape)}"
        )


def _decay(W: Tensor, H: Tensor, b: Tensor, lam_w: Decay, lam_h: Decay, lam_b: Decay) -> Tensor:
    names = {"lam_w": (lam_w, W), "lam_h": (lam_h, H), "lam_b": (lam_b, b)}
    return sum(
        0.5 * per_problem(name, lam, x) * x.square().flatten(1).sum(-1)
        for name, (lam, x) in names.items()
    )


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


def ce_optimum(num_classes: int, per_class: int, lam_w: Decay, lam_h: Decay) -> CEOptimum:
    """Closed form of the global optimum for d ≥ K−1, λ_b ≥ 0 (Zhu et al. 2021, global optimality).

    f* = −log(1 − (K−1)s) + (K−1) s log(1/s − K + 1) where s = √(n λ_W λ_H) < 1/K, else log K.

    Args:
        num_classes: K.
        per_class: n.
        lam_w, lam_h: positive floats, or tensors that broadcast.

    Raises:
        ValueError: K < 2, n < 1, or a λ that is not positive.
    """
    K, n = num_classes, per_class
    lam_w, lam_h = together(lam_w, lam_h)
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
    batch: int, num_classes: int, per_class: int | Sequence[int], dim: int, *,
    scale: float | Tensor = 0.1,
    generator: torch.Generator | None = None, device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Gaussian start ``{"W": (B,K,d), "H": (B,N,d), "b": (B,K)}`` in float64; the bias is zero.

    Args:
        batch: B.
        num_classes: K.
        per_class: n for balanced classes, or the K class sizes.
        dim: d.
        scale: standard deviation of every entry, a float or a ``(B,)`` tensor.
        generator: one on the CPU gives the same numbers on every ``device``.
    """
    total = sum(class_sizes(num_classes, per_class))
    shapes = {"W": (batch, num_classes, dim), "H": (batch, total, dim)}
    draws = {
        k: normal(*v, generator=generator).to(device) for k, v in shapes.items()
    }
    size = torch.as_tensor(scale, dtype=torch.float64, device=device).reshape(-1, 1, 1)
    out = {k: v * size for k, v in draws.items()}
    return out | {"b": torch.zeros(batch, num_classes, dtype=torch.float64, device=device)}


@dataclass(frozen=True)
class CESolution:
    """Global optimum for any class sizes, by :func:`ce_solve`; float64, one problem a row.

    Attributes:
        loss: ``(B,)``.
        weight, features: ``(B, K, K)``, rows of W and one feature a class, in K dimensions.
        bias: ``(B, K)``.
        logits: ``(B, K, K)``, of the feature of class c in row c.
        excess: ``(B,)``, by how much the spectral norm of the scaled gradient exceeds its bound
            √(λ_W λ_H), relative to it: zero or less proves that the optimum is global.
        grad_norm: ``(B,)``, of all variables.
    """

    loss: Tensor
    weight: Tensor
    features: Tensor
    bias: Tensor
    logits: Tensor
    excess: Tensor
    grad_norm: Tensor


def ce_solve(
    counts: Tensor | Sequence[float], lam_w: Decay, lam_h: Decay, *, bias: bool = True,
    tol: float = 1e-10, max_iter: int = 5000,
) -> CESolution:
    """Global optimum of :func:`ce_class_loss` for any class sizes, free bias or none, d ≥ K.

    In the logits Z the problem is convex, fit(Z) + √(λ_W λ_H) ‖Z D^{1/2}‖_* with D the diagonal
    matrix of the class sizes, so a stationary point is the optimum if no direction of the scaled
    gradient (P − I) D^{1/2} / N is larger than √(λ_W λ_H), which ``excess`` says. For equal sizes
    this is :func:`ce_optimum`. A class whose row of D is too small gets a feature of zero: minority
    collapse.

    Args:
        counts: ``(K,)`` or ``(B, K)`` class sizes.
        lam_w, lam_h: positive floats, or ``(B,)`` tensors.
        bias: whether there is a bias, which is not regularized.
        tol, max_iter: of :func:`nclib.solve.minimize`.

    Raises:
        ValueError: K < 2, a size or a λ that is not positive, or shapes that do not fit.

    Source: the variational form of the nuclear norm; Fang et al. (2021) for minority collapse.
    """
    counts, lam_w, lam_h = together(counts, lam_w, lam_h)
    counts = counts.expand(max(lam_w.shape[:1] + lam_h.shape[:1], default=1), -1) \
        if counts.dim() == 1 else counts
    if counts.dim() != 2 or counts.shape[1] < 2 or not (counts > 0).all():
        raise ValueError(f"counts must be (B, K) and positive with K ≥ 2, got {counts.tolist()}")
    if not (lam_w > 0).all() or not (lam_h > 0).all():
        raise ValueError("λ_W and λ_H must be positive")
    B, K = counts.shape
    lams = [per_problem(n, v, counts).expand(B) for n, v in (("lam_w", lam_w), ("lam_h", lam_h))]
    eye = torch.eye(K, dtype=counts.dtype, device=counts.device)
    roots = counts.sqrt().unsqueeze(-1)  # features times these, which conditions the problem
    start = {"W": (eye + 0 * roots).contiguous(), "M": (eye + 0 * roots).contiguous()}
    if bias:
        start["b"] = torch.zeros_like(counts)
    none = torch.zeros_like(counts)

    def loss(W, M, b=none):
        return ce_class_loss(W, M / roots, b, counts, *lams)

    found = minimize(loss, start, tol=tol, max_iter=max_iter)
    W, M, b = found.x["W"], found.x["M"] / roots, found.x.get("b", none)
    logits = M @ W.mT + b.unsqueeze(-2)
    scaled = roots * (logits.softmax(-1) - eye) / counts.sum(-1)[:, None, None]
    level = (lams[0] * lams[1]).sqrt()
    excess = torch.linalg.matrix_norm(scaled, 2) / level - 1
    return CESolution(found.loss, W, M, b, logits, excess, found.grad_norm)
