"""Frames: the simplex equiangular tight frame (ETF), SELI, and how to compare subspaces."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "effective_rank",
    "etf_gram",
    "helmert",
    "numerical_rank",
    "principal_angles",
    "seli",
    "simplex_etf",
    "stable_rank",
]


def helmert(
    K: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Tensor:
    """The Helmert matrix without its constant row: an orthonormal basis of the sum-zero vectors.

    Args:
        K: number of classes, at least 2.
        dtype: of the result; by default torch's default dtype. It is computed in float64.
        device: of the result.

    Returns:
        ``(K - 1, K)``: orthonormal rows, each orthogonal to the all-ones vector.

    Raises:
        ValueError: ``K < 2``.
    """
    check_classes(K)
    k = torch.arange(1, K, dtype=torch.float64)[:, None]
    rows = torch.ones(K - 1, K, dtype=torch.float64).tril()
    rows[:, 1:].diagonal().copy_(-k[:, 0])
    return (rows / (k * (k + 1)).sqrt()).to(dtype=_or_default(dtype), device=device)


def simplex_etf(
    K: int,
    d: int | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """A simplex ETF: ``K`` unit vectors in ``R^d`` with every pairwise cosine ``-1/(K-1)``.

    Args:
        K: number of classes, at least 2.
        d: dimension, at least ``K - 1``, which is the default.
        dtype: of the result; by default torch's default dtype. It is computed in float64.
        device: of the result.
        generator: if given, the orientation is drawn uniformly from the orthogonal group;
            otherwise the frame lies in the first ``K - 1`` coordinates.

    Returns:
        ``(K, d)``: one vector a row.

    Raises:
        ValueError: ``K < 2`` or ``d < K - 1``.

    Source: Papyan, Han & Donoho (2020), the definition of the simplex ETF.
    """
    check_classes(K)
    d = K - 1 if d is None else d
    if d < K - 1:
        raise ValueError(f"a simplex ETF of K={K} vectors needs d >= {K - 1}, got d={d}")
    frame = (K / (K - 1)) ** 0.5 * helmert(K, dtype=torch.float64).T
    if generator is None:
        frame = torch.nn.functional.pad(frame, (0, d - K + 1))
    else:
        normal = torch.randn(
            d, K - 1, dtype=torch.float64, device=generator.device, generator=generator
        ).cpu()
        q, r = torch.linalg.qr(normal)
        frame = frame @ (q * r.diagonal().sign()).T  # the signs make the orientation uniform
    return frame.to(dtype=_or_default(dtype), device=device)


def etf_gram(
    K: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Tensor:
    """The Gram matrix of a simplex ETF at unit Frobenius norm: ``(I - 11^T/K) / sqrt(K - 1)``.

    Args:
        K: number of classes, at least 2.
        dtype: of the result; by default torch's default dtype.
        device: of the result.

    Returns:
        ``(K, K)``.

    Raises:
        ValueError: ``K < 2``.

    Source: Zhu et al. (2021), the target of their NC2 and NC3.
    """
    check_classes(K)
    gram = (torch.eye(K, dtype=torch.float64) - 1 / K) / (K - 1) ** 0.5
    return gram.to(dtype=_or_default(dtype), device=device)


def check_classes(K: int) -> None:
    if K < 2:
        raise ValueError(f"a simplex needs K >= 2 classes, got K={K}")


def _or_default(dtype: torch.dtype | None) -> torch.dtype:
    return torch.get_default_dtype() if dtype is None else dtype


# --- other geometries, and how to compare them --------------------------------------------------


def seli(
    counts: Tensor | Sequence[float], *, dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """Classifier and class means of the SELI geometry, for any class sizes.

    With the simplex-encoded labels ``Z = (I - 11ᵀ/K) Y = V Λ Uᵀ`` of the N samples: ``W Wᵀ =
    V Λ Vᵀ``, ``Hᵀ H = U Λ Uᵀ``, ``W H = Z``. All samples of a class share one feature. For equal
    sizes both are simplex ETFs up to scale.

    Args:
        counts: ``(K,)`` positive class sizes, K at least 2.
        dtype, device: of the results; computed in float64.

    Returns:
        ``W (K, K - 1)`` and ``M (K, K - 1)``, a row a class.

    Raises:
        ValueError: not a vector of at least two positive sizes.

    Source: Thrampoulidis et al. (2022), "Imbalance trouble: revisiting neural-collapse geometry".
    """
    n = torch.as_tensor(counts).detach().cpu().double()
    if n.dim() != 1 or len(n) < 2 or not (n > 0).all() or not n.isfinite().all():
        raise ValueError(f"counts must be at least two positive sizes, got {n.tolist()}")
    B = helmert(len(n), dtype=torch.float64)
    squares, V = torch.linalg.eigh((B * n) @ B.T)  # Z Zᵀ on the sum-zero vectors
    V = B.T @ V.flip(-1)
    values = squares.flip(-1).sqrt()
    W, M = V * values.sqrt(), V / values.sqrt()
    kind = {"dtype": _or_default(dtype), "device": device}
    return W.to(**kind), M.to(**kind)


def principal_angles(A: Tensor, B: Tensor) -> Tensor:
    """Angles between the row spaces of two matrices, in radians, smallest first.

    Small angles come from sines, large ones from cosines, so both are accurate.

    Args:
        A: ``(..., p, d)``. B: ``(..., q, d)``. Rows need not be orthonormal or independent, but
            all matrices of a batch are taken as of full rank.

    Returns:
        ``(..., min(p, q))`` in ``[0, π/2]``; for single matrices, as many as the smaller rank.

    Raises:
        ValueError: another number of columns, or a matrix that is zero.

    Source: Björck & Golub (1973).
    """
    if A.dim() < 2 or B.dim() < 2 or A.shape[-1] != B.shape[-1]:
        raise ValueError(f"row spaces of {tuple(A.shape)} and {tuple(B.shape)} have no angles")
    P, Q = _row_basis(A), _row_basis(B)
    if P.shape[-2] < Q.shape[-2]:
        P, Q = Q, P
    product = Q @ P.mT
    cosines = torch.linalg.svdvals(product).clamp(max=1)
    sines = torch.linalg.svdvals(Q - product @ P).clamp(max=1).flip(-1)
    return torch.where(cosines**2 > 0.5, sines.asin(), cosines.acos())


def _row_basis(A: Tensor) -> Tensor:
    _, s, rows = torch.linalg.svd(A, full_matrices=False)
    if not (s[..., 0] > 0).all():
        raise ValueError("a matrix is zero: it has no row space")
    if A.dim() == 2:
        rows = rows[: numerical_rank(A)]
    return rows


def numerical_rank(A: Tensor, rtol: float | None = None) -> int:
    """Number of singular values above ``rtol`` times the largest.

    Args:
        A: ``(m, n)``.
        rtol: by default ``max(m, n)`` times the precision of the dtype.

    Raises:
        ValueError: not a matrix, or not finite.
    """
    s = _singular_values(A)
    rtol = max(A.shape) * torch.finfo(A.dtype).eps if rtol is None else rtol
    return int((s > rtol * s[0]).sum())


def stable_rank(A: Tensor) -> float:
    """``‖A‖_F² / ‖A‖_2²``, at most the rank; 0 for a zero matrix.

    Args:
        A: ``(m, n)``.
    """
    s = _singular_values(A)
    return float((s / s[0]).square().sum()) if s[0] > 0 else 0.0


def effective_rank(A: Tensor) -> float:
    """Exponential of the entropy of the singular values' shares, between 1 and the rank; 0 for a
    zero matrix.

    Args:
        A: ``(m, n)``.

    Source: Roy & Vetterli (2007), "The effective rank: a measure of effective dimensionality".
    """
    s = _singular_values(A)
    if not s[0] > 0:
        return 0.0
    share = s / s.sum()
    return float(torch.special.entr(share).sum().exp())


def _singular_values(A: Tensor) -> Tensor:
    if A.dim() != 2 or not A.numel() or not A.isfinite().all():
        raise ValueError(f"expected a finite matrix, got shape {tuple(A.shape)}")
    return torch.linalg.svdvals(A.detach())
