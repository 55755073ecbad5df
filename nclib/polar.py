"""The polar factor and the nearest simplex ETF, each with a closed backward."""

from __future__ import annotations

from contextlib import nullcontext

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
    undefined directions get a zero gradient. It is differentiable as often as wanted, and under
    ``torch.func`` (grad, vmap, jacrev). Autocast is off inside.

    Args:
        A: ``(..., m, n)``, float32 or float64, any device.
        method: ``"svd"`` (thin SVD), or ``"eigh"``: the eigenvectors of the smaller Gram matrix and
            one Newton step, which is faster and squares the condition number. Where that leaves no
            isometry, the SVD takes over.

    Returns:
        ``(..., m, n)``.

    Time O(m n min(m, n)). Memory kept for the backward: ``A``, the result, and one ``(r, r)``
    matrix and ``r`` numbers, r = min(m, n).

    Raises:
        ValueError: not a matrix, another dtype, an infinite or NaN entry, or an unknown method.

    Source: Higham (2008), *Functions of Matrices*, chapter 8, for the polar factor.
    """
    if A.dim() < 2 or not A.shape[-1] or not A.shape[-2]:
        raise ValueError(f"expected (..., m, n) matrices, got shape {tuple(A.shape)}")
    if A.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"expected float32 or float64, got {A.dtype}")
    if method not in ("svd", "eigh"):
        raise ValueError(f"method must be 'svd' or 'eigh', got {method!r}")
    with no_autocast(A):
        if A.shape[-2] > A.shape[-1]:
            return _Polar.apply(A.mT, method, None)[0].mT
        return _Polar.apply(A, method, None)[0]


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
    if means.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"expected float32 or float64, got {means.dtype}")
    if method not in ("svd", "eigh"):
        raise ValueError(f"method must be 'svd' or 'eigh', got {method!r}")
    if prox is not None:
        if prox.shape[-2:] != means.shape[-2:] or prox.dtype != means.dtype:
            raise ValueError(
                f"prox has shape {tuple(prox.shape)} and type {prox.dtype}, "
                f"the means {tuple(means.shape)} and {means.dtype}"
            )
        if not delta >= 0:
            raise ValueError(f"delta must be >= 0, got {delta}")
    tiny = torch.finfo(means.dtype).tiny
    with no_autocast(means):
        basis = helmert(K, dtype=means.dtype, device=means.device)
        # The result does not depend on the scale, so the scale counts as a constant.
        means = means / means.detach().abs().amax((-2, -1), keepdim=True).clamp(min=tiny)
        A, least = basis @ means, None
        if prox is None:
            noise = K * torch.finfo(A.dtype).eps
            least = noise * torch.linalg.matrix_norm(means.detach(), keepdim=True)
        else:
            size = torch.linalg.matrix_norm(A, keepdim=True).clamp(min=tiny)
            pull = ((K - 1) / K) ** 0.5 * (basis @ prox.detach().to(means.device))
            A = 2 / (K - 1) ** 0.5 * A / size + delta * pull
        return (K / (K - 1)) ** 0.5 * (basis.mT @ _Polar.apply(A, method, least)[0])


def no_autocast(x: Tensor):
    """Products in the dtype of their factors: half precision would leave no isometry."""
    known = torch.amp.is_autocast_available(x.device.type)
    return torch.autocast(x.device.type, enabled=False) if known else nullcontext()


class _Polar(torch.autograd.Function):
    """Polar factor U of wide matrices, with the eigenvectors P and values s of H = (A A^T)^(1/2).

    Checks of values stand in the forward, where torch.func hands over plain tensors.
    """

    @staticmethod
    def forward(A: Tensor, method: str, least: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        if not A.isfinite().all():
            raise ValueError(f"matrix of shape {tuple(A.shape)} has an entry that is not finite")
        if least is not None and (torch.linalg.matrix_norm(A, keepdim=True) <= least).any():
            raise ValueError("the class means are all equal: every simplex ETF is as near")
        return _by_svd(A) if method == "svd" else _by_eigh(A)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        U, P, s = output
        ctx.save_for_backward(inputs[0], U, P, s)
        ctx.mark_non_differentiable(P, s)

    @staticmethod
    def backward(ctx, G: Tensor, _P, _s):
        # The gradient is S U + H^-1 (G - G U^T U), with S from H S + S H = G U^T - U G^T.
        A, U, P, s = ctx.saved_tensors
        with no_autocast(A):
            H = A @ U.mT if torch.is_grad_enabled() else P  # only for second derivatives
            inside = G @ U.mT
            S = _Divide.apply(H, inside - inside.mT, P, s, U.shape[-1], True)
            rest = G - inside @ U
            return S @ U + _Divide.apply(H, rest, P, s, U.shape[-1], False), None, None

    @staticmethod
    def vmap(info, in_dims, A, method, least):
        if in_dims[0] is None:  # only the bound is batched, by a batch of equal problems
            return _Polar.apply(A, method, least.movedim(in_dims[2], 0).amax(0)), (None,) * 3
        if least is not None and in_dims[2] is not None:
            least = least.movedim(in_dims[2], 0)
        return _Polar.apply(A.movedim(in_dims[0], 0), method, least), (0, 0, 0)


class _Divide(torch.autograd.Function):
    """Solves ``H X + X H = C`` (``both``), or ``H X = C``, for H = P diag(s) P^T, without the
    directions that H lacks to working precision."""

    generate_vmap_rule = True

    @staticmethod
    def forward(H: Tensor, C: Tensor, P: Tensor, s: Tensor, n: int, both: bool) -> Tensor:
        eps, tiny = torch.finfo(s.dtype).eps, torch.finfo(s.dtype).tiny
        cut = s.amax(-1, keepdim=True) * eps * n
        if not both:
            inverse = torch.where(s > cut, 1 / s.clamp(min=tiny), 0)
            return P @ (inverse[..., :, None] * (P.mT @ C))
        sums = s[..., :, None] + s[..., None, :]
        kept = torch.where(sums > cut[..., None], (P.mT @ C @ P) / sums.clamp(min=tiny), 0)
        return P @ kept @ P.mT

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        H, _, P, s, ctx.n, ctx.both = inputs
        ctx.save_for_backward(H, P, s, output)

    @staticmethod
    def backward(ctx, G: Tensor):
        H, P, s, X = ctx.saved_tensors
        Y = _Divide.apply(H, G, P, s, ctx.n, ctx.both)
        dH = -(Y @ X.mT + X.mT @ Y) if ctx.both else -(Y @ X.mT)
        return dH, Y, None, None, None, None


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
        return tuple(x.to(A.dtype) for x in _by_qr(A.double()))


def _by_eigh(A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same from the eigenvectors of ``A A^T``, made orthonormal by one Newton step, where the
    first try is near enough for that: it is not where A is ill-conditioned or lacks rank."""
    scale = A.abs().amax((-2, -1), keepdim=True).clamp(min=torch.finfo(A.dtype).tiny)
    B = A / scale
    squares, P = torch.linalg.eigh(B @ B.mT)
    s = squares.clamp(min=torch.finfo(A.dtype).eps ** 2).sqrt()
    U = (P / s[..., None, :]) @ (P.mT @ B)
    gram = U @ U.mT
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    good = (gram - eye).abs().amax((-2, -1)) < 0.1 * torch.finfo(A.dtype).eps ** 0.5
    U, s = 1.5 * U - 0.5 * gram @ U, s * scale[..., 0]
    if good.all():
        return U, P, s
    if A.dim() == 2:
        return _by_svd(A)
    for part, exact in zip((U, P, s), _by_svd(A[~good]), strict=True):
        part[~good] = exact
    return U, P, s


def _by_qr(A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same where the SVD gives up: the eigenvectors of ``A A^T`` turn A into orthogonal rows,
    and QR makes them orthonormal, also those that A lacks."""
    scale = A.abs().amax((-2, -1), keepdim=True).clamp(min=torch.finfo(A.dtype).tiny)
    squares, P = torch.linalg.eigh((A / scale) @ (A / scale).mT)
    squares, P = squares.flip(-1), P.flip(-1)  # the largest first, which keeps them accurate
    Q, R = torch.linalg.qr((A / scale).mT @ P)
    signs = torch.where(R.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(A.dtype)
    s = squares.clamp(min=torch.finfo(A.dtype).eps ** 2).sqrt() * scale[..., 0]
    return (P * signs[..., None, :]) @ Q.mT, P, s
