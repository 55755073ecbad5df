"""The live figures: what the reader's browser computes is what nclib computes.

Headless Chromium runs the figures' own functions at three settings each; no built book is needed.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import Browser, chromium
from scipy.integrate import solve_ivp

from nclib import frames, polar, ufm

ROOT = Path(__file__).resolve().parents[1]
LIVE = ROOT / "pages" / "_static" / "live"
FIGURES = sorted(p.stem for p in LIVE.glob("*.js") if p.stem != "kit")
pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium on this machine")


def geometric_analysis(v):
    found = ufm.ce_optimum(int(v["K"]), int(v["n"]), v["lam"], v["lam"])
    return {"length": found.weight_norm, "feature": found.feature_norm, "loss": found.loss,
            "wrong": found.p_wrong}


def hadamard_softmax(v):
    """The matrix flow itself: W\' and H\' from autograd, modes read off in the Hadamard basis."""
    phi = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]).double() / 2
    root = torch.tensor([0.0, v["a"], v["b"], v["c"]]).double().sqrt()
    start = torch.stack([phi @ root.diag(), root.diag() @ phi])

    def slope(t, y):
        pair = torch.tensor(y).reshape(2, 4, 4).requires_grad_(True)
        logits = pair[0] @ pair[1]
        loss = (logits.logsumexp(0) - logits.diagonal()).sum()
        return -torch.autograd.grad(loss, pair)[0].reshape(-1).numpy()

    end = solve_ivp(slope, (0, v["t"]), start.reshape(-1).numpy(), method="DOP853",
                    rtol=1e-10, atol=1e-12).y[:, -1]
    W, H = torch.tensor(end).reshape(2, 4, 4)
    modes = (phi @ W @ H @ phi).diagonal()
    return dict(zip("abc", modes[1:], strict=True))


def regression_collapse(v):
    cov = torch.tensor([v["first"], v["first"] * v["share"]]).double().diag()
    found = ufm.regression_optimum(cov, v["c"] ** 0.5, v["c"] ** 0.5)
    values = torch.linalg.eigvalsh(found.gram.double())
    return {"one": values[-1], "two": values[0], "rank": (values > 1e-12).sum()}


def guiding_collapse(v):
    reference = [[torch.cos(a), torch.sin(a)] for a in torch.arange(3).double() * 2 * torch.pi / 3]
    turn, mirror = (torch.tensor(v[k]).double() * torch.pi / 180 for k in ("turn", "mirror"))
    first = v["length"] * torch.stack([torch.cos(turn), torch.sin(turn)])
    angle = 2 * torch.pi / 3 + mirror
    means = torch.stack([first, torch.stack([torch.cos(angle), torch.sin(angle)]),
                         torch.stack(reference[2])])
    frame = polar.nearest_simplex_etf(means)
    centered = means - means.mean(0)
    gap = (centered / centered.norm() - frame / 3**0.5).norm()
    return {"x": frame[0, 0], "y": frame[0, 1], "x2": frame[1, 0], "y2": frame[1, 1],
            "distance": gap}


def low_rank_bias(v):
    """Products of the norms of the layers themselves, and nclib's level of a rigid solution."""
    r, L = int(v["r"]), int(v["L"])
    edges = [(i, j) for i in range(r) for j in range(i)]
    B = torch.zeros(r, len(edges)).double()
    for k, (i, j) in enumerate(edges):
        B[i, k] = B[j, k] = 1
    K = len(edges)
    last = (B.mT - 0.5).norm()
    product = torch.linalg.svdvals(B).sum() * r ** ((L - 3) / 2) * last * K**0.5
    assert torch.allclose(((B.mT - 0.5) @ B).relu(), torch.eye(K).double())
    decay = v["lam"] ** (L + 1)
    return {"K": K, "collapse": ufm.dnc_level(K, L, decay),
            "graph": ufm.rigid_level(product, decay, L)[0]}


def multiple_centers(v):
    f, theta = int(v["f"]), torch.tensor(v["theta"]).double()
    rows = torch.linalg.qr(torch.randn(f + 1, f + 1, dtype=torch.float64)).Q
    w, centers = rows[0], theta.cos() * rows[1:] + theta.sin() * rows[0]
    mean = centers.mean(0)
    found = {"center": mean @ centers[0] / mean.norm() / centers[0].norm(),
             "row": mean @ w / mean.norm(), "weight": f * mean.square().sum()}
    return found | ({"pair": centers[0] @ centers[1]} if f > 1 else {})


def space_alignment(v):
    M = torch.zeros(3, 5).double()
    M[:, :2] = frames.simplex_etf(3, 2, dtype=torch.float64)
    phi = torch.tensor(v["phi"]).double() * torch.pi / 180
    turn = torch.eye(5).double()
    turn[0, 0] = turn[1, 1] = phi.cos()
    turn[0, 1], turn[1, 0] = -phi.sin(), phi.sin()
    tilt = phi.cos() * M + phi.sin() * torch.eye(5).double()[2:]

    def exponent(W):
        gaps = W[:, None] - W[None]
        along = (gaps * M[:, None]).sum(-1).clamp(min=0)
        values = along.square() / (2 * gaps.square().sum(-1))
        return values[~torch.eye(3, dtype=torch.bool)].min()

    return {"aligned": 3 / 8, "inside": exponent(M @ turn.mT), "outside": exponent(tilt)}


def geometric_complexity(v):
    """Moments by Gauss-Hermite quadrature of the smoothed waves and of autograd's derivative."""
    x, weights = (torch.tensor(q) for q in np.polynomial.hermite_e.hermegauss(120))
    weights = weights / weights.sum()
    waves = torch.tensor([[1, 0.5, 0], [0.5, 1.6, 0.7], [0.25, 3.1, 1.9]]).double()
    x = torch.stack([x - v["m"], x + v["m"]]).requires_grad_(True)
    a, w, b = waves.mT.unsqueeze(-1).unsqueeze(-1)
    f = a * (-(w**2) * v["s"] ** 2 / 2).exp() * torch.sin(w * x + b)
    slopes = torch.stack([torch.autograd.grad(g.sum(), x, retain_graph=True)[0] for g in f])
    f = f.detach()
    means = (f * weights).sum(-1)
    variance = ((f - means.unsqueeze(-1)) ** 2 * weights).sum((0, -1)).mean()
    complexity = (slopes**2 * weights).sum((0, -1)).mean()
    distance = (means[:, 0] - means[:, 1]).square().sum()
    assert variance <= complexity
    return {"complexity": complexity, "variance": variance, "collapse": variance / distance,
            "bound": complexity / distance}


def replay_forgetting(v):
    """From the moments of the two parts of the mixture, as matrices."""
    K, d, pi, u = 10, 40, v["share"], v["left"]
    inside = frames.simplex_etf(K, d, dtype=torch.float64) * v["beta"] ** 0.5
    span = torch.linalg.svd(inside, full_matrices=True).Vh
    outside = u * span[K - 1:2 * K - 1]
    noise_in = torch.eye(d).double() * v["delta"] / d
    shape = [v["beta"] / (K - 1)] * (K - 1) + [u**2 / (d - K + 1)] * (d - K + 1)
    noise_out = span.mT @ torch.tensor(shape).double().diag() @ span
    i, j = 0, 1

    def ratio(mean, cov):
        return (mean[i] - mean[j]).square().sum() / (cov[i].trace() + cov[j].trace())

    both = pi**2 * noise_in + (1 - pi) ** 2 * noise_out
    mean = pi * inside + (1 - pi) * outside
    gap = inside - outside
    law = [pi * noise_in + (1 - pi) * noise_out + pi * (1 - pi) * torch.outer(g, g) for g in gap]
    return {"sum": ratio(mean, [both] * K), "law": ratio(mean, law)}


CASES = {
    "geometric-analysis": (geometric_analysis, [
        {"K": 4, "n": 20, "lam": 0.005}, {"K": 10, "n": 50, "lam": 1e-4},
        {"K": 3, "n": 100, "lam": 0.5}]),
    "hadamard-softmax": (hadamard_softmax, [
        {"a": 0.01, "b": 0.03, "c": 0.3, "t": 3.0}, {"a": 0.5, "b": 0.2, "c": 0.1, "t": 40.0},
        {"a": 0.001, "b": 1.0, "c": 0.01, "t": 0.5}]),
    "regression-collapse": (regression_collapse, [
        {"first": 2.0, "share": 0.3, "c": 0.1}, {"first": 1.0, "share": 0.1, "c": 0.5},
        {"first": 0.5, "share": 0.5, "c": 1.0}]),
    "guiding-collapse": (guiding_collapse, [
        {"turn": 40.0, "length": 1.4, "mirror": 10.0}, {"turn": -90.0, "length": 0.5,
                                                       "mirror": 150.0},
        {"turn": 110.0, "length": 2.0, "mirror": -100.0}]),
    "low-rank-bias": (low_rank_bias, [
        {"r": 5, "L": 4, "lam": 0.004}, {"r": 9, "L": 3, "lam": 1e-3},
        {"r": 12, "L": 7, "lam": 0.02}]),
    "multiple-centers": (multiple_centers, [
        {"theta": 0.2, "f": 5}, {"theta": 1.0, "f": 1}, {"theta": 0.7, "f": 47}]),
    "space-alignment": (space_alignment, [{"phi": 0.0}, {"phi": 25.0}, {"phi": 75.0}]),
    "geometric-complexity": (geometric_complexity, [
        {"s": 0.0, "m": 1.5}, {"s": 0.5, "m": 0.8}, {"s": 1.2, "m": 2.5}]),
    "replay-forgetting": (replay_forgetting, [
        {"share": 0.0, "left": 0.3, "beta": 4.0, "delta": 0.05},
        {"share": 0.3, "left": 0.1, "beta": 2.0, "delta": 0.5},
        {"share": 0.9, "left": 0.9, "beta": 8.0, "delta": 1e-3}]),
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    folder = tmp_path_factory.mktemp("live")
    shutil.copytree(LIVE, folder / "live")
    (folder / "favicon.ico").touch()  # asked for by every browser
    for slug in FIGURES:
        (folder / f"{slug}.html").write_text(
            f'<meta charset="utf-8"><div class="nclib-live" data-figure="{slug}"></div>'
            f'<script src="live/kit.js"></script><script src="live/{slug}.js"></script>'
        )
    with Browser(folder) as b:
        yield b


def test_every_figure_is_tested_and_small():
    assert set(FIGURES) == set(CASES)
    for path in LIVE.glob("*.js"):
        assert path.stat().st_size < 10_000 and "http" not in path.read_text().replace(
            "http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize("slug", FIGURES)
def test_the_browser_computes_what_nclib_computes(browser, slug):
    assert browser.open(f"{slug}.html") == []
    expected, settings = CASES[slug]
    for values in settings:
        found = browser.run(f"nclibLive.computed[{slug!r}]({json.dumps(values)})")
        for key, value in expected(values).items():
            assert found[key] == pytest.approx(float(value), rel=1e-6, abs=1e-9), (values, key)
    before = browser.run("document.querySelector('figcaption').textContent")
    browser.run("""(() => {
        const input = document.querySelector('input');
        input.value = input.max;
        input.dispatchEvent(new Event('input'));
    })()""")
    after = browser.run("document.querySelector('figcaption').textContent")
    assert before and after and before != after
    assert browser.run("document.querySelector('svg').getAttribute('aria-label')") == after
