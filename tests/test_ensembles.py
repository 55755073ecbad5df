"""Ensembles: every member ends where it would end alone."""

import importlib.util
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from nclib import ensembles, losses, models, training

SEEDS = [3, 5, 7]
MAKE = {
    "mlp": lambda: models.MLP(36, [10, 7], 3),
    "bare": lambda: models.MLP(36, [10, 7], 3, norm=False),
    "signed": lambda: models.MLP(36, [10, 7], 3, signed=True),
    "conv": lambda: models.ConvNet(1, 6, [3, 4], [7], 3),
    "bare conv": lambda: models.ConvNet(1, 6, [3, 4], [7], 3, norm=False, signed=True),
    "resnet": lambda: models.ResNet(1, 3, width=2, feature_dim=5),
    "resnet50": lambda: models.ResNet(1, 3, depth=50, stem="imagenet", width=4),
    "deep head": lambda: models.MLP(
        36, [7], 3, head=nn.Sequential(nn.Linear(7, 6, bias=False), nn.ReLU(), nn.Linear(6, 3))
    ),
    "linear": lambda: models.Classifier(nn.Flatten(), 36, 3),
}


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def images(n=24, classes=3):
    g = torch.Generator().manual_seed(0)
    y = torch.arange(n) % classes
    return y[:, None, None, None] + torch.randn(n, 1, 6, 6, generator=g), y


def alone(make, seed):
    torch.manual_seed(seed)
    return make()


def equal(nets, singles, tol=1e-9):
    for b, single in enumerate(singles):
        found = nets.member(b).state_dict()
        for name, value in single.state_dict().items():
            scale = 1 + value.abs().max()
            assert (found[name] - value).abs().max() <= tol * scale, name


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("own", [True, False])
def test_as_one_by_one(name, own):
    x, y = images()
    if name == "resnet50":
        x = nn.functional.interpolate(x, scale_factor=5, mode="bilinear")
    sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.01)
    singles, results = [alone(MAKE[name], s) for s in SEEDS], []
    nets = ensembles.seeded(MAKE[name], SEEDS)
    for seed, net in zip(SEEDS, singles, strict=True):
        order = torch.Generator().manual_seed(seed if own else 1)
        results.append(training.train(
            net, x, y, epochs=3, batch_size=10, optimizer=sgd, generator=order
        ))
    orders = SEEDS if own else torch.Generator().manual_seed(1)
    records = ensembles.train(
        nets, x, y, batches=ensembles.shuffled(24, 10, epochs=3, generators=orders),
        optimizer=ensembles.SGD(nets, 0.05, 0.9, 0.01), at=[0, 3, 6, 9],
        measure=lambda step, nets: {"mode": nets.training},
    )
    # three residual blocks of ResNet-50 see one pixel of eight images and magnify rounding, up to
    # 1e-5 of the largest weight
    equal(nets, singles, 1e-4 if name == "resnet50" else 1e-9)
    assert [r["step"] for r in records] == [0, 3, 6, 9] and not any(r["mode"] for r in records)
    assert records[0]["loss"].isnan().all()
    for i in (1, 2, 3):
        wanted = torch.tensor([r[i]["loss"] for r in results])
        assert torch.allclose(records[i]["loss"], wanted, atol=1e-6)
    singles = [nets.member(b) for b in range(3)]
    logits, features = ensembles.outputs(nets, x, batch_size=7)
    for b, net in enumerate(singles):
        want = training.outputs(net, x)
        assert torch.allclose(logits[b], want[0], atol=1e-9)
        assert torch.allclose(features[b], want[1], atol=1e-9)
    nets.eval()
    with torch.no_grad():  # inputs of each member
        assert torch.allclose(nets(x.expand(3, *x.shape)), logits, atol=1e-9)


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_values_of_each_member(rule):
    """Rates, momenta, decays, labels, data, and weights of their own; a schedule."""
    make, (x, y) = MAKE["bare"], images()
    rates, decays = torch.tensor([0.01, 0.02, 0.04]), torch.tensor([0.0, 0.1, 0.01])
    momenta, factor = torch.tensor([0.0, 0.9, 0.5]), lambda t: 1 - t / 12
    labels = torch.stack([y, (y + 1) % 3, y.roll(1)])
    weight = torch.rand(3, 24, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    sets = [torch.arange(24)[torch.arange(24) % 4 != b] for b in range(3)]
    nets = ensembles.seeded(make, SEEDS)
    kind = {"sgd": ensembles.SGD, "adam": ensembles.Adam}[rule]
    ensembles.train(
        nets, x, labels, weight=weight, schedule=factor,
        batches=ensembles.shuffled(sets, 6, epochs=4, generators=SEEDS),
        optimizer=kind(nets, rates, momenta,
                       lambda name: 0.0 if name.endswith("bias") else decays),
    )
    singles = [alone(make, s) for s in SEEDS]
    for b, net in enumerate(singles):
        groups = [
            {"params": [p for p in net.parameters() if p.dim() > 1],
             "weight_decay": decays[b].item()},
            {"params": [p for p in net.parameters() if p.dim() == 1], "weight_decay": 0.0},
        ]
        if rule == "sgd":
            opt = torch.optim.SGD(groups, rates[b].item(), momentum=momenta[b].item())
        else:
            opt = torch.optim.Adam(groups, rates[b].item(), betas=(momenta[b].item(), 0.999))
        schedule = torch.optim.lr_scheduler.LambdaLR(opt, factor)
        g = torch.Generator().manual_seed(SEEDS[b])
        for _ in range(4):
            for index in sets[b][torch.randperm(18, generator=g)].tensor_split(3):
                opt.zero_grad()
                wanted, w = labels[b][index], weight[b][index]
                each = nn.functional.cross_entropy(net(x[index]), wanted, reduction="none")
                ((w * each).sum() / w.sum()).backward()
                opt.step()
                schedule.step()
    equal(nets, singles)


def test_targets_and_objectives():
    """Squared error on targets; an objective of features and inputs, a loss for each member."""
    make, (x, _) = partial(models.MLP, 36, [10, 7], 2, norm=False), images()
    targets, strength = x.flatten(1)[:, :2].repeat(1, 1), torch.tensor([0.0, 1e-3, 1e-2])

    def objective(batch):
        (slope,) = torch.autograd.grad(batch.features.sum(), batch.inputs, create_graph=True)
        rough = slope.flatten(2).square().sum(-1).mean(-1)
        return losses.half_squared_error(batch).mean(-1) + strength * rough

    nets = ensembles.seeded(make, SEEDS)
    ensembles.train(
        nets, x, targets, batches=ensembles.shuffled(24, 8, epochs=2, generators=SEEDS),
        optimizer=ensembles.SGD(nets, 0.05), objective=objective, input_gradients=True,
    )
    singles = [alone(make, s) for s in SEEDS]
    for seed, s, net in zip(SEEDS, strength, singles, strict=True):
        def one(batch, s=s):
            (slope,) = torch.autograd.grad(batch.features.sum(), batch.inputs, create_graph=True)
            rough = slope.flatten(1).square().sum(-1).mean()
            return losses.half_squared_error(batch).mean() + s * rough
        g = torch.Generator().manual_seed(seed)
        for _ in range(2):
            for index in torch.randperm(24, generator=g).tensor_split(3):
                inputs = x[index].requires_grad_()
                out, h = net(inputs, return_features=True)
                batch = losses.Batch(0, net, index, inputs, targets[index], out, h)
                net.zero_grad()
                one(batch).backward()
                with torch.no_grad():
                    for p in net.parameters():
                        p -= 0.05 * p.grad
    equal(nets, singles)


def test_hooks_see_stacked_gradients_and_parameters():
    (x, y), seen = images(), []
    nets = ensembles.seeded(MAKE["mlp"], SEEDS)
    before = nets.head.weight.detach().clone()

    def stop(batch):
        seen.append((batch.step, batch.loss.shape, batch.features.shape, batch.outputs.shape,
                     batch.labels.shape))
        batch.model.head.weight.grad[1] = 0.0

    def pull(batch):
        batch.model.head.weight[2] = before[2]

    ensembles.train(
        nets, x, y, batches=ensembles.shuffled(24, 12, epochs=1, generators=SEEDS),
        optimizer=ensembles.SGD(nets, 0.1), after_backward=stop, after_step=pull,
    )
    same = [torch.equal(nets.head.weight[b], before[b]) for b in range(3)]
    assert same == [False, True, True]
    assert seen == [(t, (3,), (3, 12, 7), (3, 12, 3), (3, 12)) for t in (0, 1)]


def test_frozen_stays_and_diverged_members_leave_others_alone():
    x, y = images()

    def make():
        net = MAKE["bare"]()
        net.head.weight.requires_grad_(False)
        return net

    results = []
    for rate in (0.05, 1e200):
        nets = ensembles.seeded(make, SEEDS)
        before = nets.head.weight.clone()
        records = ensembles.train(
            nets, x, y, batches=ensembles.shuffled(24, 12, epochs=6, generators=SEEDS), at=[12],
            optimizer=ensembles.SGD(nets, torch.tensor([0.05, rate, 0.05])),
        )
        assert torch.equal(nets.head.weight, before)
        results.append((nets, records[0]["loss"]))
    assert results[1][1].isfinite().tolist() == [True, False, True]
    for b in (0, 2):
        for p, q in zip(*(nets.member(b).parameters() for nets, _ in results), strict=True):
            assert torch.allclose(p, q, atol=1e-12)


def test_shuffled_sees_every_sample_once():
    index = torch.cat(list(ensembles.shuffled(10, 4, epochs=2, generators=[0, 0, 1])), 1)
    for part in index.split(10, 1):
        assert torch.equal(part.sort().values, torch.arange(10).expand(3, 10))
    assert torch.equal(index[0], index[1]) and not torch.equal(index[0], index[2])
    single = list(ensembles.shuffled(10, 4, epochs=1, generators=torch.Generator()))
    assert [len(i) for i in single] == [4, 3, 3]
    with pytest.raises(ValueError, match="train on"):
        next(ensembles.shuffled([torch.arange(3), torch.arange(4)], 2, epochs=1, generators=[0, 1]))


def test_mixed_takes_equal_shares():
    new, old, older = torch.arange(10, 20), torch.tensor([3, 4]), torch.tensor([7])
    none = torch.tensor([], dtype=torch.long)
    pools = [[new, old, older], [new, none], [new, old[:1]]]
    index = torch.stack(list(ensembles.mixed(pools, 7, steps=200, generators=[0, 1, 2])))
    assert index.shape == (200, 3, 7)
    shares = [[torch.isin(index[:, b], p).sum(-1).unique().tolist() for p in (new, old, older)]
              for b in range(3)]
    assert shares == [[[3], [2], [2]], [[7], [0], [0]], [[4], [3], [0]]]
    counts = index[:, 1].flatten().bincount(minlength=20)[10:]
    assert counts.min() > 100 and set(index[:, 0, 3:5].flatten().tolist()) == {3, 4}
    assert set(index[:, 2, 4:].flatten().tolist()) == {3}
    again = ensembles.mixed(pools[1:2], 7, steps=1, generators=[1])
    assert torch.equal(next(again)[0], index[0, 1])  # no member's draws depend on the others


def test_refuses():
    x, y = images()
    nets = ensembles.seeded(MAKE["mlp"], SEEDS)
    with pytest.raises(ValueError, match="same parameters"):
        ensembles.Ensemble([MAKE["mlp"](), MAKE["bare"]()])
    with pytest.raises(ValueError, match="Bilinear"):
        ensembles.Ensemble([models.Classifier(nn.Bilinear(2, 2, 2), 2, 2)])
    with pytest.raises(ValueError, match="neither 1 nor 3"):
        nets(x.expand(2, *x.shape))
    with pytest.raises(ValueError, match="every sample"):
        ensembles.train(
            nets, x, y, batches=[torch.arange(24)], optimizer=ensembles.SGD(nets, 0.1),
            objective=lambda b: losses.cross_entropy(b).mean(-1), weight=torch.ones(24),
        )


def test_making_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    nets = ensembles.seeded(MAKE["mlp"], [4, 4])
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*nets.head.weight)
    assert models.count_parameters(nets) == 2 * models.count_parameters(MAKE["mlp"]())


def test_benchmark_runs_and_both_ways_agree(capsys):
    path = Path(__file__).parent.parent / "benchmarks" / "ensembles.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_ensembles", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    assert benchmark.main(["--quick"]) in capsys.readouterr().out
