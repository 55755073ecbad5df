"""Deep ReLU models in nclib.ufm: against autograd, finite differences and closed forms."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from nclib import models, ufm

DECAYS = [0.02, torch.tensor([0.01, 0.02, 0.03], dtype=torch.float64), 0.03]


def start(batch=3, K=4, n=2, width=6, depth=3, seed=0, **options):
    draws = torch.Generator().manual_seed(seed)
    return ufm.deep_init(batch, K, n, width, depth, generator=draws, **options)


def textbook_loss(x, i, lam_w, lam_h, relu_features):
    """The loss of problem ``i``, columns as samples, one class after another."""
    depth = len(x) - 1
    h = x["H"][i].T
    for layer in range(1, depth + 1):
        if layer > 1 or relu_features:
            h = torch.where(h > 0, h, torch.zeros_like(h))
        h = x[f"W{layer}"][i] @ h
    K, N = h.shape
    fit = sum(
        (h[k, j] - (1.0 if j // (N // K) == k else 0.0)) ** 2 for k in range(K) for j in range(N)
    )
    decay = sum(lam_w[m - 1] / 2 * (x[f"W{m}"][i] ** 2).sum() for m in range(1, depth + 1))
    return fit / (2 * N) + decay + lam_h / 2 * (x["H"][i] ** 2).sum()


@pytest.mark.parametrize("relu_features", [False, True])
def test_loss_is_the_textbook_one(relu_features):
    x = start()
    found = ufm.deep_loss(**x, lam_w=DECAYS, lam_h=0.05, relu_features=relu_features)
    for i in range(3):
        lam_w = [float(lam[i]) if torch.is_tensor(lam) else lam for lam in DECAYS]
        assert found[i].item() == pytest.approx(
            textbook_loss(x, i, lam_w, 0.05, relu_features).item(), rel=1e-13
        )


def test_loss_has_right_gradient():
    x = {k: v.requires_grad_() for k, v in start(batch=2, K=2, n=1, width=3).items()}
    names = list(x)

    def f(*tensors):
        return ufm.deep_loss(**dict(zip(names, tensors, strict=True)), lam_w=0.1, lam_h=0.2)

    assert torch.autograd.gradcheck(f, tuple(x.values()))


@pytest.mark.parametrize("relu_features", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.8])
@pytest.mark.parametrize("lam_w", [0.02, DECAYS])
@pytest.mark.parametrize("lam_h", [0.05, torch.tensor([0.05, 0.1, 0.0], dtype=torch.float64)])
def test_descent_follows_autograd(relu_features, momentum, lam_w, lam_h):
    problem = {"lam_w": lam_w, "lam_h": lam_h, "relu_features": relu_features}
    x0 = start()
    before = {k: v.clone() for k, v in x0.items()}
    path = ufm.deep_descend(
        x0, rate=0.3, steps=9, momentum=momentum, record=[4], keep=[4], **problem
    )
    assert all(torch.equal(before[k], x0[k]) for k in x0)
    x, v, losses = before, {k: torch.zeros_like(t) for k, t in x0.items()}, []
    for step in range(10):
        x = {k: t.detach().requires_grad_() for k, t in x.items()}
        f = ufm.deep_loss(**x, **problem)
        losses.append(f.detach())
        if step == 4:
            torch.testing.assert_close(path.kept[4], {k: t.detach() for k, t in x.items()})
        if step == 9:
            break
        gradient = torch.autograd.grad(f.sum(), list(x.values()))
        v = {k: momentum * v[k] + g for k, g in zip(x, gradient, strict=True)}
        x = {k: t.detach() - 0.3 * v[k] for k, t in x.items()}
    assert path.steps == [0, 4, 9]
    torch.testing.assert_close(path.loss, torch.stack([losses[0], losses[4], losses[9]]))
    torch.testing.assert_close(path.x, {k: t.detach() for k, t in x.items()})


def test_problems_of_a_batch_do_not_touch():
    x = start()
    whole = ufm.deep_descend(x, rate=0.2, steps=20, lam_w=0.01, lam_h=0.01)
    for i in range(3):
        one = {k: v[i : i + 1] for k, v in x.items()}
        alone = ufm.deep_descend(one, rate=0.2, steps=20, lam_w=0.01, lam_h=0.01)
        torch.testing.assert_close(alone.x, {k: v[i : i + 1] for k, v in whole.x.items()})


def test_results_can_be_differentiated():
    path = ufm.deep_descend(start(), rate=0.2, steps=2, lam_w=0.01, lam_h=0.01)
    x = {k: v.requires_grad_() for k, v in path.x.items()}
    ufm.deep_loss(**x, lam_w=0.01, lam_h=0.01).sum().backward()
    assert x["W1"].grad.isfinite().all()


def test_widths_scale_and_repeatability():
    x = start(width=[2, 3, 5])
    shapes = {k: tuple(v.shape) for k, v in x.items()}
    assert shapes == {"H": (3, 8, 2), "W1": (3, 3, 2), "W2": (3, 5, 3), "W3": (3, 4, 5)}
    wide = start(batch=2, width=400, scale=torch.tensor([1.0, 3.0]))
    assert wide["W2"].std((1, 2)).mul(20).tolist() == pytest.approx([1.0, 3.0], rel=0.02)
    # by the number of inputs, not of outputs: matrices that are far from square
    tall = start(batch=1, width=[100, 400, 25])
    for name, inputs in {"W1": 100, "W2": 400, "W3": 25}.items():
        assert tall[name].std().item() * inputs**0.5 == pytest.approx(1.0, abs=0.2)
    assert torch.equal(start(seed=5)["W2"], start(seed=5)["W2"])


def dnc(K, depth, n, c, lams):
    """Collapse with output c, every factor of equal λ‖·‖²."""
    lams = torch.tensor(lams, dtype=torch.float64)  # of H (times n), W1 … WL
    share = c ** (1 / (depth + 1)) * lams.prod() ** (0.5 / (depth + 1)) / lams.sqrt()
    eye = torch.eye(K, dtype=torch.float64)
    x = {f"W{i}": (share[i] * eye)[None] for i in range(1, depth + 1)}
    return x | {"H": (share[0] * eye).repeat_interleave(n, 0)[None]}


@pytest.mark.parametrize(
    "K, depth, n", [(3, 1, 1), (4, 2, 3), (10, 4, 1), (10, 4, 500), (15, 7, 2)]
)
def test_level_is_attained_by_collapse(K, depth, n):
    lam_w = [0.004 + 0.001 * i for i in range(depth)]
    lam_h = 0.003 / n
    decay = n * lam_h * torch.tensor(lam_w, dtype=torch.float64).prod()
    level, c = ufm.rigid_level(K ** ((depth + 1) / 2), decay, depth)
    x = dnc(K, depth, n, c.item(), [n * lam_h, *lam_w])
    attained = ufm.deep_loss(**x, lam_w=lam_w, lam_h=lam_h).item()
    assert attained == pytest.approx(level.item(), rel=1e-12)
    assert ufm.dnc_level(K, depth, decay) == level
    for other in (0.9 * c.item(), min(1.0, 1.1 * c.item())):
        y = dnc(K, depth, n, other, [n * lam_h, *lam_w])
        assert ufm.deep_loss(**y, lam_w=lam_w, lam_h=lam_h).item() > level.item()


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 7])
def test_threshold(depth):
    critical = ufm.dnc_threshold(depth)
    factors = torch.tensor([0.5, 0.999, 1.001, 2.0], dtype=torch.float64)
    decays = (factors * critical / 6) ** (depth + 1)
    level, c = ufm.rigid_level(6 ** ((depth + 1) / 2), decays, depth)
    assert (level[:2] < 0.5).all() and (c[:2] > 0).all()
    assert (level[2:] == 0.5).all() and (c[2:] == 0).all()
    if depth > 1:
        assert c[1].item() == pytest.approx((depth - 1) / depth, abs=0.05)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_level_is_the_minimum_over_c(depth):
    c = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    for a in (0.01, 0.1, 0.2):
        f = (1 - c).square() / 2 + (depth + 1) / 2 * a * c ** (2 / (depth + 1))
        level, _ = ufm.rigid_level(1.0, a ** (depth + 1), depth)
        assert level.item() == pytest.approx(f.min().item(), abs=1e-9)


def test_two_layers_end_at_the_level():
    x = start(batch=8, K=3, n=2, width=5, depth=2)
    found = ufm.minimize(partial(ufm.deep_loss, lam_w=0.02, lam_h=0.01), x, tol=1e-7, max_iter=300)
    level = ufm.dnc_level(3, 2, 2 * 0.01 * 0.02**2)
    assert found.loss.min().item() == pytest.approx(level.item(), rel=1e-9)
    assert (found.loss > level - 1e-12).all()


def test_bad_input_is_refused():
    x = start()
    with pytest.raises(ValueError, match="W1 … WL"):
        ufm.deep_layers(x["H"], W1=x["W1"], W3=x["W3"])
    with pytest.raises(ValueError, match="expected H"):
        ufm.deep_loss(**(x | {"W2": x["W3"]}), lam_w=0.1, lam_h=0.1)
    with pytest.raises(ValueError, match="balanced"):
        ufm.deep_loss(**(x | {"H": x["H"][:, :7]}), lam_w=0.1, lam_h=0.1)
    with pytest.raises(ValueError, match="2 entries for 3 layers"):
        ufm.deep_loss(**x, lam_w=[0.1, 0.1], lam_h=0.1)
    with pytest.raises(ValueError, match="steps"):
        ufm.deep_descend(x, rate=0.1, steps=-1, lam_w=0.1, lam_h=0.1)
    with pytest.raises(FloatingPointError, match="step"):
        ufm.deep_descend(x, rate=100.0, steps=200, lam_w=0.1, lam_h=0.1)
    with pytest.raises(ValueError, match="entries for"):
        start(width=[2, 3])
    with pytest.raises(ValueError, match="sizes"):
        start(batch=0)
    with pytest.raises(ValueError, match="P > 0"):
        ufm.rigid_level(0.0, 0.1, 3)
    with pytest.raises(ValueError, match="L ≥ 1"):
        ufm.dnc_threshold(0)


def test_resnet20_has_the_published_size():
    model = models.ResNet(3, 10, depth=20, width=16)
    assert models.count_parameters(model) == 272_474  # 0.27 M, with projections on the skips
    logits, features = model(torch.zeros(2, 3, 32, 32), return_features=True)
    assert logits.shape == (2, 10) and features.shape == (2, 64)


def test_one_diverging_problem_leaves_the_others():
    start = ufm.deep_init(3, 3, 2, 4, 3, generator=torch.Generator().manual_seed(0))
    wild = {name: v.clone() for name, v in start.items()}
    for v in wild.values():
        v[1] *= 1e120
    options = {"rate": 0.05, "steps": 200, "lam_w": 0.01, "lam_h": 0.01}
    path, calm = ufm.deep_descend(wild, **options), ufm.deep_descend(start, **options)
    assert path.loss[-1].isinf().tolist() == [False, True, False]
    assert torch.equal(path.loss[-1][[0, 2]], calm.loss[-1][[0, 2]])
