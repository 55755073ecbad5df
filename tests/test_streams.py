"""Passes as objects, other scales, subsets of classes, held-out data, ranks that synchronize."""

import copy
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from textwrap import dedent

import pytest
import torch

from nclib import collapse, stats
from nclib.collapse import decide, measure, measure_batches, nc5, uniformity
from nclib.frames import simplex_etf
from nclib.stats import WEIGHTINGS, ClassMeans, ClassScatter, ClassStats

F64 = torch.float64
X4 = torch.tensor([[1.0, 0], [3, 1], [10, 0], [12, 1]])
Y4 = torch.tensor([0, 0, 1, 1])
INVARIANT = ("nc1", "nc1_ratio", "cdnv", "nc2_etf", "nc2_norms", "nc2_angles", "uniformity",
             "nc2_etf_weight", "nc3", "nc3_product", "rank", "center_accuracy")


def problem(N=300, d=12, C=5, seed=0, dtype=torch.float32, spread=0.4):
    g = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.arange(C), torch.rand(N - C, generator=g).square().mul(C).long()])
    centers = torch.randn(C, d, generator=g, dtype=F64)
    x = centers[labels] + spread * torch.randn(N, d, generator=g, dtype=F64)
    return x.to(dtype), labels, torch.randn(C, d, generator=g), torch.randn(C, generator=g)


def both(parts, C, second=None, **kwargs):
    first = ClassMeans(C, kwargs.pop("classes", None))
    for x, y in parts:
        first.update(x, y)
    scatter = ClassScatter(first, **kwargs)
    for x, y in second or parts:
        scatter.update(x, y)
    return scatter.compute()


def same(a, b, tol=1e-12):
    for name, value in asdict(a).items():
        other = getattr(b, name)
        if torch.is_tensor(value) and value.is_floating_point():
            torch.testing.assert_close(value, other, rtol=tol, atol=tol)
        elif torch.is_tensor(value):
            assert torch.equal(value, other)
        else:
            assert value == other


def close(found, expected, name):
    if isinstance(expected, str):
        assert found == expected
    else:
        assert found == pytest.approx(expected, rel=1e-8, abs=1e-12), name


# --- the two passes must see the same features ----------------------------------------------------


def test_two_passes_over_different_data_are_refused():
    x, y = torch.tensor([[0.0], [1], [4], [5]]), torch.tensor([0, 0, 1, 1])
    assert measure(x, y).nc1 == pytest.approx(0.03125, abs=1e-12)
    passes = iter([x, x + 1])
    with pytest.raises(ValueError, match="two passes saw different features"):
        measure_batches(lambda: [(next(passes), y)], num_classes=2)


@pytest.mark.parametrize("how", ["augmentation", "dropout", "batch norm", "one class alone"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_kinds_of_different_passes(how, dtype):
    features, labels, _, _ = problem()
    generator = torch.Generator().manual_seed(1)

    def changed():
        noise = torch.randn(features.shape, generator=generator)
        if how == "augmentation":
            out = features + 0.3 * noise
        elif how == "dropout":
            out = features * (noise > -1)
        elif how == "batch norm":
            out = features / (1 + 0.1 * float(noise[0, 0]))
        else:
            out = torch.where(labels[:, None] == 4, features + 0.2 * noise[0], features)
        return [(out.to(dtype), labels)]

    with pytest.raises(ValueError, match="different features"):
        measure_batches(changed, num_classes=5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("spread", [0.0, 1e-6, 1e-2, 10.0])
@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_honest_passes_are_not_refused(dtype, spread, offset):
    features, labels, _, _ = problem(N=2000, spread=spread)
    features = (features + offset).to(dtype)
    order = torch.randperm(len(features))
    passes = iter([(features, labels), (features[order], labels[order])])
    measure_batches(lambda: [next(passes)], num_classes=5)


def test_what_can_be_walked_twice():
    x, y, weight, bias = problem()
    expected = measure(x, y, weight, bias)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x, y), batch_size=64, shuffle=True
    )
    for batches in ([(x, y)], lambda: [(x, y)], lambda: iter([(x, y)]), loader):
        assert measure_batches(batches, weight, bias).nc1 == pytest.approx(expected.nc1, rel=1e-6)
    for once in (iter([(x, y)]), (b for b in [(x, y)]), zip([x], [y], strict=True)):
        with pytest.raises(ValueError, match="walked only once"):
            measure_batches(once, weight, bias)


# --- scale ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, powers", [
    (torch.float32, (-30, -25, -10, 10, 25, 30)), (F64, (-150, -100, -30, 30, 100, 150)),
])
def test_measures_do_not_depend_on_the_scale(dtype, powers):
    features, labels, weight, _ = problem(dtype=dtype)
    expected = measure(features, labels, weight)
    for power in powers:
        report = measure(features * 10.0**power, labels, weight)
        for name in INVARIANT:
            assert getattr(report, name) == pytest.approx(getattr(expected, name), rel=2e-5), name
        assert report.nc4 == pytest.approx(expected.nc4, abs=0.01)
        scaled = measure(features, labels, weight.to(dtype) * 10.0**power)
        for name in ("nc2_etf_weight", "nc2_norms_weight", "nc2_angles_weight", "nc3"):
            assert getattr(scaled, name) == pytest.approx(getattr(expected, name), rel=1e-5)


def test_values_of_tiny_features():
    report = measure(X4 * 1e-25, Y4)
    assert report.nc1_ratio == pytest.approx(5 / 81, rel=1e-6)  # .0617
    assert report.cdnv == pytest.approx(1.25 / 81, rel=1e-6)  # .0154
    big = torch.randn(4, 6, dtype=F64, generator=torch.Generator().manual_seed(0))
    assert collapse.nc2_etf(big * 1e100) == pytest.approx(collapse.nc2_etf(big), rel=1e-12)


# --- conventions, subsets, held-out data ----------------------------------------------------------


def test_weighting_of_papyans_notebook():
    x, y = torch.tensor([[-1.0], [1], [-1], [1], [10]]).double(), torch.tensor([0, 0, 0, 0, 1])
    assert measure(x, y, weighting="papyan").nc1 == pytest.approx(0.016, rel=1e-12)


def test_subset_of_classes_is_the_problem_without_the_others():
    x, y, weight, bias = problem(C=6)
    kept = torch.tensor([1, 3, 4])
    rows = torch.isin(y, kept)
    alone = measure(x[rows], torch.searchsorted(kept, y[rows]), weight[kept], bias[kept])
    for report in (
        measure(x, y, weight, bias, classes=[4, 1, 3]),
        measure(x[rows], y[rows], weight, bias, classes="seen"),
        measure_batches([(x, y)], weight, bias, classes=[1, 3, 4]),
        measure_batches([(x[rows], y[rows])], weight, bias, classes="seen"),
    ):
        for name, value in alone.to_dict().items():
            close(getattr(report, name), value, name)
    wide = torch.where(y == 1, 2**40, y)
    assert measure(x, wide, classes=[2**40, 3, 4]).num_classes == 3
    with pytest.raises(ValueError, match="no samples of class"):
        measure(x[rows], y[rows], weight, bias)


def test_held_out_data_against_training_means():
    x, y, weight, bias = problem(seed=1)
    means = ClassStats.from_features(x, y)
    report = measure(x, y, weight, bias)
    found = decide([(x, y)], means, weight, bias)
    assert found.nc4 == pytest.approx(report.nc4, abs=0.01)
    assert found.linear_accuracy == pytest.approx(report.linear_accuracy, abs=0.01)
    test = problem(seed=2)[0] + 0.1
    centers = means.means
    nearest = torch.cdist(test.double(), centers).argmin(1)
    linear = (test @ weight.T + bias).argmax(1)
    some = y < 3  # classes may be missing
    found = decide([(test[:100], y[:100]), (test[100:], y[100:])], means, weight, bias)
    assert found.nc4 == (nearest != linear).double().mean()
    assert found.center_accuracy == (nearest == y).double().mean()
    assert found.linear_accuracy == (linear == y).double().mean()
    assert decide([(test[some], y[some])], means).nc4 is None
    subset = ClassStats.from_features(x, y, classes=[0, 2])
    both = (y == 0) | (y == 2)
    found = decide([(test, y)], subset, weight, bias)
    assert found.num_samples == int(both.sum())
    rows = torch.tensor([0, 2])
    assert found.linear_accuracy == float(
        (rows[(test[both] @ weight[rows].T + bias[rows]).argmax(1)] == y[both]).double().mean())
    for call, words in (
        (lambda: decide([(test[:0], y[:0])], means), "no sample"),
        (lambda: decide([(test, y)], means, bias=bias), "without a weight"),
        (lambda: decide([(test, y + 1)], means, weight), "not in"),
        (lambda: decide([(test / 0, y)], means, weight), "NaN or infinity"),
        (lambda: decide([(test, y)], means, weight[:4]), "4 rows for C=5"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


@pytest.mark.parametrize("s", [0.0, 1.0, 2.0])
def test_uniformity_is_least_at_the_simplex(s):
    frame = simplex_etf(5, 7, dtype=F64)
    assert uniformity(3 * frame, s=s) == pytest.approx(0, abs=1e-14)
    g = torch.Generator().manual_seed(0)
    other = torch.randn(5, 7, dtype=F64, generator=g)
    u = other / other.norm(dim=1, keepdim=True)
    pairs = [(u[i] - u[j]).norm() for i in range(5) for j in range(5) if i != j]
    e = (10 / 4) ** 0.5
    kernel = (lambda r: -torch.log(torch.as_tensor(r))) if s == 0 else (lambda r: r**-s)
    expected = sum(float(kernel(r)) for r in pairs) / 20 - float(kernel(torch.tensor(e).double()))
    assert uniformity(other, s=s) == pytest.approx(expected, rel=1e-6) and expected > 0.01
    assert uniformity(torch.tensor([[1.0, 0], [2, 0], [0, 1]]), s=s) == float("inf")
    with pytest.raises(ValueError, match="at least 0"):
        uniformity(frame, s=-1)


def test_nc5():
    means = torch.tensor([[1.0, 0, 0], [0, 2, 0]])
    assert nc5(means, torch.tensor([0.0, 0, 5])) == 0
    assert nc5(means, torch.tensor([-3.0, 0, 4])) == pytest.approx(0.3)
    center = torch.tensor([0.5, 1, 0])
    assert nc5(means, torch.tensor([0.5, 1, 2]), center=center) == pytest.approx(0)
    with pytest.raises(ValueError, match="outside is zero"):
        nc5(means, torch.zeros(3))


def test_many_classes_come_in_blocks(monkeypatch):
    x, y, weight, bias = problem(N=900, C=40, d=16)
    expected = measure(x, y, weight, bias)
    monkeypatch.setattr(stats.decide, "_WIDE", 8)
    monkeypatch.setattr(stats.decide, "_BLOCK", 500)
    monkeypatch.setattr(collapse.measures, "_blocks",
                        lambda C: (slice(i, min(i + 7, C)) for i in range(0, C, 7)))
    report = measure(x, y, weight, bias)
    for name, value in expected.to_dict().items():
        close(getattr(report, name), value, name)


@pytest.mark.parametrize("C", [3, 65, 300])
def test_pieces_that_hold_few_of_the_classes(monkeypatch, C):
    """A piece has 64 rows here: with more classes only those in it are added to."""
    monkeypatch.setitem(stats.sums._CHUNK_BYTES, "cpu", 64)
    g = torch.Generator().manual_seed(3)
    y = torch.cat([torch.arange(C), torch.randint(C, (500,), generator=g)])
    x = torch.randn(len(y), 5, generator=g) + 100
    first = stats.ClassMeans(C)
    for features, labels in zip(x.split(77), y.split(77), strict=True):
        first.update(features, labels)
    counts, means = first.compute()
    assert torch.equal(counts, y.bincount(minlength=C))
    expected = torch.stack([x[y == c].double().mean(0) for c in range(C)])
    torch.testing.assert_close(means, expected, rtol=1e-12, atol=0)


def test_memory_of_a_vocabulary():
    code = """
        import resource, torch
        from nclib import measure
        C, d = 30_000, 16
        g = torch.Generator().manual_seed(0)
        x, y = torch.randn(2 * C, d, generator=g), torch.arange(C).repeat(2)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        measure(x, y, torch.randn(C, d, generator=g))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    out = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True)
    assert int(out.stdout) < 1_200_000, out.stderr  # kB; one (C, C) matrix of float64 is 7.2 GB


# --- objects --------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("cut", [0, 3, 150, 300])
def test_shards_merge(weighting, cut):
    x, y, weight, bias = problem(dtype=F64)
    kwargs = {"weighting": weighting, "weight": weight, "bias": bias}
    whole = ClassStats.from_features(x, y, **kwargs)
    firsts = []
    for part in (slice(cut), slice(cut, None)):
        firsts.append(ClassMeans(5))
        firsts[-1].update(x[part], y[part])
    before = copy.deepcopy(firsts[1].state_dict())
    firsts[0].merge(firsts[1])
    after = firsts[1].state_dict()
    assert all(torch.equal(before[k], after[k]) for k in ("sums", "counts", "first"))
    seconds = [ClassScatter(firsts[0], **kwargs) for _ in range(2)]
    seconds[0].update(x[cut:], y[cut:])
    seconds[1].update(x[:cut], y[:cut])
    with pytest.raises(ValueError, match="two passes saw different samples"):
        copy.deepcopy(seconds[0]).compute() if cut else seconds[1].compute()
    seconds[0].merge(seconds[1])
    same(seconds[0].compute(), whole)


def test_identical_samples_in_two_shards_have_no_spread():
    x = torch.tensor([[0.1, 0.7], [0.3, 0.9]])
    first, other = ClassMeans(2), ClassMeans(2)
    first.update(x, torch.arange(2))
    other.update(x.repeat(3, 1), torch.arange(2).repeat(3))
    first.merge(other)
    second = ClassScatter(first)
    second.update(x.repeat(4, 1), torch.arange(2).repeat(4))
    assert collapse.nc1(second.compute()) == 0


def test_states_can_be_saved(tmp_path):
    x, y, weight, _ = problem()
    whole = ClassStats.from_features(x, y, weight=weight)
    first = ClassMeans(5)
    first.update(x[:100], y[:100])
    torch.save(first.state_dict(), tmp_path / "first")
    again = ClassMeans(5)
    again.load_state_dict(torch.load(tmp_path / "first", weights_only=True))
    again.update(x[100:], y[100:])
    second = ClassScatter(again, weight=weight)
    second.update(x[:250], y[:250])
    torch.save(second.state_dict(), tmp_path / "second")
    last = ClassScatter(again, weight=weight)
    last.load_state_dict(torch.load(tmp_path / "second", weights_only=True))
    last.update(x[250:], y[250:])
    same(last.compute(), whole, tol=1e-6)
    with pytest.raises(ValueError, match="C=5, not C=4"):
        ClassMeans(4).load_state_dict(first.state_dict())


def test_shards_that_do_not_fit():
    x, y, weight, _ = problem()
    first, other = ClassMeans(5), ClassMeans(5)
    first.update(x, y)
    other.update(x[:, :3], y)
    with pytest.raises(ValueError, match="do not fit"):
        first.merge(other)
    other = ClassMeans(5)
    other.update(x + 1, y)
    with pytest.raises(ValueError, match="different class means"):
        ClassScatter(first).merge(ClassScatter(other))
    with pytest.raises(ValueError, match="different class means, weightings or classifiers"):
        ClassScatter(first).merge(ClassScatter(first, weight=weight))


RANK = """
    import os, sys, torch, torch.distributed as dist
    from nclib.stats import ClassMeans, ClassScatter
    rank = int(os.environ["RANK"])
    dist.init_process_group("gloo")
    x, y, weight = torch.load(sys.argv[1], weights_only=True)
    mine = slice(int(sys.argv[2])) if rank == 0 else slice(int(sys.argv[2]), None)
    first = ClassMeans(5)
    if len(y[mine]):
        first.update(x[mine], y[mine])
    first.sync()
    try:
        first.update(x, y)
    except ValueError as error:
        assert "sums of all ranks" in str(error)
    else:
        raise SystemExit("an update after sync went through")
    second = ClassScatter(first, weight=weight)
    if len(y[mine]):
        second.update(x[mine], y[mine])
    second.sync()
    s = second.compute()
    torch.save({k: v for k, v in vars(s).items() if v is not None}, f"{sys.argv[1]}.{rank}")
    dist.destroy_process_group()
"""


@pytest.mark.parametrize("cut", [120, 300])  # the second time one rank has no sample
def test_two_processes_equal_one(tmp_path, cut):
    x, y, weight, _ = problem()
    torch.save((x, y, weight), tmp_path / "data")
    env = os.environ | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(20000 + os.getpid() % 20000 + cut),
        "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": str(Path(stats.__file__).parents[2]),
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", dedent(RANK), str(tmp_path / "data"), str(cut)],
            env=env | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True,
        ) for rank in range(2)
    ]
    for process in ranks:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    whole = ClassStats.from_features(x, y, weight=weight)
    found = [torch.load(tmp_path / f"data.{rank}", weights_only=True) for rank in range(2)]
    for name, value in found[0].items():
        other = found[1][name]
        assert torch.equal(value, other) if torch.is_tensor(value) else value == other
        if torch.is_tensor(value) and name in ("means", "spread", "within_pinv"):
            torch.testing.assert_close(value, getattr(whole, name), rtol=1e-6, atol=1e-6)
    assert found[0]["disagreements"] == whole.disagreements


# --- precision ------------------------------------------------------------------------------------


def test_the_callers_forward_pass_does_not_run_in_our_precision():
    x, y, _, _ = problem()
    backend = torch.backends.mkldnn.matmul
    before = backend.fp32_precision
    seen, inside = [], []
    original = stats.sums._set_precision

    def forward():
        seen.append(backend.fp32_precision)
        yield x, y

    try:
        backend.fp32_precision = "bf16"
        stats.sums._set_precision = lambda value: (inside.append(value), original(value))
        measure_batches(forward, num_classes=5)
        assert seen == ["bf16", "bf16"] and backend.fp32_precision == "bf16"
        assert inside.count("strict") >= 2
    finally:
        stats.sums._set_precision = original
        backend.fp32_precision = before


def test_precision_of_threads_that_overlap():
    backend = torch.backends.mkldnn.matmul
    before = backend.fp32_precision
    try:
        backend.fp32_precision = "bf16"
        one, two = stats.sums.full_precision(), stats.sums.full_precision()
        one.__enter__()
        two.__enter__()
        one.__exit__(None, None, None)
        assert backend.fp32_precision == "ieee"  # the second is still at work
        two.__exit__(None, None, None)
        assert backend.fp32_precision == "bf16"
    finally:
        backend.fp32_precision = before
