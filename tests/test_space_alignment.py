"""The strategies of the chapter space-alignment, taken from its cells."""

import math
from pathlib import Path

import nbformat
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

import nclib
from nclib import ensembles, models
from nclib.losses import Batch

CHAPTER = Path(__file__).resolve().parents[1] / "chapters" / "space-alignment.ipynb"
NEEDED = ("def exponents(", "def spa_reg(", "class Alignment:")
SEEDS = st.integers(0, 10_000)


@pytest.fixture(scope="module")
def chapter():
    """Names that the chapter's cells with definitions leave behind."""
    cells = [c.source for c in nbformat.read(CHAPTER, as_version=4).cells if c.cell_type == "code"]
    names = {
        "math": math, "torch": torch, "nclib": nclib, "normalize": normalize,
        "one_hot": torch.nn.functional.one_hot, "run": nclib.setup(seed=0, preset="cpu"),
        "F64": {"dtype": torch.float64},
    }
    for needed in NEEDED:
        (source,) = [s for s in cells if needed in s]
        exec(source, names)
    return names


def rows(seed, *shape):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def cosine(W, mu):
    return (normalize(W, dim=-1) * mu).sum(-1)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, gamma=st.floats(0, 1))
def test_projection(chapter, seed, gamma):
    W, G, mu = rows(seed, 3, 5, 7)
    mu = normalize(mu, dim=-1)
    step = 1e-6
    new = chapter["spa_proj"](W, G, mu, gamma)
    moved = W - step * chapter["spa_proj"](W, G, mu, 0.0)
    assert (cosine(moved, mu) >= cosine(W, mu) - 1e-10).all()
    mixed = gamma * G + (1 - gamma) * chapter["spa_proj"](W, G, mu, 0.0)
    assert torch.allclose(new, mixed, atol=1e-12)
    assert torch.allclose(chapter["spa_proj"](W, G, mu, 1.0), G)


def test_a_soft_projection_may_misalign(chapter):
    W, G, mu = rows(1, 3, 500, 7)
    mu = normalize(mu, dim=-1)
    moved = W - 1e-6 * chapter["spa_proj"](W, G, mu, 0.6)
    assert (cosine(moved, mu) < cosine(W, mu)).double().mean() > 0.3


def test_projection_can_leave_lengths_alone(chapter):
    W, G, mu = rows(2, 3, 5, 7)
    new = chapter["spa_proj"](W, G, normalize(mu, dim=-1), 0.3, radial=0.0)
    w = normalize(W, dim=-1)
    assert torch.allclose((new * w).sum(-1), (G * w).sum(-1))


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, alpha=st.floats(0.01, 0.99))
def test_slerp(chapter, seed, alpha):
    W, mu = rows(seed, 2, 5, 7)
    mu = normalize(mu, dim=-1)
    new = chapter["spa_slerp"](W, mu, torch.tensor(alpha, dtype=W.dtype), stop=2.0)
    assert torch.allclose(new.norm(dim=-1), W.norm(dim=-1), rtol=1e-10)
    assert torch.allclose(cosine(new, mu).acos(), (1 - alpha) * cosine(W, mu).acos(), atol=1e-7)


def test_slerp_rests_where_rows_are_close_or_nothing_is_asked(chapter):
    W, mu = rows(3, 2, 5, 7)
    mu = normalize(mu, dim=-1)
    off = torch.tensor(0.0, dtype=W.dtype)
    assert torch.equal(chapter["spa_slerp"](W, mu, off), W)
    close = mu + 0.01 * W
    assert torch.equal(chapter["spa_slerp"](close, mu, off + 0.5), close)


def test_penalty_is_zero_at_alignment_and_turns_only(chapter):
    W, mu = rows(4, 2, 5, 7)
    mu = normalize(mu, dim=-1)
    assert chapter["spa_reg"](3 * mu, mu) == pytest.approx(0, abs=1e-12)
    W.requires_grad_()
    (slope,) = torch.autograd.grad(chapter["spa_reg"](W, mu), W)
    assert (slope * W).sum(-1).abs().max() < 1e-12


def test_exponents_of_aligned_and_tilted_frames(chapter):
    M, outside = chapter["framed"](6)
    worst, a = chapter["worst"], 6 / 5
    assert worst(M, M) == pytest.approx(a / 4, rel=1e-12)
    c2, s2 = math.cos(0.7) ** 2, math.sin(0.7) ** 2
    closed = a**2 * c2 / (4 * (a * c2 + s2))
    assert worst(chapter["tilted"](M, 0.7, outside), M) == pytest.approx(closed, rel=1e-12)
    assert worst(-M, M) == 0


MEMBERS = [{}, {"reg": 0.7}, {"alpha": 0.3}, {"gamma": 0.2}, {"gamma": 0.4, "radial": 0.0},
           {"alpha": 0.2, "centered": False}]


def train(chapter, members, heads=1, head=None):
    """A few steps on fixed batches; returns head weights and the moving means."""
    members = [m if head is None else m | {"head": head} for m in members]
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 6, generator=g), torch.arange(60) % 3
    batches = [torch.randint(60, (12,), generator=g) for _ in range(8)]
    nets = ensembles.seeded(lambda: models.MLP(6, [8], 3 * heads), [0] * len(members))
    hooks = chapter["Alignment"](members, 3, 8, heads, len(batches))

    def objective(batch: Batch):
        penalty = hooks.penalty(batch)
        log_p = batch.outputs.unflatten(-1, (heads, 3)).log_softmax(-1)
        own = batch.labels[..., None, None].expand(-1, -1, heads, 1)
        return penalty - log_p.gather(-1, own).mean((1, 2, 3))

    ensembles.train(nets, x, y, batches=batches, objective=objective,
                    optimizer=ensembles.SGD(nets, rate=0.1, momentum=0.9, decay=1e-3),
                    after_backward=hooks.after_backward, after_step=hooks.after_step)
    return nets.head.weight.detach(), hooks.means


@pytest.mark.parametrize("heads", [1, 2])
def test_batched_hooks_equal_one_by_one(chapter, heads):
    together, means = train(chapter, MEMBERS, heads)
    for b, member in enumerate(MEMBERS):
        alone, mean = train(chapter, [member], heads)
        assert torch.allclose(together[b], alone[0], atol=1e-5), member
        assert torch.allclose(means[b], mean[0], atol=1e-5), member
    for b in range(1, len(MEMBERS)):
        assert not torch.allclose(together[b], together[0], atol=1e-4)  # each does something


def test_only_the_named_head_is_touched(chapter):
    plain, _ = train(chapter, [{}], heads=2)
    for head in (0, 1):
        moved, _ = train(chapter, [{"alpha": 0.9}], heads=2, head=head)
        change = (moved - plain)[0].unflatten(0, (2, 3)).abs().amax((1, 2))
        assert change[head] > 3 * change[1 - head]


def test_an_absent_class_keeps_its_mean(chapter):
    hooks = chapter["Alignment"]([{}], 3, 4, 1, 10)
    h = torch.randn(1, 6, 4)

    def batch(labels):
        return Batch(0, None, None, None, torch.tensor([labels]), None, h)

    hooks.update(batch([0, 0, 1, 1, 2, 2]))
    first = hooks.means.clone()
    assert torch.allclose(first[0, 2], h[0, 4:].mean(0), atol=1e-6)
    hooks.update(batch([0, 0, 0, 1, 1, 1]))
    assert torch.equal(hooks.means[0, 2], first[0, 2])
    assert torch.allclose(hooks.means[0, 0], 0.9 * first[0, 0] + 0.1 * h[0, :3].mean(0), atol=1e-6)
