"""The unconstrained-features model against independent forms, and the batched solver."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nclib import collapse, ufm

F64 = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_loss_against_cross_entropy():
    x = ufm.init(3, 4, 5, 6, generator=generator())
    x["b"] += torch.randn(3, 4, dtype=F64, generator=generator(1))
    lam = torch.tensor([0.1, 0.2, 0.3], dtype=F64)
    loss = ufm.ce_loss(**x, lam_w=lam, lam_h=0.01, lam_b=0.5)
    y = ufm.labels(4, 5)
    for i in range(3):
        W, H, b = x["W"][i], x["H"][i], x["b"][i]
        expected = torch.nn.functional.cross_entropy(H @ W.T + b, y)
        expected += 0.5 * (lam[i] * W.norm() ** 2 + 0.01 * H.norm() ** 2 + 0.5 * b.norm() ** 2)
        assert loss[i] == pytest.approx(expected.item(), rel=1e-14)


@pytest.mark.parametrize(
    "shapes",
    [((2, 4, 3), (2, 8, 5), (2, 4)), ((2, 4, 3), (2, 9, 3), (2, 4)), ((4, 3), (8, 3), (4,))],
)
def test_loss_rejects_shapes(shapes):
    W, H, b = (torch.zeros(s) for s in shapes)
    with pytest.raises(ValueError, match=r"expected|balanced"):
        ufm.ce_loss(W, H, b, 0.1, 0.1)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    K=st.integers(2, 6), n=st.integers(1, 4), extra=st.integers(-1, 2),
    lam_w=st.floats(1e-3, 0.3), lam_h=st.floats(1e-3, 0.3),
)
def test_solver_reaches_the_closed_form(K, n, extra, lam_w, lam_h):
    best = ufm.ce_optimum(K, n, lam_w, lam_h)
    if abs(K * best.s - 1) < 0.02:
        return  # at the transition the curvature vanishes and convergence is slow
    loss = partial(ufm.ce_loss, lam_w=lam_w, lam_h=lam_h, lam_b=0.1)
    found = ufm.minimize(loss, ufm.init(4, K, n, K + extra, generator=generator()), max_iter=5000)
    assert found.converged.all()
    assert torch.allclose(found.loss, best.loss.expand(4), rtol=1e-10, atol=0)
    assert (found.x["W"].norm(dim=-1) - best.weight_norm).abs().max() < 1e-6
    assert (found.x["H"].norm(dim=-1) - best.feature_norm).abs().max() < 1e-6


def test_optimum_is_a_lower_bound_and_stationary():
    """f* beats any scale of the ETF, and matches a one-dimensional minimization."""
    K, n, lam_w, lam_h = 5, 3, 0.01, 0.02
    best = ufm.ce_optimum(K, n, lam_w, lam_h)
    gap = torch.linspace(0, 20, 200_001, dtype=F64)
    line = torch.log1p((K - 1) * torch.exp(-gap)) + (K - 1) * best.s * gap
    assert line.min().item() == pytest.approx(best.loss.item(), abs=1e-9)
    assert gap[line.argmin()].item() == pytest.approx(best.gap.item(), abs=1e-4)


def test_optimum_is_continuous_at_the_transition():
    K, n = 4, 2
    lam = torch.tensor([0.999999, 1.0, 1.000001, 3.0], dtype=F64) / K / n**0.5
    best = ufm.ce_optimum(K, n, lam, lam)
    log_k = torch.log(torch.tensor(4.0, dtype=F64))
    assert torch.allclose(best.loss, log_k.expand(4), atol=1e-9)
    assert best.weight_norm[0] > 1e-4 and best.weight_norm[1] < 1e-6
    assert (best.weight_norm[2:] == 0).all()


def test_collapse_at_the_optimum():
    loss = partial(ufm.ce_loss, lam_w=1e-2, lam_h=1e-2, lam_b=1e-2)
    found = ufm.minimize(loss, ufm.init(1, 4, 6, 5, generator=generator()))
    x = {k: v[0] for k, v in found.x.items()}
    r = collapse.measure(x["H"], ufm.labels(4, 6), x["W"], x["b"])
    assert max(r.nc1, r.nc2_etf, r.nc2_etf_weight, r.nc3, r.nc4_bias) < 1e-7
    assert r.nc4 == 0


@pytest.mark.parametrize("arguments", [(1, 2, 0.1, 0.1), (3, 0, 0.1, 0.1), (3, 2, 0.0, 0.1)])
def test_optimum_rejects(arguments):
    with pytest.raises(ValueError, match=r"need|positive"):
        ufm.ce_optimum(*arguments)


def test_batch_gives_what_single_problems_give():
    start = ufm.init(6, 3, 4, 5, scale=torch.linspace(0.01, 2, 6), generator=generator())
    lam = torch.logspace(-3, -1, 6, dtype=F64)
    together = ufm.minimize(partial(ufm.ce_loss, lam_w=lam, lam_h=lam, lam_b=0.1), start)
    assert together.converged.all() and (together.grad_norm < 1e-10).all()
    for i in range(6):
        one = {k: v[i : i + 1] for k, v in start.items()}
        alone = ufm.minimize(partial(ufm.ce_loss, lam_w=lam[i], lam_h=lam[i], lam_b=0.1), one)
        assert alone.loss.item() == pytest.approx(together.loss[i].item(), rel=1e-12)


def rosenbrock(x):
    return ((1 - x[:, :-1]) ** 2 + 100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2).sum(1)


def test_minimize_on_rosenbrock():
    start = {"x": torch.randn(20, 4, dtype=F64, generator=generator()) * 0.5 + 1}
    before = start["x"].clone()
    found = ufm.minimize(rosenbrock, start, tol=1e-9)
    assert found.converged.all()
    assert torch.equal(start["x"], before)  # not modified
    reached = (found.x["x"] - 1).abs().amax(1) < 1e-6  # there is a second minimum, near x₁ = −1
    assert reached.float().mean() > 0.5
    assert found.loss.max() < 4


def test_minimize_against_scipy():
    from scipy.optimize import minimize

    x0 = torch.tensor([[-1.2, 1.0]], dtype=F64)
    ours = ufm.minimize(rosenbrock, {"x": x0}, tol=1e-10)
    theirs = minimize(lambda v: rosenbrock(torch.tensor(v)[None]).item(), x0[0].numpy())
    assert ours.loss.item() <= theirs.fun + 1e-12


def test_minimize_reports_what_did_not_converge():
    found = ufm.minimize(rosenbrock, {"x": torch.zeros(2, 3, dtype=F64)}, max_iter=2)
    assert found.iterations == 2 and not found.converged.any()


def test_minimize_leaves_finished_problems_alone():
    start = {"x": torch.tensor([[1.0, 1.0], [0.0, 0.0]], dtype=F64)}
    found = ufm.minimize(rosenbrock, start)
    assert torch.equal(found.x["x"][0], start["x"][0]) and found.converged.all()


def test_minimize_rejects():
    x = {"x": torch.zeros(2, 3, dtype=F64)}
    with pytest.raises(ValueError, match="must have shape"):
        ufm.minimize(lambda x: x.sum(), x)
    with pytest.raises(ValueError, match="not finite"):
        ufm.minimize(lambda x: (x / 0).sum(1), x)
    with pytest.raises(ValueError, match="leading axes"):
        ufm.minimize(rosenbrock, x | {"y": torch.zeros(3, 1, dtype=F64)})


# --- any class sizes, decays of every kind --------------------------------------------------------


def test_class_sizes():
    y = ufm.labels(3, [2, 1, 4])
    assert y.tolist() == [0, 0, 1, 2, 2, 2, 2]
    g = torch.Generator().manual_seed(0)
    x = ufm.init(2, 3, [2, 1, 4], 5, scale=1.0, generator=g)
    x["b"] = torch.randn(2, 3, dtype=torch.float64, generator=g)
    lam_w, lam_h = torch.tensor([0.1, 0.3], dtype=torch.float64), 0.2
    loss = ufm.ce_loss(**x, lam_w=lam_w, lam_h=lam_h, lam_b=0.5, counts=[2, 1, 4])
    for i in range(2):
        W, H, b = (x[k][i] for k in "WHb")
        fit = torch.nn.functional.cross_entropy(H @ W.T + b, y)
        decay = lam_w[i] * W.square().sum() + lam_h * H.square().sum() + 0.5 * b.square().sum()
        torch.testing.assert_close(loss[i], fit + decay / 2)
    balanced = ufm.init(2, 3, 4, 5, generator=g)
    kwargs = {"lam_w": 0.1, "lam_h": 0.2}
    torch.testing.assert_close(
        ufm.ce_loss(**balanced, **kwargs), ufm.ce_loss(**balanced, **kwargs, counts=[4, 4, 4]))
    M = torch.randn(2, 3, 5, dtype=torch.float64, generator=g)
    torch.testing.assert_close(
        ufm.ce_class_loss(x["W"], M, x["b"], [2, 1, 4], lam_w, lam_h, 0.5),
        ufm.ce_loss(x["W"], M[:, y], x["b"], lam_w, lam_h, 0.5, counts=[2, 1, 4]))
    with pytest.raises(ValueError, match="the classes have 6"):
        ufm.ce_loss(**x, lam_w=1, lam_h=1, counts=[2, 1, 3])
    with pytest.raises(ValueError, match="class sizes of at least 1"):
        ufm.labels(3, [2, 0, 1])


def test_solver_finds_the_closed_form_and_proves_it():
    lam = torch.tensor([1e-3, 3e-3, 0.2], dtype=torch.float64)
    found = ufm.ce_solve(torch.full((4,), 10.0), lam, 1e-3)
    exact = ufm.ce_optimum(4, 10, lam, 1e-3)
    assert (found.loss - exact.loss).abs().max() < 1e-10
    assert (found.excess < 1e-6).all()
    gap = found.logits[0].diagonal() - found.logits[0, :, [1, 0, 3, 2]].diagonal()
    torch.testing.assert_close(gap, exact.gap[0].expand(4), rtol=1e-6, atol=1e-6)
    zero = ufm.ce_solve([10.0, 10], 1.0, 1.0)
    assert zero.loss == pytest.approx(math.log(2)) and zero.weight.abs().max() < 1e-4


def test_solver_on_unequal_sizes_has_no_better_start_and_shows_minority_collapse():
    counts = [40, 40, 2, 2]
    found = ufm.ce_solve(counts, 2e-2, 2e-2, bias=False)
    assert found.excess < 1e-6
    start = ufm.init(6, 4, counts, 6, scale=0.5, generator=torch.Generator().manual_seed(0))
    none = start.pop("b")
    solved = ufm.minimize(
        lambda W, H: ufm.ce_loss(W, H, none, 2e-2, 2e-2, counts=counts), start, max_iter=3000)
    assert solved.loss.min() == pytest.approx(float(found.loss), abs=1e-9)
    assert (solved.loss > found.loss - 1e-10).all()
    rows = found.weight[0] - found.weight[0].mean(0)
    near, far = (rows[2] - rows[3]).norm(), (rows[0] - rows[1]).norm()
    assert near < 0.01 * far


@pytest.mark.parametrize("shape", [(2, 1), (3,), (1, 2), (1,)])
def test_decays_of_another_shape_are_refused(shape):
    lam = torch.full(shape, 0.1, dtype=torch.float64)
    x = ufm.init(2, 3, 2, 4)
    deep = ufm.deep_init(2, 3, 2, 4, 2)
    for call in (
        lambda: ufm.ce_loss(**x, lam_w=lam, lam_h=0.1),
        lambda: ufm.ce_loss(**x, lam_w=0.1, lam_h=lam),
        lambda: ufm.ce_loss(**x, lam_w=0.1, lam_h=0.1, lam_b=lam),
        lambda: ufm.deep_loss(**deep, lam_w=lam, lam_h=0.1),
        lambda: ufm.deep_loss(**deep, lam_w=[0.1, lam], lam_h=0.1),
        lambda: ufm.deep_descend(deep, rate=0.1, steps=1, lam_w=0.1, lam_h=lam),
        lambda: ufm.regression_loss(x["W"], x["H"], x["b"], torch.ones(6, 3), lam, 0.1),
    ):
        with pytest.raises(ValueError, match=r"must be a number or \(2,\)"):
            call()
