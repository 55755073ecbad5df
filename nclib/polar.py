"""The polar factor and the nearest simplex ETF, each with a closed backward."""

from __future__ import annotations

import torch
from torch import Tensor

from .frames import check_classes, helmert

__all__ = ["nearest_simplex_etf", "polar_factor"]


def polar_factor(A: Tensor, *, method: str = "svd") -> Tensor:
    """The isometry nearest to ``A``: ``P Q^T`` where ``A = P S Q^T``, with a closed backward.

    It maximizes ``<A, U>``, and so minimizes ``||A - U||_F``, over all ``U`` with orthonormal rows
    (or columns, if ``A`` is tall). It is unique where ``A`` has full rank.

    The backward is the derivative of the polar factor itself, which divides by *sums* of singular
    values: it stays finite where they coincide, while the derivative of the singular vectors does
    not exist there. Where ``A`` loses rank to working precision, the derivative does not exist; the
    undefined directions get a zero gradient. It is differentiable once.

    Args:
        A: ``(..., m, n)``, float32 or float64, any device.
        method: ``"svd"`` (thin SVD), or ``"eigh"``: the eigenvectors of the smaller Gram matrix and
            one Newton step, which is faster, squares the condition number, and needs full rank.

    Returns:
        ``(..., m, n)``.

    Time O(m n min(m, n)). Memory kept for the backward: the result, and one ``(r, r)`` matrix and
    ``r`` numbers, r = min(m, n).

    Raises:
        ValueError: not a matrix, another dtype, an infinite or NaN entry, or an unknown method.
        RuntimeError: in a backward with ``create_graph=True``.

    Source: Higham (2008), *Functions of Matrices*, chapter 8, for the polar factor.
    """
    if A.dim() < 2 or not A.shape[-1] or not A.shape[-2]:
        raise ValueError(f"expected (..., m, n) matrices, got shape {tuple(A.shape)}")
    if A.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"expected float32 or float64, got {A.dtype}")
    if method not in ("svd", "eigh"):
        raise ValueError(f"method must be 'svd' or 'eigh', got {method!r}")
    if not A.detach().isfinite().all():
        raise ValueError(f"matrix of shape {tuple(A.shape)} has an entry that is not finite")
    if A.shape[-2] > A.shape[-1]:
        return _Polar.apply(A.mT, method)[0].mT
    return _Polar.apply(A, method)[0]


def nearest_simplex_etf(
    means: Tensor, *, prox: Tensor | None = None, delta: float = 1e-3, method: str = "svd"
) -> Tensor:
    """The simplex ETF nearest to the directions of ``K`` class means, with a closed backward.

    With ``Y`` the means at unit Frobenius norm, it is the minimizer of ``||Y - F / sqrt(K)||_F^2``
    over all simplex ETFs ``F`` with unit rows: an orthogonal Procrustes problem, solved by one
    polar factor. The means need not be centered and their common scale does not matter. The
    minimizer is unique where the centered means have rank ``K - 1``; where they have not, one
    minimizer is returned, and the gradient is zero along what is undefined.

    Args:
        means: ``(..., K, d)`` class means, one a row; ``d >= K - 1``; float32 or float64.
        prox: a simplex ETF ``(..., K, d)`` with unit rows, e.g. the one of the step before. Then
            ``delta / 2 * ||U - U_prox||_F^2`` is added, where ``F = sqrt(K / (K - 1)) B^T U`` with
            the Helmert matrix ``B``: the result is unique even for means of lower rank, as long as
            it is not torn between two frames. No gradient flows into it.
        delta: strength of that term, at least 0; unused without ``prox``.
        method: of :func:`polar_factor`.

    Returns:
        ``(..., K, d)``: unit rows, pairwise cosines ``-1/(K-1)``.

    Raises:
        ValueError: ``K < 2``, ``d < K - 1``, shapes or types that do not fit, an entry that is not
            finite, ``delta < 0``, or means that are all equal and no ``prox``.

    Source: Markou, Ajanthan & Gould (2024), their inner problem; the closed form in the gauge-free
    Helmert coordinates is this book's.
    """
    if means.dim() < 2:
        raise ValueError(f"expected means (..., K, d), got shape {tuple(means.shape)}")
    K, d = means.shape[-2:]
    check_classes(K)
    if d < K - 1:
        raise ValueError(f"a simplex ETF of K={K} vectors needs d >= {K - 1}, got d={d}")
    basis = helmert(K, dtype=means.dtype, device=means.device)
    A = basis @ means
    if prox is None:
        size, noise = torch.linalg.matrix_norm(A.detach()), K * torch.finfo(A.dtype).eps
        if (size <= noise * torch.linalg.matrix_norm(means.detach())).any():
            raise ValueError("the class means are all equal: every simplex ETF is as near")
    else:
        if prox.shape[-2:] != means.shape[-2:] or prox.dtype != means.dtype:
            raise ValueError(
                f"prox has shape {tuple(prox.shape)} and type {prox.dtype}, "
                f"the means {tuple(means.shape)} and {means.dtype}"
            )
        if not delta >= 0:
            raise ValueError(f"delta must be >= 0, got {delta}")
        tiny = torch.finfo(A.dtype).tiny
        size = torch.linalg.matrix_norm(A, keepdim=True).clamp(min=tiny)
        pull = ((K - 1) / K) ** 0.5 * (basis @ prox.detach())
        A = 2 / (K - 1) ** 0.5 * A / size + delta * pull
    return (K / (K - 1)) ** 0.5 * (basis.mT @ polar_factor(A, method=method))


class _Polar(torch.autograd.Function):
    """Polar factor U of wide matrices, with the eigenvectors P and values s of (A A^T)^(1/2)."""

    @staticmethod
    def forward(A: Tensor, method: str) -> tuple[Tensor, Tensor, Tensor]:
        return _by_svd(A) if method == "svd" else _by_eigh(A)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        U, P, s = output
        ctx.save_for_backward(U, P, s)
        ctx.mark_non_differentiable(P, s)

    @staticmethod
    def backward(ctx, G: Tensor, _P, _s):
        if torch.is_grad_enabled():  # create_graph=True; silence would drop second derivatives
            raise RuntimeError("the polar factor is differentiable once: no create_graph=True")
        U, P, s = ctx.saved_tensors
        G = P.mT @ G  # in the basis of the left singular vectors, where U becomes Q^T
        Qt = P.mT @ U
        cut = s.amax(-1, keepdim=True) * torch.finfo(s.dtype).eps * U.shape[-1]
        inverse = torch.where(s > cut, 1 / s.clamp(min=torch.finfo(s.dtype).tiny), 0)
        inside = G @ Qt.mT
        sums = s[..., :, None] + s[..., None, :]
        safe = sums.clamp(min=torch.finfo(s.dtype).tiny)
        skew = torch.where(sums > cut[..., None], (inside - inside.mT) / safe, 0)
        return P @ (skew @ Qt + inverse[..., :, None] * (G - inside @ Qt)), None


def _by_svd(A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``(U, P, s)`` of wide matrices. LAPACK's SVD may give up on repeated singular values, which
    is what collapse makes; the symmetric eigensolver does not, so it takes over there."""
    try:
        P, s, Qt = torch.linalg.svd(A, full_matrices=False)
        return P @ Qt, P, s
    except torch.linalg.LinAlgError:
        if A.dim() > 2 and len(A) > 1:
            parts = zip(*(_by_svd(a) for a in A), strict=True)
            return tuple(torch.stack(part) for part in parts)
        return tuple(x.to(A.dtype) for x in _by_eigh(A.double()))


def _by_eigh(A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same from the eigenvectors of ``A A^T``, made orthonormal by one Newton step."""
    scale = A.abs().amax((-2, -1), keepdim=True).clamp(min=torch.finfo(A.dtype).tiny)
    A = A / scale
    squares, P = torch.linalg.eigh(A @ A.mT)
    s = squares.clamp(min=torch.finfo(A.dtype).eps ** 2).sqrt()
    U = (P / s[..., None, :]) @ (P.mT @ A)
    U = 1.5 * U - 0.5 * (U @ U.mT) @ U
    return U, P, s * scale[..., 0]
