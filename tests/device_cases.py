"""nclib on the pretend CUDA device: the CPU's results, and no device mistake.

Run by ``test_device.py`` in a process of its own.
"""

from __future__ import annotations

import dataclasses
import warnings
from functools import partial

import fakecuda
import numpy as np
import pytest
import torch
from fakecuda import CudaTensor, fake_cuda
from torch import nn
from torch.nn import functional as F

import nclib
from nclib import collapse, ensembles, frames, losses, models, nrc, polar, solve, training, ufm
from nclib.runtime import Run

F64 = torch.float64


def normal(*shape, seed=0, dtype=torch.float32):
    """The same numbers on every device: drawn on the CPU."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def classes(dtype=torch.float32, K=5, d=9, N=120):
    y = torch.arange(N) % K
    x = normal(K, d, seed=1)[y] + 0.7 * normal(N, d, seed=2)
    return x.to(dtype), y, normal(K, d, seed=3).to(dtype), normal(K, seed=4).to(dtype)


def measure(device, dtype, weighting, mixed=False):
    x, y, W, b = (v.to(device) for v in classes(dtype))
    if mixed:  # labels and classifier may be elsewhere
        y, W, b = y.cpu(), W.cpu(), b.cpu()
    return collapse.measure(x, y, W, b, weighting=weighting)


def measure_batches(device, mixed=False):
    x, y, W, b = (v.to(device) for v in classes())
    parts = list(zip(x.split(17), y.split(17), strict=True))
    if mixed:
        parts[1:] = [(p.cpu(), q.cpu()) for p, q in parts[1:]]
    return collapse.measure_batches(lambda: iter(parts), W, b)


def small_measures(device):
    x, y, W, b = (v.to(device) for v in classes())
    stats = nclib.ClassStats.from_features(x, y, weight=W, bias=b)
    M = stats.centered_means
    return [f(W) for f in (collapse.nc2_etf, collapse.nc2_norms, collapse.nc2_angles,
                           collapse.uniformity)] + [
        collapse.nc3(means=M, weight=W), collapse.nc1(stats), collapse.nc1_ratio(stats),
        collapse.cdnv(stats), collapse.nc4(stats),
        collapse.nc4_bias(weight=W, bias=b, mean=stats.global_mean), stats.means, stats.counts]


def regression(device, mixed=False):
    H, Y = normal(3, 50, 6).to(device), normal(50, 2, seed=1).to(device)
    W, b = normal(3, 2, 6, seed=2).to(device), normal(3, 2, seed=3).to(device)
    if mixed:
        Y, W, b = Y.cpu(), W.cpu(), b.cpu()
    root = nrc.covariance_root(Y.to(device))
    return [nrc.measure_regression(H, Y, W, b), nrc.nrc1(H, 2), nrc.nrc2(H, W.to(device)),
            nrc.nrc3(W.to(device), root, 0.1), nrc.nrc3_fit(W.to(device), root),
            nrc.explained_variance(H, 3)]


def make_frames(device):
    g = torch.Generator().manual_seed(0)
    return [frames.helmert(4, device=device), frames.etf_gram(4, device=device),
            frames.simplex_etf(4, device=device),
            frames.simplex_etf(4, 6, device=device, generator=g)]


def nearest(device, method="svd", prox=False):
    means = normal(2, 4, 6, dtype=F64).to(device).requires_grad_()
    old = frames.simplex_etf(4, 6, dtype=F64, device=device, generator=torch.Generator())
    frame = polar.nearest_simplex_etf(means, prox=old if prox else None, method=method)
    frame.square()[..., 0].sum().backward()
    return frame.detach(), means.grad, polar.polar_factor(means.detach())


def ce_model(device):
    lam = torch.logspace(-3, -1, 5, dtype=F64, device=device)
    start = ufm.init(5, 4, 3, 6, generator=torch.Generator().manual_seed(0), device=device)
    loss = partial(ufm.ce_loss, lam_w=lam, lam_h=lam, lam_b=0.1)
    found = solve.minimize(loss, start, tol=1e-6)
    return [start, found.loss, found.converged, ufm.ce_optimum(4, 3, lam, lam),
            ufm.ce_optimum(4, 3, lam, 0.1), ufm.labels(3, 2, device)]


def deep_model(device):
    x = ufm.deep_init(3, 4, 2, 6, 3, generator=torch.Generator().manual_seed(0), device=device)
    lam = torch.tensor([0.01, 0.02, 0.03], dtype=F64, device=device)
    out = [x, ufm.deep_loss(**x, lam_w=lam, lam_h=0.01), ufm.rigid_level(1.0, lam, 3),
           ufm.dnc_level(4, 3, lam)]
    for momentum in (0.0, 0.9):
        path = ufm.deep_descend(x, rate=0.2, steps=5, lam_w=[lam, 0.1, lam], lam_h=lam,
                                momentum=momentum, relu_features=True, record=[2], keep=[3])
        out += [path.loss, path.x]
    return out


def regression_model(device):
    Y = normal(20, 2, dtype=F64).to(device)
    Y = Y - Y.mean(0)
    lam = torch.tensor([0.01, 0.1], dtype=F64, device=device)
    best = ufm.regression_solution(Y, 0.1, 0.1, 4, generator=torch.Generator().manual_seed(0))
    return [ufm.regression_optimum(Y.T @ Y / 20, lam, lam), best,
            ufm.regression_loss(**best, targets=Y, lam_w=0.1, lam_h=0.1)]


SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-3)
NETS = {
    "MLP": (lambda: models.MLP(12, [8, 5], 3), (24, 1, 3, 4)),
    "MLP without normalization": (lambda: models.MLP(12, [8, 5], 3, norm=False), (24, 12)),
    "ConvNet": (lambda: models.ConvNet(2, 9, [3, 4], [6, 5], 3), (24, 2, 9, 9)),
    "ResNet-18": (lambda: models.ResNet(1, 3, width=2, feature_dim=5), (16, 1, 17, 17)),
    "ResNet-20": (lambda: models.ResNet(1, 3, depth=20, width=2), (16, 1, 17, 17)),
    "ResNet-50": (lambda: models.ResNet(1, 3, depth=50, stem="imagenet", width=2),
                  (16, 1, 33, 33)),
}


def network(device, make, seed=0):
    torch.manual_seed(seed)
    return make().to(device)


def trained(device, name="MLP", optimizer=SGD, **options):
    make, shape = NETS[name]
    net, x = network(device, make), normal(*shape).to(device)
    y = (torch.arange(len(x)) % 3).to(device)

    def callback(epoch, model):
        logits, h = training.outputs(model, x, 7)
        return {"nc1": collapse.measure(h, y, model.head.weight, model.head.bias).nc1,
                "logits": logits}

    given = {"epochs": 2, "batch_size": 8, "generator": torch.Generator().manual_seed(1)}
    records = training.train(net, x, y, optimizer=optimizer, callback=callback, **given | options)
    return records, dict(net.named_parameters())


def one_cycle(optimizer, steps):
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, steps)


def objective(batch):
    (slope,) = torch.autograd.grad(batch.features.sum(), batch.inputs, create_graph=True)
    return losses.cross_entropy(batch) + 0.1 * slope.square().sum(-1)


def clip(batch):
    batch.model.head.weight.grad.clamp_(-0.01, 0.01)


def ensemble(device, name="MLP", rule=ensembles.SGD, own=True, **options):
    make, shape = NETS[name]
    nets, x = ensembles.seeded(make, [0, 1]).to(device), normal(*shape).to(device)
    y = (torch.arange(len(x)) % 3).to(device)
    rates = torch.tensor([0.01, 0.05])
    records = ensembles.train(
        nets, x, y, optimizer=rule(nets, rates, 0.9, rates), at=[0, 2, 4], schedule=lambda t: 0.9,
        batches=ensembles.shuffled(len(x), 8, epochs=2,
                                   generators=[0, 1] if own else torch.Generator()),
        measure=lambda step, nets: {"h": ensembles.outputs(nets, x)}, **options)
    return records, dict(nets.named_parameters())


def replayed(device):
    nets = ensembles.seeded(NETS["MLP without normalization"][0], [0, 1]).to(device)
    x, y = normal(24, 12).to(device), (torch.arange(24) % 3).to(device)
    pools = [[torch.arange(12), torch.arange(12, 15)], [torch.arange(12)]]
    ensembles.train(nets, x, y, weight=torch.rand(24, generator=torch.Generator()),
                    batches=ensembles.mixed(pools, 6, steps=3, generators=[0, 1]),
                    optimizer=ensembles.Adam(nets, 0.01))
    return dict(nets.named_parameters())


CASES = {
    **{f"measure {w} {str(t)[6:]}": partial(measure, dtype=t, weighting=w)
       for w in ("class", "sample", "mixed") for t in (F64, torch.float32, torch.bfloat16)},
    "measure, labels and classifier on the CPU":
        partial(measure, dtype=torch.float32, weighting="class", mixed=True),
    "batches": measure_batches,
    "batches, later ones on the CPU": partial(measure_batches, mixed=True),
    "single measures": small_measures,
    "regression": regression,
    "regression, targets and weight on the CPU": partial(regression, mixed=True),
    "frames": make_frames,
    "nearest ETF": nearest,
    "nearest ETF by eigh": partial(nearest, method="eigh"),
    "nearest ETF, proximal": partial(nearest, prox=True),
    "cross-entropy model": ce_model,
    "deep model": deep_model,
    "regression model": regression_model,
    **{f"train {name}": partial(trained, name=name) for name in NETS},
    "train, one cycle, amp": partial(
        trained, schedule=one_cycle, amp=True, optimizer=partial(torch.optim.SGD, lr=0.1,
                                                                 momentum=0.9)),
    "train, Adam, penalty": partial(trained, optimizer=partial(torch.optim.Adam, lr=0.01),
                                    penalty=lambda model, h: h.square().mean()),
    "train, L-BFGS": partial(trained, batch_size=24, optimizer=partial(
        torch.optim.LBFGS, max_iter=3, line_search_fn="strong_wolfe")),
    "train, objective and hooks": partial(
        trained, name="MLP without normalization", objective=objective, input_gradients=True,
        after_backward=clip, batches=lambda epoch: torch.arange(24).split(9)),
    **{f"ensemble of {name}": partial(ensemble, name=name) for name in NETS},
    "ensemble, shared batches": partial(ensemble, own=False),
    "ensemble, Adam": partial(ensemble, rule=ensembles.Adam),
    "ensemble, objective and hooks": partial(
        ensemble, name="MLP without normalization", input_gradients=True, after_backward=clip,
        objective=objective),
    "ensemble, replay": replayed,
}


def leaves(value) -> list:
    """Numbers and tensors of a result, in order."""
    if isinstance(value, dict):
        return [leaf for v in value.values() for leaf in leaves(v)]
    if isinstance(value, list | tuple):
        return [leaf for v in value for leaf in leaves(v)]
    if dataclasses.is_dataclass(value):
        names = [f.name for f in dataclasses.fields(value)]
        return [leaf for name in names for leaf in leaves(getattr(value, name))]
    if isinstance(value, torch.Tensor):
        return [value.detach()]
    return [value] if isinstance(value, int | float) else []


@pytest.mark.parametrize("name", CASES)
def test_as_on_the_cpu(name):
    wanted = leaves(CASES[name]("cpu"))
    with fake_cuda(), warnings.catch_warnings():
        warnings.simplefilter("error")  # no operation without a deterministic kernel
        found = leaves(CASES[name]("cuda"))
        tensors = [v for v in found if isinstance(v, torch.Tensor)]
        assert all(isinstance(v, CudaTensor) for v in tensors)
        found = [v.cpu() if isinstance(v, torch.Tensor) else v for v in found]
    assert len(wanted) == len(found) > 0
    for a, b in zip(wanted, found, strict=True):
        a, b = torch.as_tensor(a), torch.as_tensor(b)
        assert a.dtype == b.dtype and torch.allclose(a, b, rtol=1e-6, atol=1e-7, equal_nan=True)


def test_runs_on_a_machine_with_cuda():
    with fake_cuda():
        run = nclib.setup(0)
        assert (run.preset, run.device.type) == ("gpu", "cuda")
        assert run.provenance()["device"] == "pretend CUDA"
        assert torch.get_num_threads() == 1
        assert isinstance(torch.randn(2, generator=run.generator(1, "cuda"), device="cuda"),
                          CudaTensor)
        threads = []
        training.parallel(lambda i: threads.append(i), range(3))
        assert threads == [0, 1, 2]  # one at a time, in order
    nclib.runtime._current = None


def test_starts_are_drawn_where_the_generator_is():
    with fake_cuda():
        starts = (partial(ufm.init, 2, 3, 4, 5), partial(ufm.deep_init, 2, 3, 4, 5, 3))
        for make in starts:
            on_cpu = make(generator=torch.Generator().manual_seed(1), device="cuda")
            on_device = make(generator=torch.Generator("cuda").manual_seed(1), device="cuda")
            for start in (on_cpu, on_device):
                assert all(isinstance(v, CudaTensor) for v in start.values())


def test_data_labels_and_models_may_start_on_the_cpu():
    """Training moves data to the model once."""
    wanted = trained("cpu")
    make, shape = NETS["MLP"]
    with fake_cuda():
        net, x, y = network("cuda", make), normal(*shape), torch.arange(24) % 3
        records = training.train(net, x, y, epochs=2, batch_size=8, optimizer=SGD,
                                 generator=torch.Generator().manual_seed(1))
        assert records[-1]["loss"] == pytest.approx(wanted[0][-1]["loss"])
        on_device = training.train(net, x, y, epochs=1, batch_size=8, optimizer=SGD,
                                   generator=torch.Generator("cuda").manual_seed(1))
        assert on_device[-1]["loss"] > 0
        assert isinstance(training.outputs(net, x)[0], CudaTensor)


def test_resume(tmp_path):
    make, shape = NETS["MLP"]
    with fake_cuda():
        x, y = normal(*shape).to("cuda"), (torch.arange(24) % 3).to("cuda")

        def go(net, epochs, path, stop=None):
            def callback(epoch, model):
                if epoch == stop:
                    raise KeyboardInterrupt
                return {}
            return training.train(net, x, y, epochs=epochs, batch_size=8, optimizer=SGD,
                                  generator=torch.Generator().manual_seed(1), resume=path,
                                  callback=callback)
        wanted = go(network("cuda", make), 4, None)
        with pytest.raises(KeyboardInterrupt):
            go(network("cuda", make), 4, tmp_path / "run.pt", stop=3)
        assert str(go(network("cuda", make, 1), 4, tmp_path / "run.pt")) == str(wanted)


def test_claims_take_device_tensors():
    with fake_cuda():
        run = Run(preset="gpu", seed=0, device=torch.device("cuda"))
        claims = nclib.Claims("tiny", run)
        options = {"says": "book", "kind": "theory", "below": 2.0}
        claims.check("a", "All values are below two.", measured=torch.rand(3).to("cuda"), **options)
        values = list(torch.rand(3).to("cuda"))
        claims.check("b", "Each value is below two.", measured=values, **options)
        assert [c["verdict"] for c in claims.record()["claims"]] == ["reproduced"] * 2


# The test of the test: what CUDA refuses must be refused, and what it allows must be allowed.

def cuda(*shape):
    return torch.ones(*shape).to("cuda")


def in_graph(function):
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        function(cuda(2))


FAULTS = {
    "sum of two devices": lambda: cuda(3) + torch.ones(3),
    "product of two devices": lambda: cuda(2, 3) @ torch.ones(3, 2),
    "batched product": lambda: torch.bmm(cuda(2, 3, 3), torch.ones(2, 3, 3)),
    "concatenation": lambda: torch.cat([cuda(3), torch.ones(3)]),
    "stack": lambda: torch.stack([cuda(3), torch.ones(3)]),
    "where": lambda: torch.where(torch.ones(3) > 0, cuda(3), cuda(3)),
    "labels on the CPU": lambda: F.cross_entropy(cuda(4, 3), torch.arange(4) % 3),
    "network on the CPU": lambda: nn.Linear(3, 2)(cuda(4, 3)),
    "inputs on the CPU": lambda: nn.Linear(3, 2).to("cuda")(torch.ones(4, 3)),
    "convolution": lambda: F.conv2d(cuda(1, 1, 4, 4), torch.ones(1, 1, 3, 3)),
    "running statistics": lambda: F.batch_norm(cuda(4, 2), torch.zeros(2), torch.ones(2)),
    "written in place": lambda: torch.zeros(()).add_(cuda(1)[0]),
    "one-hot to CPU": lambda: torch.zeros(4, 3).scatter_(1, torch.zeros(4, 1).long().to("cuda"), 1),
    "gather": lambda: cuda(4, 3).gather(1, torch.zeros(4, 1, dtype=torch.long)),
    "device index into the CPU": lambda: torch.ones(5)[torch.arange(2).to("cuda")],
    "index_add": lambda: cuda(5).index_add_(0, torch.arange(2), cuda(2)),
    "solve": lambda: torch.linalg.solve(cuda(2, 2) + torch.eye(2).to("cuda"), torch.ones(2)),
    "einsum": lambda: torch.einsum("ij,jk->ik", cuda(2, 2), torch.ones(2, 2)),
    "optimizer of another device": lambda: cuda(3).addcmul_(torch.ones(3), cuda(3)),
    "tensor to NumPy": lambda: cuda(3).numpy(),
    "NumPy of tensor": lambda: np.asarray(cuda(3)),
    "NumPy function": lambda: np.sqrt(cuda(3)),
    "CPU generator": lambda: torch.randn(3, device="cuda", generator=torch.Generator()),
    "device generator": lambda: torch.randn(3, generator=torch.Generator("cuda")),
    "number while a graph is captured": lambda: in_graph(lambda x: x.sum().item()),
    "copy while a graph is captured": lambda: in_graph(lambda x: x.cpu()),
    "mask while a graph is captured": lambda: in_graph(lambda x: x[x > 0]),
}
ALLOWED = {
    "CPU number": lambda: cuda(3) * torch.tensor(2.0) + torch.tensor(1),
    "Python number": lambda: 2 * cuda(3) - 1,
    "CPU index": lambda: cuda(5)[torch.arange(2)],
    "CPU mask": lambda: cuda(3)[torch.tensor([True, False, True])],
    "copy between devices": lambda: torch.zeros(3).copy_(cuda(3)),
    "filled by a CPU number": lambda: cuda(3).fill_(torch.tensor(2.0)),
    "back to NumPy": lambda: cuda(3).cpu().numpy(),
    "number": lambda: float(cuda(3).sum()),
    "list": lambda: cuda(3).tolist(),
    "derivative along a direction": lambda: torch.func.jvp(
        lambda x: x.mean(-1) / 2, (cuda(4, 3),), (cuda(4, 3),)),
    "format": lambda: f"{cuda(3).sum():.2f}",
    "device generator": lambda: torch.randn(
        3, device="cuda", generator=torch.Generator("cuda").manual_seed(0)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_refused(name):
    with fake_cuda(), pytest.raises((RuntimeError, TypeError)):
        FAULTS[name]()
    assert not fakecuda.captured


@pytest.mark.parametrize("name", ALLOWED)
def test_allowed(name):
    with fake_cuda():
        ALLOWED[name]()


def test_graph_replays_what_was_captured():
    with fake_cuda():
        x, total = cuda(2), torch.zeros(2, device="cuda")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            total += 3 * x
        for value in (1.0, 10.0):
            x.fill_(value)
            graph.replay()
        assert total.tolist()[0] >= 33.0


def test_warns_without_a_deterministic_kernel():
    nclib.setup(preset="cpu")
    with fake_cuda(), pytest.warns(UserWarning, match="deterministic"):
        cuda(4).cumsum(0)
    nclib.runtime._current = None
