"""Frames: what a simplex ETF must satisfy."""

import math

import pytest
import scipy.linalg
import torch
from scipy.linalg import helmert as scipy_helmert

from nclib.frames import (
    effective_rank,
    etf_gram,
    helmert,
    numerical_rank,
    principal_angles,
    seli,
    simplex_etf,
    stable_rank,
)

F64 = torch.float64


@pytest.mark.parametrize("K", [2, 3, 10, 101])
def test_helmert_is_scipys_up_to_sign(K):
    ours, scipys = helmert(K, dtype=F64), torch.from_numpy(scipy_helmert(K))
    torch.testing.assert_close(ours.abs(), scipys.abs(), rtol=0, atol=1e-14)
    torch.testing.assert_close(ours @ ours.T, torch.eye(K - 1, dtype=F64), rtol=0, atol=1e-13)
    assert ours.sum(1).abs().max() < 1e-13


@pytest.mark.parametrize(("K", "d"), [(2, 1), (2, 5), (4, 3), (10, None), (10, 10), (30, 64)])
@pytest.mark.parametrize("seed", [None, 0])
def test_simplex_etf(K, d, seed):
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    frame = simplex_etf(K, d, dtype=F64, generator=generator)
    assert frame.shape == (K, K - 1 if d is None else d)
    wanted = torch.full((K, K), -1 / (K - 1), dtype=F64).fill_diagonal_(1)
    torch.testing.assert_close(frame @ frame.T, wanted, rtol=0, atol=1e-13)
    assert frame.sum(0).abs().max() < 1e-12
    gram = etf_gram(K, dtype=F64)
    torch.testing.assert_close(frame @ frame.T * (K - 1) ** 0.5 / K, gram, rtol=0, atol=1e-13)
    assert abs(float(gram.norm()) - 1) < 1e-13


def test_orientation_follows_the_generator():
    def draw(seed):
        return simplex_etf(5, 7, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(draw(1), draw(1))
    assert not torch.allclose(draw(1), draw(2))


def test_orientation_is_uniform():
    # The mean over orientations of a fixed vector is zero, also in the last coordinate, where an
    # uncorrected QR has a fixed sign.
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([simplex_etf(3, 2, generator=generator) for _ in range(400)])
    assert draws.mean(0).abs().max() < 0.15


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, F64])
def test_dtype(dtype):
    assert simplex_etf(4, 6, dtype=dtype).dtype == dtype
    assert helmert(4, dtype=dtype).dtype == dtype
    assert etf_gram(4, dtype=dtype).dtype == dtype
    assert simplex_etf(4).dtype == torch.get_default_dtype()


def test_errors():
    with pytest.raises(ValueError, match="d >= 4, got d=3"):
        simplex_etf(5, 3)
    for function in (simplex_etf, helmert, etf_gram):
        with pytest.raises(ValueError, match="K=1"):
            function(1)


# --- SELI, angles, ranks --------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [[5, 5, 5], [7, 3, 1, 1], [100, 1], [4, 9, 2, 30, 1]])
def test_seli_against_its_definition(counts):
    K, n = len(counts), torch.tensor(counts)
    y = torch.arange(K).repeat_interleave(n)
    Z = (torch.eye(K, dtype=torch.float64) - 1 / K)[:, y]  # (K, N)
    V, s, Ut = torch.linalg.svd(Z, full_matrices=False)
    V, s, Ut = V[:, : K - 1], s[: K - 1], Ut[: K - 1]
    W, M = seli(counts, dtype=torch.float64)
    assert W.shape == M.shape == (K, K - 1)
    torch.testing.assert_close(W @ W.T, (V * s) @ V.T)
    torch.testing.assert_close(M[y] @ M[y].T, (Ut.T * s) @ Ut)
    torch.testing.assert_close(W @ M[y].T, Z)
    if len(set(counts)) == 1:
        torch.testing.assert_close(
            W @ W.T / (W @ W.T).norm(), etf_gram(K, dtype=torch.float64))
        torch.testing.assert_close(W / W.norm(), M / M.norm())


def test_seli_refuses():
    for counts in ([3], [1, 0], [[1, 2]], [1, float("nan")]):
        with pytest.raises(ValueError, match="at least two positive"):
            seli(counts)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-3, 0.7, 1.57, math.pi / 2])
def test_principal_angles_of_known_planes(angle):
    A = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.float64)
    B = torch.tensor([[1.0, 0, 0, 0], [0, math.cos(angle), math.sin(angle), 0]]).double()
    B[1, 1], B[1, 2] = math.cos(angle), math.sin(angle)
    mixed = torch.tensor([[2.0, 1], [-1, 3]], dtype=torch.float64) @ B
    found = principal_angles(A, mixed)
    torch.testing.assert_close(
        found, torch.tensor([0, angle], dtype=torch.float64), rtol=1e-6, atol=2e-15)


def test_principal_angles_against_scipy():
    g = torch.Generator().manual_seed(0)
    for p, q in ((2, 3), (3, 3), (4, 1)):
        A, B = (torch.randn(r, 6, generator=g, dtype=torch.float64) for r in (p, q))
        expected = scipy.linalg.subspace_angles(A.T.numpy(), B.T.numpy())[::-1].copy()
        torch.testing.assert_close(principal_angles(A, B), torch.tensor(expected))
        doubled = torch.cat([A, A[:1]])  # a dependent row adds no angle
        torch.testing.assert_close(principal_angles(doubled, B), torch.tensor(expected))
    batch = torch.randn(5, 2, 6, generator=g, dtype=torch.float64)
    each = torch.stack([principal_angles(A, b) for b in batch])
    torch.testing.assert_close(principal_angles(A.expand(5, -1, -1), batch), each)
    for bad, words in (((A, A[:, :3]), "no angles"), ((A, 0 * A), "zero")):
        with pytest.raises(ValueError, match=words):
            principal_angles(*bad)


def test_ranks():
    s = torch.tensor([4.0, 2, 1, 1e-9], dtype=torch.float64)
    g = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(6, 4, generator=g, dtype=torch.float64)).Q
    A = (Q * s) @ torch.linalg.qr(torch.randn(4, 4, generator=g, dtype=torch.float64)).Q
    assert numerical_rank(A) == 4 and numerical_rank(A.float()) == 3
    assert numerical_rank(A, rtol=0.3) == 2 and numerical_rank(0 * A) == 0
    assert stable_rank(A) == pytest.approx(21 / 16)
    share = torch.tensor([4.0, 2, 1]) / 7
    entropy = -(share * share.log()).sum()
    assert effective_rank(A) == pytest.approx(float(entropy.exp()), rel=1e-6)
    assert effective_rank(torch.eye(5)) == pytest.approx(5) and stable_rank(torch.eye(5)) == 5
    assert stable_rank(0 * A) == effective_rank(0 * A) == 0
    assert stable_rank(A * 1e200) == pytest.approx(21 / 16)
    with pytest.raises(ValueError, match="finite matrix"):
        stable_rank(A / 0)
