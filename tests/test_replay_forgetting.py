"""Code of the chapter replay-forgetting: batched training, probe, settings, buffers."""

from __future__ import annotations

from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

CHAPTER = Path(__file__).resolve().parent.parent / "chapters" / "replay-forgetting.ipynb"
CELLS = ["rf-004", "rf-005", "rf-006", "rf-007", "rf-008", "rf-065"]


@pytest.fixture(scope="module")
def chapter():
    """Names of the chapter, with small networks and four steps a task."""
    cells = {c.id: c.source for c in nbformat.read(CHAPTER, 4).cells}
    names = {"seed": 0, "preset": "cpu", "dataset": "fashion-mnist-small", "width": 16, "steps": 4,
             "weight_decay": 2e-3, "order": "random"}
    for id in CELLS:
        exec(compile(cells[id], id, "exec"), names)
    return names


def plan(chapter):
    ms = chapter["members"]([0, 1], {"CIL": [0.01], "TIL": [0], "DIL": [0.05]})
    return ms + chapter["members"]([0], {"CIL": [0.01]}, shuffled=True)


def test_all_at_once_is_one_by_one(chapter):
    ms = plan(chapter)
    nets, head, deep, means = chapter["go"](ms)
    for i in (0, 3, 4, 6):
        one, h, d, m = chapter["go"]([ms[i]])
        for (name, p), (_, q) in zip(nets.named_parameters(), one.named_parameters(), strict=True):
            assert torch.allclose(p[i], q[0], atol=1e-5), (i, name)
        assert torch.allclose(head[:, i], h[:, 0], atol=6e-3, equal_nan=True)
        assert (deep[-1, i].mean() - d[-1, 0].mean()).abs() < 0.03  # its steps are counted
        assert torch.allclose(means[:, i], m[:, 0], atol=1e-4)


def test_probe_is_a_logistic_regression(chapter):
    ms = chapter["members"]([0], {"CIL": [0]})
    g = torch.Generator().manual_seed(0)
    classes = torch.arange(10).repeat(30)
    h = torch.randn(300, 6, generator=g) + 2 * torch.randn(10, 6, generator=g)[classes]
    W, b = chapter["probe"](h[None], ms, 4, classes[None], iterations=300)
    ours = (h @ W[0].T + b[0]).argmax(1)
    scaled = (h / h.square().mean().sqrt()).numpy()
    theirs = LogisticRegression(C=100, max_iter=2000).fit(scaled, classes.numpy())
    assert (ours.numpy() == theirs.predict(scaled)).mean() > 0.99


@pytest.mark.parametrize("setting", ["CIL", "TIL", "DIL"])
def test_outputs_that_compete(chapter, setting):
    m = chapter["members"]([3], {setting: [0]})
    order = chapter["parts"](m[0])
    allow = chapter["allowed"](m, 2)[0]
    first, second = (int(c) for c in order[1])
    expected = {"CIL": set(order[:3].ravel()), "TIL": set(order[1]), "DIL": {0, 1}}[setting]
    assert set(torch.nonzero(allow[first]).flatten().tolist()) == {int(c) for c in expected}
    out = chapter["targets"](m, torch.tensor([first, second]))[0].tolist()
    assert out == ([0, 1] if setting == "DIL" else [first, second])


def test_buffers_are_balanced_and_nested(chapter):
    m, classes = {"seed": 5}, [2, 7]
    small, large = (chapter["chosen"](m, classes, b) for b in (6, 30))
    assert set(small.tolist()) <= set(large.tolist())
    assert np.bincount(chapter["label"][small], minlength=10)[[2, 7]].tolist() == [6, 6]
    assert len(chapter["chosen"](m, classes, 0)) == 0


def test_forgetting_is_positive_where_accuracy_is_lost(chapter):
    A = torch.full((5, 1, 5), torch.nan)
    for t in range(5):
        A[t, 0, : t + 1] = 0.9 - 0.1 * (t - torch.arange(t + 1.0))
    assert torch.allclose(chapter["forgetting"](A), torch.tensor([0.25]))


def test_views_are_shifts_of_their_own_image(chapter):
    images = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 1, 14, 14) * 100
    views = chapter["augmented"](images, 3, 7)
    assert views.shape == (6, 1, 14, 14)
    assert views[:3].abs().max() < 1 and (views[3:] - 100).abs().max() < 1
