"""The live figures: what the reader's browser computes is what nclib computes.

Headless Chromium runs the figures' own functions at three settings each; no built book is needed.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from browser import Browser, chromium
from scipy.integrate import solve_ivp

from nclib import polar, ufm

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
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    folder = tmp_path_factory.mktemp("live")
    shutil.copytree(LIVE, folder / "live")
    for slug in FIGURES:
        (folder / f"{slug}.html").write_text(
            f'<div class="nclib-live" data-figure="{slug}"></div>'
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
        input.value = input.min;
        input.dispatchEvent(new Event('input'));
    })()""")
    after = browser.run("document.querySelector('figcaption').textContent")
    assert before and after and before != after
    assert browser.run("document.querySelector('svg').getAttribute('aria-label')") == after
