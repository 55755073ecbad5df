"""The functions that stand in the chapter on multiple centers: frame, allocation, rule, losses."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.optimize import minimize as slsqp
from torch import nn

from nclib import frames, runtime
from nclib.data import splits
from nclib.solve import minimize

CHAPTER = Path(__file__).resolve().parents[1] / "chapters" / "multiple-centers.ipynb"
WANTED = (
    "velocity", "flow", "frame", "cos_alpha", "cos_rho", "mean_centers", "allocate",
    "generalized_rule", "optimum", "survives", "cosine_loss", "minority_cosine", "steps_of",
    "layer_peeled", "layer_peeled_convex",
)


def definitions():
    """The wanted functions of the chapter's cells, without running anything else."""
    import ast

    space = {"math": math, "np": np, "torch": torch, "nn": nn, "minimize": minimize,
             "slsqp": slsqp, "frames": frames, "f64": torch.float64,
             "run": runtime.Run("cpu", 0, torch.device("cpu"))}
    found = set()
    for cell in nbformat.read(CHAPTER, 4).cells:
        if cell.cell_type != "code" or "nbval-skip" in cell.metadata.get("tags", []):
            continue
        for node in ast.parse(cell.source).body:
            if isinstance(node, ast.FunctionDef) and node.name in WANTED:
                exec(compile(ast.Module([node], []), cell.id, "exec"), space)
                found.add(node.name)
    assert found == set(WANTED)
    return SimpleNamespace(**space)


C = definitions()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# --- allocation ---------------------------------------------------------------------------------

TABLES = {  # dataset size, 1/τ: centers in the text's convention and in the code's, f = 20
    (5000, 10): ([5, 6, 8, 12, 14, 18, 23, 29, 37, 48], [5, 6, 8, 10, 13, 16, 22, 28, 36, 46]),
    (5000, 50): ([2, 3, 4, 5, 9, 13, 20, 30, 45, 69], [2, 2, 4, 5, 8, 13, 19, 28, 43, 66]),
    (5000, 100): ([1, 2, 3, 4, 7, 11, 18, 29, 47, 78], [1, 2, 3, 4, 6, 10, 17, 28, 45, 74]),
    (5000, 200): ([1, 1, 2, 3, 5, 9, 16, 28, 49, 86], [1, 1, 2, 3, 5, 9, 15, 26, 46, 82]),
    (6000, 10): ([5, 6, 8, 12, 14, 18, 23, 29, 37, 48], [5, 6, 8, 10, 13, 16, 22, 28, 36, 46]),
    (6000, 100): ([1, 2, 3, 4, 7, 11, 18, 29, 47, 78], [1, 2, 3, 4, 6, 10, 17, 28, 45, 74]),
    (6000, 200): ([1, 1, 2, 3, 5, 9, 16, 28, 49, 86], [1, 1, 2, 3, 5, 9, 15, 26, 46, 82]),
}
SIZES = {
    (5000, 10): 20431, (5000, 50): 13996, (5000, 100): 12406, (5000, 200): 11203,
    (6000, 10): 24516, (6000, 100): 14886, (6000, 200): 13444,
}


@pytest.mark.parametrize(("largest", "ratio"), TABLES)
def test_allocation_tables(largest, ratio):
    n = splits.long_tail(largest, 10, ratio)
    assert n.sum() == SIZES[largest, ratio]
    paper, code = TABLES[largest, ratio]
    assert C.allocate(n, 20).tolist() == paper
    assert C.allocate(n, 20, "code").tolist() == code


def test_allocation_example_sum_and_order():
    assert C.allocate([1, 3, 3], 3).tolist() == [4, 4, 1]
    n = torch.tensor([40, 7, 300, 90])
    f = C.allocate(n, 6)
    assert f.sum() == 24 and f.min() >= 1
    assert f[n.argsort()].diff().max() <= 0  # fewer images, no fewer centers
    perm = torch.tensor([2, 0, 3, 1])
    assert C.allocate(n[perm], 6).tolist() == f[perm].tolist()
    assert C.allocate([50] * 5, 4).tolist() == [4] * 5


# --- frame --------------------------------------------------------------------------------------


@pytest.mark.parametrize("theta", [0.0, 0.2, 1.0, math.pi / 2])
def test_frame(theta):
    f = torch.tensor([1, 3, 2])
    W0, centers, owner = C.frame(f, 12, theta, generator())
    assert owner.tolist() == [0, 1, 1, 1, 2, 2]
    eye = torch.eye(3, dtype=torch.float64)
    assert torch.allclose(W0 @ W0.T, eye)
    gram = centers @ centers.T
    same = owner[:, None] == owner
    wanted = torch.where(same, math.sin(theta) ** 2, 0.0).to(gram).fill_diagonal_(1.0)
    assert torch.allclose(gram, wanted)
    assert torch.allclose(centers @ W0.T, math.sin(theta) * eye[owner])
    M = C.mean_centers(centers, owner, 3)
    assert torch.allclose(M.norm(dim=1), C.cos_alpha(f, theta))
    if theta:
        cosine = (M * W0).sum(1) / M.norm(dim=1)
        assert torch.allclose(cosine, C.cos_rho(f, theta))


def test_frame_needs_room():
    f = torch.tensor([2, 2, 2])
    C.frame(f, 9, 0.2, generator())
    with pytest.raises(ValueError, match="need d >= 9"):
        C.frame(f, 8, 0.2, generator())


# --- rule and loss ------------------------------------------------------------------------------


def test_generalized_rule():
    scores, owner = torch.randn(7, 6), torch.tensor([0, 0, 1, 2, 2, 2])
    wanted = torch.stack([scores[:, owner == k].amax(1) for k in range(3)], 1)
    assert torch.equal(C.generalized_rule(scores, owner, 3), wanted)
    both = torch.stack((scores, -scores))
    assert torch.equal(C.generalized_rule(both, owner.expand(2, 1, -1), 3)[0], wanted)


def test_cosine_loss_one_by_one():
    f, theta, y = torch.tensor([1, 4, 2]), 0.3, torch.tensor([0, 1, 2, 1, 0])
    _, centers, owner = C.frame(f, 11, theta, generator())
    h = torch.randn(5, 11, dtype=torch.float64, generator=generator(1))
    weight = C.cos_alpha(f, theta)
    wanted = []
    for i, k in enumerate(y.tolist()):
        u, total = h[i] / h[i].norm(), 0.0
        for w in centers[owner == k]:
            total = total + (w @ u - 1) ** 2
        wanted.append(weight[k] * total + 6e-4 * (h[i].norm() - 1) ** 2)
    found = C.cosine_loss(h, y, centers, owner, weight)
    assert torch.allclose(found, torch.stack(wanted))
    two = C.cosine_loss(
        torch.stack((h, 2 * h)), y.expand(2, -1), centers.expand(2, -1, -1),
        owner.expand(2, -1), weight.expand(2, -1),
    )
    assert torch.allclose(two[0], found) and not torch.allclose(two[1], found)


def test_cosine_loss_floor():
    f, theta = torch.tensor([20]), 0.2
    _, centers, owner = C.frame(f, 21, theta, generator())
    h = C.mean_centers(centers, owner, 1)
    h = h / h.norm()
    loss = C.cosine_loss(h, torch.tensor([0]), centers, owner, torch.ones(1, dtype=h.dtype))
    assert abs(float(loss[0]) - 9.92) < 5e-3


def test_velocity_is_minus_the_gradient():
    f = torch.tensor([3, 2])
    _, centers, owner = C.frame(f, 8, 0.4, generator())
    mine = (owner == torch.arange(2)[:, None]).double()[:, None]
    h = torch.randn(2, 6, 8, dtype=torch.float64, generator=generator(2), requires_grad=True)
    u = h / h.norm(dim=-1, keepdim=True)
    loss = ((1 - u @ centers.T) ** 2 * mine).sum()
    (gradient,) = torch.autograd.grad(loss, h)
    assert torch.allclose(C.velocity(h, centers, mine), -gradient)


# --- closed forms -------------------------------------------------------------------------------


def test_optimum_numbers():
    n = torch.tensor([200.0, 60, 20, 6], dtype=torch.float64)
    f = torch.tensor([1.0, 2, 4, 8])
    rows, features = C.optimum(n, f, 0.3, 2e-3, 1e-4)
    wanted = torch.tensor([3.11747766, 2.30786036, 1.74483232, 1.19262997], dtype=n.dtype)
    assert torch.allclose(rows, wanted, atol=1e-7)
    assert torch.allclose(features, 2e-3 / (n * 1e-4) * rows)
    n, f = torch.full((4,), 20.0, dtype=torch.float64), torch.full((4,), 3.0)
    rows, features = C.optimum(n, f, 0.5, 5e-3, 1e-4)
    assert abs(float(rows[0]) - 0.89024894) < 1e-7
    assert abs(float(features[0]) - 2.22562235) < 1e-7


def test_survival_is_where_the_length_is_positive():
    n = torch.tensor([200.0, 60, 20, 6], dtype=torch.float64)
    f = torch.tensor([2.0] * 4)
    assert C.survives(n, f, 0.3, 8e-3, 2e-2).tolist() == [True, True, False, False]
    for lam in (1e-4, 1e-3, 8e-3, 0.1):
        rows, _ = C.optimum(n, f, 0.3, lam, 2e-2)
        assert torch.equal(rows > 0, C.survives(n, f, 0.3, lam, 2e-2))
    assert C.survives(n, torch.tensor([1.0, 3, 9, 30]), 0.3, 8e-3, 2e-2).all()


# --- the layer-peeled model against an independent convex solver ----------------------------------


@pytest.mark.parametrize(("ratio", "contrast"), [(8.0, 0.443), (11.0, 0.109), (20.0, 0.0)])
def test_layer_peeled_two_solvers(ratio, contrast):
    loss, logits, _ = C.layer_peeled(torch.tensor([ratio], dtype=torch.float64))
    other_loss, other = C.layer_peeled_convex(ratio)
    assert abs(float(loss[0]) - other_loss) < 1e-10
    found = float(logits[0, 5, 5] - logits[0, 5, 6])
    assert abs(found - contrast) < 2e-3 and abs(other - found) < 1e-4


@pytest.mark.parametrize(("K_A", "bound", "threshold"), [
    (5, 10 * 5**0.5, 12.19), (7, 10 * 5**0.5, 4.00), (5, 10 * 10**0.5, 81.1),
])
def test_layer_peeled_threshold(K_A, bound, threshold):
    """Where the contrast leaves zero, by the multiplier of the nuclear norm at merged classes."""
    K_B = 10 - K_A

    def merged(R, size):
        def parts(v):  # centered: a block of rank one, whose nuclear norm is smooth
            a, p, s = v
            return a, p, -p * (K_A / K_B) ** 0.5, -s * (K_B / K_A) ** 0.5, s

        def nuclear(v):
            return (K_A - 1) * v[0] + sum(x * x for x in parts(v)[1:]) ** 0.5

        def side(contrast, level, cross, own, other):
            z = np.array([contrast + (level - contrast) / own, (level - contrast) / own,
                          cross / (own * other) ** 0.5])
            return np.log(np.exp(z - z.max()) @ [1, own - 1, other]) + z.max() - z[0]

        def loss(v):
            a, p, q, r, s = parts(v)
            return (K_A * side(a, p, q, K_A, K_B) + K_B / R * side(0.0, s, r, K_B, K_A))

        found = slsqp(loss, np.full(3, size / 30), method="SLSQP", bounds=[(0, None)] * 3,
                      constraints={"type": "ineq", "fun": lambda v: size - nuclear(v)},
                      jac="cs", options={"ftol": 1e-12, "maxiter": 400})
        assert found.status in (0, 8), found.message  # 8: no step is better any more
        return found.fun

    def excess(log_ratio):
        R, step = math.exp(log_ratio), 1e-3 * bound
        multiplier = (merged(R, bound - step) - merged(R, bound + step)) / (2 * step)
        return math.log(multiplier * R)

    found = math.exp(brentq(excess, math.log(threshold / 1.3), math.log(threshold * 1.3),
                            xtol=1e-3))
    assert abs(found / threshold - 1) < 0.02
