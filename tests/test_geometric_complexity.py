"""The functions of the chapter geometric-complexity: definitions, bounds, shots, splits."""

from __future__ import annotations

import ast
import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import nclib
from nclib import collapse, complexity, ensembles, losses, models
from nclib.stats import ClassStats

CHAPTER = Path(__file__).resolve().parents[1] / "chapters" / "geometric-complexity.ipynb"


@pytest.fixture(scope="module")
def chapter():
    """The chapter's functions, without running anything else of it."""
    space = {
        "torch": torch, "nn": nn, "math": math, "itertools": itertools, "collapse": collapse,
        "complexity": complexity, "ensembles": ensembles, "losses": losses, "models": models,
        "ClassStats": ClassStats, "run": nclib.setup(seed=0, preset="cpu"),
        "device": torch.device("cpu"), "f64": {"dtype": torch.float64},
    }
    for cell in json.loads(CHAPTER.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code" or source.lstrip().startswith("try:"):
            continue
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef):
                exec(ast.unparse(node), space)
    return space


def toy(N=60, K=3):
    g = torch.Generator().manual_seed(4)
    x = torch.randn(N, 5, generator=g, dtype=torch.float64)
    net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    return net, x + torch.arange(N)[:, None] % K, torch.arange(N) % K


def test_definitions_agree_with_nclib(chapter):
    net, x, y = toy()
    gc, gcoll, nc = chapter["measures"](net, x, y)
    energy = complexity.energies(net, x)
    stats = ClassStats.from_features(net(x).detach(), y)
    assert float(gc) == pytest.approx(float(energy.mean()), rel=1e-10)
    assert float(gcoll) == pytest.approx(
        float(complexity.geometric_collapse(energy, y, stats)), rel=1e-10)
    assert float(nc) == pytest.approx(collapse.cdnv(stats), rel=1e-10)


def test_quadrature_agrees_with_the_definitions(chapter):
    """With equal weights the nodes are samples, and ``expectation`` is ``measures``."""
    g = torch.Generator().manual_seed(5)
    nodes = torch.randn(3, 20, 2, generator=g, dtype=torch.float64) + torch.arange(3)[:, None, None]
    net = [torch.randn(s, generator=g, dtype=torch.float64)
           for s in ((2, 6, 2), (2, 6), (2, 4, 6))]
    nc, gcoll = chapter["expectation"](net, nodes, torch.full((20,), 1 / 20, dtype=torch.float64))
    for b in range(2):
        first, shift, last = (p[b] for p in net)
        _, want_gcoll, want_nc = chapter["measures"](
            lambda z, a=first, s=shift, c=last: (z @ a.T + s).tanh() @ c.T,
            nodes.flatten(0, 1), torch.arange(3).repeat_interleave(20),
        )
        assert float(nc[b]) == pytest.approx(float(want_nc), rel=1e-10)
        assert float(gcoll[b]) == pytest.approx(float(want_gcoll), rel=1e-10)


def test_penalty_is_unbiased_and_scales_with_its_strength(chapter):
    """Its mean over probes is strength times the exact complexity, member by member."""
    nets = ensembles.seeded(lambda: models.MLP(5, [6, 4], 3, norm=False), [0, 1])
    x = torch.randn(2, 30, 5, requires_grad=True)
    logits, features = nets(x, return_features=True)
    y = torch.zeros(2, 30, dtype=torch.long)
    batch = losses.Batch(0, nets, torch.arange(30), x, y, logits, features)
    objective = chapter["penalized"]([0.0, 2.0], 1)
    plain = losses.cross_entropy(batch)
    mean = sum((objective(batch) - plain).detach() for _ in range(300)).mean(1) / 300
    exact = complexity.energies(
        lambda z: nets(z, return_features=True)[1], x.detach(), stacked=True).mean(1)
    assert float(mean[0]) == 0
    assert float(mean[1]) == pytest.approx(2 * float(exact[1]), rel=0.1)


@pytest.mark.parametrize(("p", "error"), [(0.01, 0.01), (0.2, 0.2)])
def test_two_points_reach_the_bound(chapter, p, error):
    nc, wrong = chapter["two_points"](p)
    assert wrong == pytest.approx(error)
    assert chapter["error_bound"](nc, 2) == pytest.approx(p / (1 - p), rel=1e-6)


def test_error_bound_of_few_shots_tends_to_that_of_the_true_means(chapter):
    bound = chapter["error_bound"]
    assert bound(0.1, 5, 1) == pytest.approx(4 * bound(0.1, 5))
    assert bound(0.1, 5, 1e12) == pytest.approx(bound(0.1, 5), rel=1e-5)


def test_few_shot(chapter):
    """Separate classes are never confused; equal ones are at chance; queries are no shots."""
    g = torch.Generator().manual_seed(6)
    noise = torch.randn(2, 4, 60, 3, generator=g)
    far = noise + 100 * torch.eye(4, 3)[None, :, None]
    assert few(chapter, far, 5).tolist() == [1.0, 1.0]
    assert few(chapter, noise, 5).sub(0.25).abs().max() < 0.06
    assert few(chapter, noise, 1).sub(0.25).abs().max() < 0.06  # a shot among the queries gains


def few(chapter, h, n):
    return chapter["few_shot"](h, n, 3, episodes=60, queries=20)


def test_splits_are_disjoint_and_labels_are_those_of_the_source(chapter):
    Y = torch.arange(200) % 10
    trained, asked, labels = chapter["splits"](Y, 4, 12, 7)
    assert trained.shape == (4, 72) and asked.shape == (4, 4, 20)
    for i in range(4):
        source, target = set(Y[trained[i]].tolist()), set(Y[asked[i]].flatten().tolist())
        assert len(source) == 6 and source | target == set(range(10)) and not source & target
        assert len(set(trained[i].tolist())) == 72
        pairs = set(zip(Y[trained[i]].tolist(), labels[i][trained[i]].tolist(), strict=True))
        assert len(pairs) == 6 and {b for _, b in pairs} == set(range(6))
        assert all(len(set(Y[row].tolist())) == 1 for row in asked[i])


def test_intervals_cover_the_mean(chapter):
    v = torch.randn(50, generator=torch.Generator().manual_seed(8)) + 3
    mean, low, high = chapter["interval"](v)
    assert low < mean < high
    assert high - low == pytest.approx(4 * float(v.std()) / 50**0.5, rel=0.2)


def test_sampling_errors_follow_their_closed_forms(chapter):
    """Spread of drawn estimates, by images, outputs and probes, within a fifth."""
    torch.manual_seed(0)
    net = models.MLP(6, [12, 10], 3, norm=False).double()
    x = torch.randn(40, 6, dtype=torch.float64)
    spread = chapter["spreads"](net, x)
    J = torch.func.vmap(torch.func.jacrev(lambda z: net.features(z[None])[0]))(x).detach()
    exact = J.square().sum((1, 2)).mean()
    g = torch.Generator().manual_seed(1)
    images = torch.stack([J[torch.randperm(40, generator=g)[:10]].square().sum((1, 2)).mean()
                          for _ in range(800)])
    outputs = torch.stack([2 * J[:, torch.randperm(10, generator=g)[:5]].square().sum((1, 2)).mean()
                           for _ in range(800)])
    v = torch.randn(800, 40, 10, generator=g, dtype=torch.float64)
    probes = torch.einsum("snp,npd->snd", v, J).square().sum(-1).mean(1)
    for name, drawn, share in (("images", images, 1 / 4), ("outputs", outputs, 1 / 2),
                               ("probes", probes, 1 / 10)):
        assert float(drawn.mean()) == pytest.approx(float(exact), rel=0.05)
        assert spread[name](share) == pytest.approx(float(drawn.std() / exact), rel=0.2)
