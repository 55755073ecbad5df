"""Geometric complexity: exact, sampled, stacked, as a penalty; geometric collapse; CDNV."""

import pytest
import torch
from torch import nn

from nclib import collapse
from nclib.complexity import energies, geometric_collapse, geometric_complexity
from nclib.stats import ClassStats

F64 = torch.float64


def network(seed=0, inputs=6, outputs=5):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inputs, 9), nn.Tanh(), nn.Linear(9, outputs)).double()


def brute(f, x):
    return torch.stack([
        torch.autograd.functional.jacobian(lambda v: f(v[None])[0], v).square().sum() for v in x
    ])


@pytest.mark.parametrize("chunk", [1, 4, 7, 1000])
def test_exact_against_one_jacobian_a_sample(chunk):
    net, x = network(), torch.randn(11, 6, dtype=F64)
    torch.testing.assert_close(energies(net, x, chunk=chunk), brute(net, x))
    torch.testing.assert_close(geometric_complexity(net, x, chunk=chunk), brute(net, x).mean())


def test_images_and_maps_without_an_output_axis():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 4)).double()
    x = torch.randn(5, 2, 5, 5, dtype=F64)
    torch.testing.assert_close(energies(net, x), brute(net, x))
    conv = net[0]
    torch.testing.assert_close(energies(conv, x), brute(conv, x))
    values = energies(lambda v: (v**2).sum(1), torch.ones(3, 4, dtype=F64))
    torch.testing.assert_close(values, torch.full((3,), 16.0, dtype=F64))
    assert energies(lambda v: torch.ones(3, 2), torch.ones(3, 4)).tolist() == [0, 0, 0]


def test_linear_maps_and_scales():
    A = torch.randn(4, 6, dtype=F64)
    x = torch.randn(9, 6, dtype=F64)
    expected = A.square().sum()
    torch.testing.assert_close(geometric_complexity(lambda v: v @ A.T + 1, x), expected)
    torch.testing.assert_close(geometric_complexity(lambda v: 3 * (v @ A.T), x), 9 * expected)
    torch.testing.assert_close(geometric_complexity(lambda v: (v / 2) @ A.T, 2 * x), expected / 4)


def test_probes_are_unbiased():
    net, x = network(), torch.randn(7, 6, dtype=F64)
    exact = brute(net, x)
    g = torch.Generator().manual_seed(0)
    draws = torch.stack([energies(net, x, method="hutchinson", generator=g) for _ in range(4000)])
    error = (draws.mean(0) - exact) / (draws.std(0) / 4000**0.5)
    assert error.abs().max() < 4
    many = energies(net, x, method="hutchinson", samples=4000, generator=g, chunk=999)
    assert ((many - exact) / (draws.std(0) / 4000**0.5)).abs().max() < 4


@pytest.mark.parametrize("count", [1, 2, 5])
def test_drawn_outputs_are_unbiased_to_the_bit(count):
    net, x = network(), torch.randn(3, 6, dtype=F64)
    seen, total = {}, 0.0
    for seed in range(400):
        g = torch.Generator().manual_seed(seed)
        drawn = tuple(sorted(torch.randperm(5, generator=g)[:count].tolist()))
        if drawn not in seen:
            g.manual_seed(seed)
            seen[drawn] = energies(net, x, method="coordinates", samples=count, generator=g)
    assert len(seen) == {1: 5, 2: 10, 5: 1}[count]
    total = sum(seen.values()) / len(seen)
    torch.testing.assert_close(total, brute(net, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", ["exact", "hutchinson", "coordinates"])
@pytest.mark.parametrize("chunk", [3, 200])
def test_stacked_networks_are_each_as_if_alone(method, chunk):
    nets = [network(seed) for seed in range(3)]
    A, c, B = (torch.stack([n[i].weight if k else n[i].bias for n in nets])
               for i, k in ((0, 1), (0, 0), (2, 1)))

    def stacked(x):
        return torch.tanh(x @ A.mT + c[:, None]) @ B.mT

    x = torch.randn(3, 8, 6, dtype=F64)
    found = energies(stacked, x, method=method, stacked=True, chunk=chunk,
                     samples=None if method == "exact" else 3)
    assert found.shape == (3, 8)
    if method == "exact":
        for i, net in enumerate(nets):
            torch.testing.assert_close(found[i], brute(net, x[i]))
        assert geometric_complexity(stacked, x, stacked=True).shape == (3,)


@pytest.mark.parametrize("method", ["exact", "hutchinson", "coordinates"])
def test_a_penalty_has_the_gradient_of_finite_differences(method):
    net, x = network(), torch.randn(4, 6, dtype=F64)

    def value(graph):
        g = torch.Generator().manual_seed(3)
        return geometric_complexity(net, x, method=method, differentiable=graph, generator=g)

    value(True).backward()
    weight, h = net[0].weight, 1e-6
    for place in ((0, 0), (3, 5), (8, 2)):
        with torch.no_grad():
            weight[place] += h
            up = value(False)
            weight[place] -= 2 * h
            down = value(False)
            weight[place] += h
        assert weight.grad[place] == pytest.approx(float(up - down) / (2 * h), rel=1e-5)
    assert not value(False).requires_grad


def test_memory_is_bounded_by_the_chunk():
    largest = 0

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if torch.is_tensor(out) and out.dim():
                largest = max(largest, out.untyped_storage().nbytes() // out.element_size())
            return out

    x = torch.randn(4000, 6)
    net = network().float()
    with Spy():
        energies(net, x, chunk=50)
    assert largest <= max(x.numel(), 50 * 9 * 5)


def test_refuses_what_mixes_samples():
    net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5))
    x = torch.randn(8, 6)
    with pytest.raises(ValueError, match="training mode"):
        energies(net, x)
    with pytest.raises(ValueError, match="training mode"):
        energies(net.forward, x)
    net.eval()
    assert energies(net, x).shape == (8,)
    with pytest.raises(ValueError, match="training mode"):
        energies(nn.Dropout(), x)
    for change, words in (
        ({"method": "guess"}, "method must be"), ({"chunk": 0}, "at least 1"),
        ({"samples": 3}, "no samples"), ({"method": "coordinates", "samples": 9}, "9 of 5"),
        ({"method": "hutchinson", "samples": 0}, "at least 1"),
    ):
        with pytest.raises(ValueError, match=words):
            energies(net, x, **change)
    for f, v, words in (
        (net, x.long(), "float dtype"), (net, x[:0], "float dtype"),
        (lambda v: v.sum(0), x, "gave outputs"),
    ):
        with pytest.raises(ValueError, match=words):
            energies(f, v)


def test_geometric_collapse():
    values = torch.tensor([1.0, 3, 2, 6, 5], dtype=F64)
    labels = torch.tensor([0, 0, 1, 1, 2])
    means = torch.tensor([[0.0, 0], [2, 0], [0, 1]], dtype=F64)
    expected = ((2 + 4) / (2 * 4) + (2 + 5) / 2 + (4 + 5) / (2 * 5)) / 3
    assert geometric_collapse(values, labels, means) == pytest.approx(expected)
    scaled = geometric_collapse(9 * values, labels, 3 * means)
    torch.testing.assert_close(scaled, geometric_collapse(values, labels, means))
    for bad, words in (
        ((values, labels + 1, means), "labels must be in"),
        ((values, labels.clamp(max=1), means), "no samples of class 2"),
        ((values[:3], labels, means), "expected values"),
    ):
        with pytest.raises(ValueError, match=words):
            geometric_collapse(*bad)
    apart = geometric_collapse(values, labels, means * 0)
    assert apart.isinf()


def test_collapse_is_below_complexity_on_gaussian_classes():
    """Poincaré: the variance of a map of a Gaussian is at most λ_max(S) times its complexity."""
    g = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, dtype=F64, generator=g) / 3
    labels = torch.arange(4).repeat(500)
    centers = 2 * torch.randn(4, 6, dtype=F64, generator=g)
    x = centers[labels] + torch.randn(2000, 6, dtype=F64, generator=g) @ root.T
    level = torch.linalg.eigvalsh(root @ root.T)[-1]
    for seed in range(3):
        net = network(seed)
        stats = ClassStats.from_features(net(x).detach(), labels)
        bound = level * geometric_collapse(energies(net, x), labels, stats)
        assert 0.1 * bound < collapse.cdnv(stats) < bound


# --- CDNV of pairs --------------------------------------------------------------------------------


def test_both_forms_of_cdnv_have_the_same_mean():
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 4
    x = torch.randn(60, 5, generator=g, dtype=F64) * (1 + labels[:, None])
    x += 3 * torch.eye(5)[labels]
    stats = ClassStats.from_features(x, labels)
    symmetric = collapse.cdnv_pairs(stats)
    one_sided = collapse.cdnv_pairs(stats, form="one-sided")
    off = ~torch.eye(4, dtype=torch.bool)
    assert symmetric[off].mean() == pytest.approx(collapse.cdnv(stats))
    assert one_sided[off].mean() == pytest.approx(collapse.cdnv(stats))
    assert torch.equal(symmetric[off], symmetric.T[off]) and symmetric.diagonal().isnan().all()
    i, j = x[labels == 1], x[labels == 2]
    v = [(c - c.mean(0)).square().sum(1).mean() for c in (i, j)]
    distance = (i.mean(0) - j.mean(0)).square().sum()
    assert one_sided[1, 2] == pytest.approx(float(v[0] / distance))
    assert symmetric[1, 2] == pytest.approx(float((v[0] + v[1]) / (2 * distance)))
    with pytest.raises(ValueError, match="form must be"):
        collapse.cdnv_pairs(stats, form="both")


def test_unbiased_numerator_and_denominator_of_cdnv():
    """Over many draws of three samples a class, both parts average to the truth."""
    g = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 3 + [1] * 3)
    centers = torch.tensor([[0.0, 0, 0, 0], [1, 1, 0, 0]], dtype=F64)
    plain, fair = [], []
    for _ in range(2000):
        x = centers[labels] + torch.randn(6, 4, dtype=F64, generator=g)
        s = ClassStats.from_features(x, labels)
        distance = (s.means[0] - s.means[1]).square().sum()
        top = (s.within.sum() / 2) * 1.5
        unbiased = distance - (s.within * 1.5 / 3).sum()
        assert collapse.cdnv_pairs(s, unbiased=True)[0, 1] == pytest.approx(float(top / unbiased))
        plain.append((s.within.mean(), distance))
        fair.append((top, unbiased))
    plain, fair = torch.tensor(plain), torch.tensor(fair)
    truth, error = torch.tensor([4.0, 2.0]), fair.std(0) / 2000**0.5
    assert ((fair.mean(0) - truth).abs() < 4 * error).all()
    assert ((plain.mean(0) - truth).abs() > 8 * error).all()
    one = ClassStats.from_features(torch.randn(3, 2), torch.tensor([0, 0, 1]))
    with pytest.raises(ValueError, match="two samples of every class"):
        collapse.cdnv_pairs(one, unbiased=True)
