"""Frames: the simplex equiangular tight frame (ETF) and what it is made of."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["etf_gram", "helmert", "simplex_etf"]


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
