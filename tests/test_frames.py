"""Frames: what a simplex ETF must satisfy."""

import pytest
import torch
from scipy.linalg import helmert as scipy_helmert

from nclib.frames import etf_gram, helmert, simplex_etf

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
