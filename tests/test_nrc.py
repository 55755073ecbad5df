"""Regression collapse: NRC1-3, the fit of gamma, the closed-form optimum, the data that ship."""

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nclib import data, nrc, ufm

F64 = {"dtype": torch.float64}


def generator(seed):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), **F64)


def correlated(M=50, n=3, seed=0):
    g = generator(seed)
    Y = torch.randn(M, n, generator=g, **F64) @ torch.randn(n, n, generator=g, **F64)
    return Y + torch.randn(1, n, generator=g, **F64)


def covariance(Y):
    Y = Y - Y.mean(0)
    return Y.T @ Y / len(Y)


# --- independent forms: samples one by one, NumPy ------------------------------------------------


def textbook_nrc1(H, n):
    H = H.numpy()
    directions = np.linalg.svd(H - H.mean(0), full_matrices=False)[2][:n]
    total = 0.0
    for h in H:
        u = h / np.linalg.norm(h)
        total += np.linalg.norm(u - directions.T @ (directions @ u)) ** 2
    return total / len(H)


def textbook_nrc2(H, W):
    basis = np.linalg.qr(W.numpy().T)[0]
    units = [h / np.linalg.norm(h) for h in H.numpy()]
    return np.mean([np.linalg.norm(u - basis @ (basis.T @ u)) ** 2 for u in units])


def textbook_nrc3(W, root, gamma):
    G, A = (W @ W.T).numpy(), root.numpy() - math.sqrt(gamma) * np.eye(len(root))
    return np.linalg.norm(G / np.linalg.norm(G) - A / np.linalg.norm(A)) ** 2


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(2, 4), st.integers(5, 9))
def test_measures_against_textbook_forms(seed, n, d):
    H, W, Y = draw(40, d, seed=seed) + 0.5, draw(n, d, seed=seed + 1), correlated(40, n, seed)
    root = nrc.covariance_root(Y)
    gamma = 0.3 * float(torch.linalg.eigvalsh(root)[0]) ** 2
    assert nrc.nrc1(H, n).item() == pytest.approx(textbook_nrc1(H, n), abs=1e-9)
    assert nrc.nrc2(H, W).item() == pytest.approx(textbook_nrc2(H, W), abs=1e-9)
    got = nrc.nrc3(W, root, gamma).item()
    assert got == pytest.approx(textbook_nrc3(W, root, gamma), abs=1e-9)
    assert 0 <= nrc.nrc1(H, n) <= 1 and 0 <= nrc.nrc2(H, W) <= 1 and 0 <= got <= 4


def test_a_batch_is_its_members():
    H, W, Y = draw(3, 30, 7), draw(3, 2, 7, seed=1), correlated(30, 2)
    batch = nrc.measure_regression(H, Y, W, draw(3, 2, seed=2))
    for i in range(3):
        one = nrc.measure_regression(H[i], Y, W[i], draw(3, 2, seed=2)[i])
        for name in ("nrc1", "nrc1_centered", "nrc2", "nrc2_centered", "nrc3", "gamma_ratio", "evr",
                     "rank", "mse", "r2", "feature_norm", "weight_norm"):
            torch.testing.assert_close(getattr(batch, name)[i], getattr(one, name), rtol=1e-9,
                                       atol=1e-12)


def test_scale_and_rotation_do_not_matter():
    H, W, Y = draw(40, 6), draw(2, 6, seed=1), correlated(40, 2)
    Q = torch.linalg.qr(draw(6, 6, seed=2)).Q
    a = nrc.measure_regression(H, Y, W)
    b = nrc.measure_regression(7 * H @ Q, Y, 0.1 * W @ Q)
    for name in ("nrc1", "nrc2", "nrc1_centered", "nrc2_centered", "nrc3", "evr"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-9, atol=1e-12)


def test_features_are_not_centered_unless_asked():
    basis = torch.linalg.qr(draw(6, 3)).Q.T
    H = draw(200, 2, seed=1) @ basis[:2] + 5 * basis[2]  # a plane, away from the origin
    assert nrc.nrc1(H, 2) > 0.5 and nrc.nrc2(H, basis[:2]) > 0.5
    assert nrc.nrc1(H, 2, centered=True) < 1e-24
    assert nrc.nrc2(H, basis[:2], centered=True) < 1e-24
    assert nrc.explained_variance(H)[2:].sum() < 1e-14


def test_evr_is_that_of_scikit_learn():
    from sklearn.decomposition import PCA

    H = draw(60, 5) + 3
    want = PCA(5).fit(H.numpy()).explained_variance_ratio_
    np.testing.assert_allclose(nrc.explained_variance(H, 4), want[:4], atol=1e-12)


def test_zero_features_count_as_inside_and_a_switched_off_row_does_not_count():
    H = draw(10, 4)
    H[0] = 0
    inside = nrc.nrc2(H, torch.eye(4, **F64)[:3])
    assert torch.isfinite(inside)
    W = torch.zeros(2, 4)
    W[0, 0], W[1, 1] = 1.0, 1e-12  # float32 rounding of a direction that decayed
    assert nrc.nrc2(torch.eye(4, **F64), W) == pytest.approx(3 / 4)


# --- traps ---------------------------------------------------------------------------------------


def exact_weight(root, gamma, d=6):
    A = root - gamma**0.5 * torch.eye(len(root), **F64)
    return torch.linalg.cholesky(A) @ torch.linalg.qr(draw(d, d, seed=9)).Q[: len(root)]


def test_target_shift_changes_nothing():
    Y = correlated()
    torch.testing.assert_close(nrc.covariance_root(Y + 100), nrc.covariance_root(Y))


def test_covariance_is_divided_by_the_number_of_samples():
    Y = correlated()
    root = nrc.covariance_root(Y)
    np.testing.assert_allclose(root @ root, np.cov(Y.numpy().T, bias=True), atol=1e-12)
    assert torch.equal(root, root.T) or torch.allclose(root, root.T, atol=1e-14)


def test_second_moment_cholesky_and_missing_1_over_m_are_seen():
    Y = correlated(M=50, n=3, seed=4)
    root = nrc.covariance_root(Y)
    gamma = 0.5 * float(torch.linalg.eigvalsh(root)[0]) ** 2
    W = exact_weight(root, gamma)
    assert nrc.nrc3(W, root, gamma) < 1e-24
    moment = nrc.covariance_root(torch.cat((Y, -Y)))  # about zero, not about the mean
    factor = torch.linalg.cholesky(covariance(Y))
    sums = root * len(Y) ** 0.5
    for wrong in (moment, factor, sums):
        assert nrc.nrc3(W, wrong, gamma) > 1e-4


def test_gamma_of_f1_is_another_one():
    root = nrc.covariance_root(correlated(n=2))
    smallest = float(torch.linalg.eigvalsh(root)[0]) ** 2
    W = exact_weight(root, 0.4 * smallest) / 2**0.5
    fit = nrc.nrc3_fit(W, root)
    assert fit.value < 1e-24 and fit.ratio == pytest.approx(0.4) and fit.inside
    gamma_f1 = ((root.trace() - (W @ W.T).trace()) / 2) ** 2
    assert nrc.nrc3(W, root, gamma_f1) > 1e-3


# --- the fit of gamma against the paper's grid ---------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(2, 5), st.booleans())
def test_fit_is_the_best_of_a_grid(seed, n, near):
    root = nrc.covariance_root(correlated(30, n, seed))
    smallest = torch.linalg.eigvalsh(root)[0].square()
    W = draw(n, 6, seed=seed)
    if near:
        noise = 0.01 * smallest**0.25 * draw(n, 8, seed=1)
        W = exact_weight(root, 0.7 * float(smallest), 8) + noise
    fit = nrc.nrc3_fit(W, root)
    grid = torch.linspace(0, 1, 1000, **F64) * smallest
    values = nrc.nrc3(W, root, grid)
    assert fit.value <= values.min() + 1e-12
    assert 0 <= fit.ratio <= 1 + 1e-12
    assert fit.value.item() == pytest.approx(nrc.nrc3(W, root, fit.gamma).item(), abs=1e-12)
    if fit.inside:
        assert abs(values.argmin() / 999 - fit.ratio) <= 1 / 999


def test_fit_at_the_ends():
    root = torch.diag(torch.tensor([1.0, 2.0], **F64))
    lost = nrc.nrc3_fit(torch.tensor([[0.0, 0.0], [0.0, 1.0]], **F64), root)
    assert lost.ratio == 1 and lost.value < 1e-28 and not lost.inside
    other = nrc.nrc3_fit(torch.eye(2, **F64), root)  # rounder than Sigma^{1/2}
    assert other.ratio == 0 and not other.inside
    wrong_way = nrc.nrc3_fit(torch.diag(torch.tensor([2.0, 1.0], **F64)), root)
    assert wrong_way.ratio in (0, 1)
    ball = nrc.nrc3_fit(torch.eye(2, **F64), torch.eye(2, **F64))
    assert ball.value < 1e-28  # every gamma is as good
    single = nrc.nrc3_fit(draw(1, 4), torch.ones(1, 1, **F64))
    assert single.value == 0


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: nrc.nrc1(torch.ones(5, 3), 2), "constant"),
        (lambda: nrc.nrc1(draw(5, 3), 4), "num_targets"),
        (lambda: nrc.nrc1(draw(5), 1), "must be"),
        (lambda: nrc.nrc1(draw(5, 3) * math.nan, 1), "NaN"),
        (lambda: nrc.nrc2(draw(5, 3), torch.zeros(2, 3)), "zero"),
        (lambda: nrc.nrc2(draw(5, 3), draw(2, 4)), "weight is"),
        (lambda: nrc.nrc3(torch.zeros(2, 3), torch.eye(2), 0.1), "zero"),
        (lambda: nrc.nrc3(draw(2, 3), torch.eye(3), 0.1), "root"),
        (lambda: nrc.nrc3(draw(2, 3), torch.eye(2), -0.1), "negative"),
        (lambda: nrc.explained_variance(draw(5, 3), 4), "k must"),
        (lambda: nrc.covariance_root(draw(1, 3)), "N >= 2"),
        (lambda: nrc.measure_regression(draw(5, 3), draw(4, 2), draw(2, 3)), "targets are"),
    ],
)
def test_metrics_refuse(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_dead_network_in_a_batch_is_nan():
    H, W = draw(2, 20, 4), draw(2, 2, 4)
    H[1], W[1] = 1.0, 0.0
    report = nrc.measure_regression(H, correlated(20, 2), W)
    for name in ("nrc1", "nrc2", "nrc3"):
        assert getattr(report, name)[0].isfinite() and getattr(report, name)[1].isnan()
    assert report.rank[1] == 0 and report.weight_norm[1] == 0


# --- the optimum of the model --------------------------------------------------------------------


def regimes(S):
    v = torch.linalg.eigvalsh(S)
    return [v[0] / 2, *(v[1:] * v[:-1]).sqrt(), 2 * v[-1]]


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 4), st.floats(0.2, 5))
def test_optimum_is_critical_with_the_stated_loss(seed, n, ratio):
    Y = correlated(30, n, seed)
    S = covariance(Y)
    for j, c in enumerate(regimes(S)):
        lam_w, lam_h = float((c * ratio) ** 0.5), float((c / ratio) ** 0.5)
        best = ufm.regression_optimum(S, lam_w, lam_h)
        x = ufm.regression_solution(Y, lam_w, lam_h, n + 2, generator=generator(seed))
        x = {k: v.requires_grad_() for k, v in x.items()}
        loss = ufm.regression_loss(**x, targets=Y, lam_w=lam_w, lam_h=lam_h)
        slopes = torch.autograd.grad(loss.sum(), list(x.values()))
        scale = float(S.trace())
        assert max(float(s.abs().max()) for s in slopes) < 1e-12 * (1 + scale)
        assert abs(float(loss.detach()) - float(best.loss)) < 1e-12 * scale
        W, H, b = (x[k][0].detach() for k in "WHb")
        torch.testing.assert_close(W @ W.T, best.gram, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(covariance(H @ W.T + b - Y), best.residual, rtol=1e-9, atol=1e-9)
        assert int(best.rank) == n - j
        if j < n:
            got = nrc.explained_variance(H, n)
            torch.testing.assert_close(got, best.evr, rtol=1e-8, atol=1e-9)


def test_solver_does_not_get_below():
    Y = correlated(20, 2, 3)
    S = covariance(Y)
    c = torch.stack(regimes(S)).repeat_interleave(4)
    shapes = {"W": (12, 2, 4), "H": (12, 20, 4), "b": (12, 2)}
    start = {k: torch.randn(s, generator=generator(5), **F64) for k, s in shapes.items()}

    def loss(**x):
        return ufm.regression_loss(**x, targets=Y, lam_w=c.sqrt(), lam_h=c.sqrt())

    found = ufm.minimize(loss, start, tol=1e-10)
    best = ufm.regression_optimum(S, c.sqrt(), c.sqrt())
    assert (found.loss / best.loss - 1).abs().max() < 1e-9
    assert (found.x["W"] @ found.x["W"].mT - best.gram).abs().max() < 1e-5


def test_one_output_is_the_papers_formula():
    Y = correlated(40, 1, 2)
    sigma, lam_w, lam_h = float(covariance(Y) ** 0.5), 0.05, 0.02
    c = lam_w * lam_h
    W = ufm.regression_solution(Y, lam_w, lam_h, 3)["W"]
    assert float(W.square().sum()) == pytest.approx(lam_h * (sigma / c**0.5 - 1))


def test_mean_over_components_is_lambda_times_n():
    Y, n = correlated(20, 3), 3
    W, H, b = draw(1, 3, 5), draw(1, 20, 5, seed=1), draw(1, 3, seed=2)
    mean = (H @ W.mT + b - Y).square().mean() / 2
    mean = mean + 0.1 / 2 * (H.square().sum() / 20 + W.square().sum())
    summed = ufm.regression_loss(W, H, b, Y, n * 0.1, n * 0.1)
    assert float(n * mean) == pytest.approx(float(summed))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ufm.regression_optimum(torch.eye(2), 0.0, 0.1), "positive"),
        (lambda: ufm.regression_optimum(torch.tensor([[1.0, 0.5], [0.0, 1.0]]), 0.1, 0.1), "symm"),
        (lambda: ufm.regression_optimum(-torch.eye(2), 0.1, 0.1), "negative"),
        (lambda: ufm.regression_optimum(torch.ones(2, 3), 0.1, 0.1), "must be"),
        (lambda: ufm.regression_solution(correlated(), 0.1, 0.1, 2), "d ≥ n"),
        (lambda: ufm.regression_solution(torch.ones(5, 2), 0.1, 0.1, 2), "singular"),
        (
            lambda: ufm.regression_loss(
                draw(1, 3, 5), draw(1, 20, 5), draw(1, 3), draw(19, 3), 0.1, 0.1
            ),
            "expected",
        ),
    ],
)
def test_model_refuses(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# --- data ----------------------------------------------------------------------------------------

ROBOTS = {"reacher": (1000, 10, 2), "swimmer": (1000, 8, 2), "swimmer-slow": (1000, 8, 2),
          "hopper": (2000, 11, 3)}


@pytest.mark.parametrize("name", ROBOTS)
def test_robots(name):
    N, D, n = ROBOTS[name]
    for split, count in (("train", N), ("test", N // 5)):
        part = data.load_regression(name, split)
        assert part.inputs.shape == (count, D) and part.targets.shape == (count, n)
        assert part.inputs.dtype == part.targets.dtype == np.float32
        assert np.isfinite(part.inputs).all() and np.abs(part.targets).max() <= 1
        assert len(part.target_names) == n and len(part) == count and name in repr(part)
        with pytest.raises(ValueError, match="read-only"):
            part.targets[0] = 0
    x, y = part.tensors()
    assert x.dtype == torch.float32 and y.shape == (count, n)


def test_linnerud_is_scikit_learns():
    from sklearn.datasets import load_linnerud

    part = data.load_regression("linnerud")
    np.testing.assert_array_equal(part.targets, load_linnerud().target.astype(np.float32))
    assert part.returns is None


def test_regression_data_refuse(monkeypatch):
    for call, words in (
        (lambda: data.load_regression("ant"), "unknown"),
        (lambda: data.load_regression("hopper", "all"), "split"),
        (lambda: data.load_regression("linnerud", "test"), "no test"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    monkeypatch.setattr(data.registry, "ROBOTS", data.File("mujoco-small.npz", ("sha256:0",)))
    with pytest.raises(data.DataError, match="ships with nclib"):
        data.load_regression("hopper")


def script(monkeypatch):
    """The generating script as a module; it imports its neighbor."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    path = Path(data.__file__).parents[1] / "_data" / "make_mujoco_small.py"
    spec = importlib.util.spec_from_file_location("make_mujoco_small", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ROBOTS)
def test_shipped_actions_are_the_scripts(name, monkeypatch):
    module = script(monkeypatch)
    part = data.load_regression(name, "test")
    policy = module.RECIPES[name][1]
    actions = np.stack([np.clip(policy(s), -1, 1) for s in part.inputs.astype(np.float64)])
    np.testing.assert_allclose(actions, part.targets, atol=2e-4)


# --- an independent textbook of the whole report, and the edges -----------------------------------


def numpy_report(H, Y, W, b):
    """The report of one network from the definitions, with loops over samples, in NumPy."""
    H, Y, W, b = (np.asarray(v, dtype=np.float64) for v in (H, Y, W, b))
    N, n = Y.shape
    mean = H.mean(0)
    S = np.cov((H - mean).T, ddof=0)
    variances, directions = np.linalg.eigh(S)
    V = directions[:, ::-1][:, :n]
    rows = np.linalg.qr(W.T)[0]

    def outside(points, basis):
        total = 0.0
        for h in points:
            u = h / np.linalg.norm(h)
            total += np.linalg.norm(u - basis @ (basis.T @ u)) ** 2
        return total / N

    root = scipy.linalg.sqrtm(np.cov(Y.T, ddof=0)).real
    least = np.linalg.eigvalsh(root)[0]
    grid = np.linspace(0, least, 200_001)[:-1]
    G = W @ W.T / np.linalg.norm(W @ W.T)
    flat = root
    traces = np.trace(flat), np.linalg.norm(flat) ** 2
    inner = np.sum(G * root) - grid * np.trace(G)
    sizes = np.sqrt(traces[1] - 2 * grid * traces[0] + n * grid**2)
    nrc3 = 2 - 2 * inner / sizes
    best = int(nrc3.argmin())
    errors = np.array([W @ h + b - y for h, y in zip(H, Y, strict=True)])
    spread = Y - Y.mean(0)
    share = variances[::-1] / variances.sum()
    return {
        "nrc1": outside(H, V), "nrc1_centered": outside(H - mean, V),
        "nrc2": outside(H, rows), "nrc2_centered": outside(H - mean, rows),
        "nrc3": nrc3[best], "gamma_ratio": (grid[best] / least) ** 2,
        "gamma_inside": 0 < best < len(grid) - 1,
        "evr": share[:5], "rank": int((share > 1e-3).sum()),
        "mse": (errors**2).sum() / (N * n), "r2": 1 - (errors**2).sum() / (spread**2).sum(),
        "feature_norm": np.sqrt((H**2).sum() / N), "weight_norm": np.sqrt((W**2).sum()),
    }


@pytest.mark.parametrize("seed", range(4))
def test_report_against_an_independent_textbook(seed):
    rng = np.random.default_rng(seed)
    Y = rng.standard_normal((60, 3)) @ rng.standard_normal((3, 3)) + 1
    root = scipy.linalg.sqrtm(np.cov(Y.T, ddof=0)).real
    shrunk = root - 0.4 * np.linalg.eigvalsh(root)[0] * np.eye(3)
    W = scipy.linalg.sqrtm(shrunk).real @ np.linalg.qr(rng.standard_normal((7, 3)))[0].T
    W = W + 0.02 * rng.standard_normal(W.shape)
    H = (Y - Y.mean(0)) @ np.linalg.pinv(W).T + 0.1 * rng.standard_normal((60, 7)) + 0.3
    b = Y.mean(0) + 0.2 * rng.standard_normal(3)
    report = nrc.measure_regression(*(torch.tensor(v) for v in (H, Y, W, b)))
    for name, expected in numpy_report(H, Y, W, b).items():
        found = np.asarray(getattr(report, name))
        np.testing.assert_allclose(found, expected, rtol=2e-4 if "gamma" in name else 1e-8,
                                   atol=1e-10, err_msg=name)
    assert set(numpy_report(H, Y, W, b)) == set(vars(report))


def test_rank_counts_what_has_more_than_a_thousandth_of_the_variance():
    t = torch.linspace(-1, 1, 200, dtype=torch.float64)
    basis = torch.stack([t, t**2 - (t**2).mean(), t**3 - 0.6 * t], 1)
    basis = torch.linalg.qr(basis).Q
    for share, expected in ((1.1e-3, 3), (0.9e-3, 2)):
        scale = torch.tensor([0.6, 0.4 - share, share], dtype=torch.float64).sqrt()
        H = basis * scale
        assert int(nrc.measure_regression(H, H[:, :1], torch.eye(1, 3)).rank) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nrc1_of_fewer_directions_than_targets(dtype):
    t = torch.tensor([-1.0, 0, 1, 2])
    H = torch.stack([t, torch.full_like(t, 2), torch.zeros(4)], 1).to(dtype)
    assert float(nrc.nrc1(H, 2)) == pytest.approx(0.775)  # mean of 4 / (4 + t²)
    for seed in range(5):
        g = torch.Generator().manual_seed(seed)
        Q = torch.linalg.qr(torch.randn(3, 3, generator=g, dtype=torch.float64)).Q
        turned = (H.double() @ Q).to(dtype)
        assert float(nrc.nrc1(turned, 2)) == pytest.approx(0.775, rel=1e-5)
        assert float(nrc.nrc1(turned, 2, centered=True)) == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("dtype, powers", [
    (torch.float32, (-30, 30)), (torch.float64, (-150, -80, 80, 150)),
])
def test_regression_measures_at_every_scale(dtype, powers):
    g = torch.Generator().manual_seed(0)
    H, Y, W = (torch.randn(*s, generator=g).to(dtype) for s in ((40, 6), (40, 2), (2, 6)))
    expected = nrc.measure_regression(H, Y, W)
    same = ("nrc1", "nrc1_centered", "nrc2", "nrc2_centered", "nrc3", "gamma_ratio", "rank", "evr")
    for power in powers:
        s = 10.0**power
        for report in (
            nrc.measure_regression(H * s, Y, W), nrc.measure_regression(H, Y * s, W),
            nrc.measure_regression(H, Y, W * s), nrc.measure_regression(H * s, Y * s, W),
        ):
            for name in same:
                torch.testing.assert_close(
                    getattr(report, name), getattr(expected, name), rtol=1e-5, atol=1e-9)
        report = nrc.measure_regression(H * s, Y, W)
        assert float(report.feature_norm) == pytest.approx(float(expected.feature_norm) * s, 1e-5)


def test_bias_is_checked():
    H, Y, W = torch.randn(2, 9, 4), torch.randn(9, 3), torch.randn(2, 3, 4)
    one = nrc.measure_regression(H, Y, W, torch.arange(3.0))
    each = nrc.measure_regression(H, Y, W, torch.arange(3.0).expand(2, 3))
    assert torch.equal(one.mse, each.mse)
    for bias in (torch.ones(1), torch.ones(4), torch.ones(3, 1), torch.ones(()), torch.ones(1, 3)):
        with pytest.raises(ValueError, match=r"bias must be \(2, 3\)"):
            nrc.measure_regression(H, Y, W, bias)
    with pytest.raises(ValueError, match="bias holds"):
        nrc.measure_regression(H, Y, W, torch.tensor([1, 2, torch.nan]))


def test_gamma_stays_in_its_interval():
    """A direction that W has lost pulls gamma beyond the smallest eigenvalue: the end is taken."""
    root = torch.diag(torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64))
    gram = torch.diag(torch.tensor([0.0, 0.1, 2.1], dtype=torch.float64))
    fit = nrc.nrc3_fit(gram.sqrt(), root)
    assert float(fit.gamma) == pytest.approx(0.25) and float(fit.ratio) == pytest.approx(1)
    assert not fit.inside and fit.value == nrc.nrc3(gram.sqrt(), root, 0.25)
