"""The training code of the chapter guiding-collapse, against plain loops of one network."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from nclib.polar import nearest_simplex_etf

CHAPTER = Path(__file__).resolve().parents[1] / "chapters" / "guiding-collapse.ipynb"
CELLS = [
    "gc-003",
    "gc-004",
    "gc-012",
    "gc-041",
    "gc-046",
    "gc-062",
    "gc-063",
    "gc-065",
    "gc-066",
    "gc-166",
    "gc-067",
]


@pytest.fixture(scope="module")
def chapter():
    cells = {
        c["id"]: "".join(c["source"])
        for c in json.loads(CHAPTER.read_text(encoding="utf-8"))["cells"]
    }
    names = {"__name__": "chapter"}
    for id in CELLS:
        source = cells[id].replace('preset: str = "auto"', 'preset: str = "cpu"')
        exec(compile(source, id, "exec"), names)
    return names


def few(chapter, per_class=6):
    """A few images of each class."""
    y = chapter["y"]
    index = torch.cat([torch.nonzero(y == c)[:per_class, 0] for c in range(10)])
    return chapter["halved"][index], y[index]


def plain_loop(net, x, y, batches, method, rate, frame=None):
    """Training of one network in the words of the chapter's section on the setting."""
    running, t, params = None, 0, list(net.features.parameters())
    w = F.normalize(net.head.weight.detach().clone(), dim=-1).requires_grad_()
    net.train()
    for index in batches:
        f = 5 * F.normalize(net.features(x[index]), dim=-1)
        mu = f.mean(0)
        means = torch.stack([f[y[index] == c].mean(0) for c in range(10)]) - mu
        alpha = max(2 / (t + 2), 1e-4) if method != "own batch" else 1.0
        means = means if running is None else alpha * means + (1 - alpha) * running
        running, t = means.detach(), t + 1
        if method == "standard":
            W, b = w, torch.zeros(10)
        else:
            W = nearest_simplex_etf(running if method == "detached" else means)
            b = -W @ mu
        trained = [*params, w] if method == "standard" else params
        slopes = torch.autograd.grad(F.cross_entropy(f @ W.T + b, y[index]), trained)
        with torch.no_grad():
            for p, g in zip(trained, slopes, strict=True):
                p -= rate * g
            w.copy_(F.normalize(w, dim=-1))
    return (w if method == "standard" else W).detach(), b.detach()


@pytest.mark.parametrize("method", ["standard", "implicit", "own batch", "detached"])
def test_fit_is_the_plain_loop(chapter, method):
    x, y = few(chapter)
    seen, seeds = {}, [3, 4]

    def watch(nets, W, b):
        seen.update(W=W.clone(), b=b.clone())
        return torch.zeros(1)

    nets = chapter["mlps"](seeds)
    single = chapter["mlps"](seeds).member(1)
    chapter["fit"](nets, x, y, method, seeds, 2, rate=0.2, at=(2,), watch=watch, q=2)
    batches = [index[0] for index in chapter["stratified"]([4], 2, y, 2)]
    assert len(batches) == 6
    W, b = plain_loop(single, x, y, batches, method, 0.2)
    torch.testing.assert_close(seen["W"][1], W, rtol=0, atol=1e-4)
    torch.testing.assert_close(seen["b"][1].flatten(), b, rtol=0, atol=1e-3)
    for p, q in zip(
        nets.member(1).features.parameters(), single.features.parameters(), strict=True
    ):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-4)


def test_batches(chapter):
    _, y = few(chapter)
    for index in chapter["stratified"]([0, 1], 2, y, 2):
        assert index.shape == (2, 20)
        assert all(y[row].bincount(minlength=10).eq(2).all() for row in index)
    count = sum(1 for _ in chapter["shuffled"]([0, 1], 2, y, 2))
    assert count == 6


def test_accuracies_are_of_both_sets(chapter):
    nets = chapter["mlps"]([0])
    W = F.normalize(torch.randn(1, 10, 64, generator=torch.Generator().manual_seed(0)), dim=-1)
    train, test = chapter["accuracies"](nets, W, torch.zeros(1, 1, 10))
    net = nets.member(0).eval()
    for value, x, y in ((train, "halved", "y"), (test, "halved_test", "y_test")):
        with torch.no_grad():
            found = (net.features(chapter[x]) @ W[0].T).argmax(-1) == chapter[y]
        assert abs(float(value[0]) - float(found.double().mean())) < 1e-3
