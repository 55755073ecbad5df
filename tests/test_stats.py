"""Class statistics: against the definitions, in every dtype, split, order and convention."""

import itertools

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestCentroid
from torch.utils._python_dispatch import TorchDispatchMode

from nclib import stats
from nclib.stats import WEIGHTINGS, ClassStats, decide, sums
from nclib.stats.decide import Decider

few = settings(max_examples=15, deadline=None, derandomize=True)

F64 = torch.float64


def clusters(N=120, d=8, C=4, spread=0.5, offset=0.0, seed=0, dtype=torch.float32, balanced=True):
    """Features ``(N, d)`` of ``dtype`` around random centers and labels ``(N,)`` of every class."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(N) % C
    if not balanced:
        labels = torch.cat([torch.arange(C), torch.rand(N - C, generator=g).pow(3).mul(C).long()])
    labels = labels[torch.randperm(N, generator=g)]
    centers = torch.randn(C, d, generator=g, dtype=F64)
    noise = spread * torch.randn(N, d, generator=g, dtype=F64)
    return (centers[labels] + noise + offset).to(dtype), labels


def classifier(d, C, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(C, d, generator=g), torch.randn(C, generator=g)


def textbook(features, labels, C, weighting="class"):
    """The definitions in float64, with d×d matrices and SciPy's pseudo-inverse.

    Returns counts, means, within, ``tr(Sigma_W Sigma_B^+)``, ``tr Sigma_W`` and ``tr Sigma_B``.
    """
    X, y = features.double().numpy(), labels.numpy()
    counts = np.bincount(y, minlength=C)
    means = np.stack([X[y == c].mean(0) for c in range(C)])
    covariances = np.stack([np.cov(X[y == c].T, ddof=0).reshape(2 * X.shape[1:]) for c in range(C)])
    by_sample, by_class = counts / len(X), np.full(C, 1 / C)
    w_mean, w_between, w_within = {
        "class": (by_class, by_class, by_class),
        "sample": (by_sample, by_sample, by_sample),
        "mixed": (by_sample, by_class, by_sample),
        "papyan": (by_class, by_class, by_sample),
    }[weighting]
    M = means - w_mean @ means
    between = np.einsum("c,ci,cj->ij", w_between, M, M)
    within = np.einsum("c,cij->ij", w_within, covariances)
    pinv = scipy.linalg.pinv(between, rtol=1e-11)
    each = np.trace(covariances, axis1=1, axis2=2)
    return counts, means, each, np.trace(within @ pinv), np.trace(within), np.trace(between)


def same(a: ClassStats, b: ClassStats, rtol=1e-5):
    assert torch.equal(a.counts, b.counts)
    assert (a.rank, a.disagreements, a.center_hits, a.linear_hits) == (
        b.rank, b.disagreements, b.center_hits, b.linear_hits)
    for name in ("means", "within", "within_pinv", "singular_values", "global_mean"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=rtol, atol=1e-7)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize(("d", "C"), [(8, 4), (40, 4), (1, 2), (3, 7), (9, 10)])
def test_textbook(weighting, balanced, d, C):
    features, labels = clusters(N=150, d=d, C=C, balanced=balanced)
    ours = ClassStats.from_features(features, labels, weighting=weighting)
    counts, means, each, pinv, within, between = textbook(features, labels, C, weighting)
    assert ours.counts.tolist() == counts.tolist()
    assert ours.rank == min(C - 1, d)
    assert (ours.num_samples, ours.num_classes, ours.dim) == (150, C, d)
    np.testing.assert_allclose(ours.means, means, rtol=0, atol=1e-6)
    np.testing.assert_allclose(ours.within, each, rtol=1e-6)
    np.testing.assert_allclose(
        [ours.within_pinv_trace, ours.within_trace, ours.between_trace], [pinv, within, between],
        rtol=1e-5,
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, F64])
def test_dtypes(dtype):
    features, labels = clusters(d=16, spread=0.3, dtype=dtype)
    weight, bias = classifier(16, 4)
    ours = ClassStats.from_features(
        features, labels, weight=weight.to(dtype), bias=bias.to(dtype)
    )
    _, means, each, pinv, *_ = textbook(features, labels, 4)
    np.testing.assert_allclose(ours.means, means, rtol=0, atol=1e-6)
    np.testing.assert_allclose(ours.within, each, rtol=1e-6)
    assert ours.within_pinv_trace == pytest.approx(pinv, rel=1e-5)
    assert ours.means.dtype == ours.within.dtype == F64
    if dtype == F64:
        assert ours.within_pinv_trace == pytest.approx(pinv, rel=1e-12)


@pytest.mark.parametrize("offset", [0.0, 10.0, 100.0])
@pytest.mark.parametrize("true", [3e-2, 3e-5, 3e-7, 3e-9])
def test_precision_near_collapse(offset, true):
    """float32 features; the reference is the textbook in float64 on the same features."""
    d, C = 64, 10
    spread = (true * d / C) ** 0.5
    features, labels = clusters(N=2000, d=d, C=C, spread=spread, offset=offset)
    reference = textbook(features, labels, C)
    ours = ClassStats.from_features(features, labels)
    assert 0.3 < reference[3] / C / true < 30
    assert ours.within_pinv_trace == pytest.approx(reference[3], rel=1e-6)
    np.testing.assert_allclose(ours.within, reference[2], rtol=1e-6)
    streamed = ClassStats.from_batches(
        lambda: zip(features.split(96), labels.split(96), strict=True), C
    )
    assert streamed.within_pinv_trace == pytest.approx(reference[3], rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, F64])
@pytest.mark.parametrize("offset", [0.0, 33.3])
def test_exact_collapse_is_exactly_zero(dtype, offset):
    centers = (torch.randn(7, 12, generator=torch.Generator().manual_seed(1)) + offset).to(dtype)
    labels = torch.arange(700) % 7
    ours = ClassStats.from_features(centers[labels], labels)
    assert ours.within.tolist() == [0] * 7
    assert ours.within_pinv.tolist() == [0] * 7
    assert torch.equal(ours.means, centers.double())


def test_rank_of_dependent_means():
    g = torch.Generator().manual_seed(0)
    plane = torch.linalg.qr(torch.randn(50, 2, generator=g, dtype=F64))[0].T
    centers = torch.randn(6, 2, generator=g, dtype=F64) @ plane
    labels = torch.arange(600) % 6
    noise = torch.randn(600, 50, generator=g, dtype=F64)
    noise -= torch.stack([noise[labels == c].mean(0) for c in range(6)])[labels]
    for dtype in (torch.float32, F64):
        features = (centers[labels] + 0.1 * noise).to(dtype)
        ours = ClassStats.from_features(features, labels)
        assert ours.rank == 2
        assert ours.within_pinv_trace == pytest.approx(textbook(features, labels, 6)[3], rel=1e-5)


@pytest.mark.parametrize("spread", [0.05, 0.7, 3.0])  # none, some and all compared with all centers
@pytest.mark.parametrize("C", [2, 5, 12])
@pytest.mark.parametrize("scale", [0.125, 1, 8])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_decisions(spread, C, scale, dtype):
    features, labels = clusters(N=300, d=9, C=C, spread=spread, dtype=dtype)
    features = features * scale
    weight, bias = classifier(9, C)
    ours = ClassStats.from_features(features, labels, weight=weight, bias=bias)
    nearest = NearestCentroid().fit(features.double(), labels).predict(features.double())
    linear = (features.double() @ weight.double().T + bias.double()).argmax(1)
    nearest = torch.from_numpy(nearest)
    assert ours.disagreements == int((nearest != linear).sum())
    assert ours.center_hits == int((nearest == labels).sum())
    assert ours.linear_hits == int((linear == labels).sum())


@pytest.mark.parametrize("beyond", [-1e-3, 1e-3])
@pytest.mark.parametrize("wrong", [False, True])
def test_decisions_at_the_boundary(beyond, wrong):
    """Two samples a class, on both sides of its mean, just within or just beyond the boundary."""
    g = torch.Generator().manual_seed(3)
    weight, bias = torch.randn(5, 7, generator=g, dtype=F64), torch.randn(5, generator=g, dtype=F64)
    means = 3 * (weight.roll(1, 0) if wrong else weight)  # the classifier may miss the class
    logits = means @ weight.T + bias
    steps = []
    for z in logits:
        best = int(z.argmax())
        reach = (z[best] - z) / (weight[best] - weight).norm(dim=1)
        next_ = int(reach.nan_to_num(torch.inf).argmin())
        toward = (weight[next_] - weight[best]) / (weight[next_] - weight[best]).norm()
        steps.append((1 + beyond) * reach[next_] * toward)
    steps = torch.stack(steps)
    features, labels = torch.cat([means + steps, means - steps]), torch.arange(5).repeat(2)
    linear = (features @ weight.T + bias).argmax(1)
    assert int((linear != logits.argmax(1).repeat(2)).sum()) == (5 if beyond > 0 else 0)
    ours = ClassStats.from_features(features, labels, weight=weight, bias=bias)
    nearest = torch.cdist(features, means).argmin(1)
    assert ours.linear_hits == int((linear == labels).sum())
    assert ours.disagreements == int((nearest != linear).sum())


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_decisions_of_pieces_near_and_far(monkeypatch, dtype):
    """Pieces whose samples need the classifier, or not, or some: each way leads to the same."""
    monkeypatch.setitem(sums._CHUNK_BYTES, "cpu", 64 * 9 * 8)
    seen = []
    plain = Decider._linear
    monkeypatch.setattr(Decider, "_linear", lambda self, r, products, norms, y: (
        plain(self, r, products, norms, y),
        seen.append((products is not None, self.crowded)))[0])
    parts = [clusters(N=256, d=9, C=5, spread=s, dtype=dtype) for s in (0.02, 3.0, 0.02, 0.4)]
    features, labels = (torch.cat(v) for v in zip(*parts, strict=True))
    weight, bias = classifier(9, 5)
    ours = ClassStats.from_features(features, labels, weight=weight, bias=bias)
    assert set(seen) == {(a, b) for a in (False, True) for b in (False, True)}
    linear = (features.double() @ weight.double().T + bias.double()).argmax(1)
    assert ours.linear_hits == int((linear == labels).sum())
    nearest = NearestCentroid().fit(features.double(), labels).predict(features.double())
    assert ours.disagreements == int((torch.from_numpy(nearest) != linear).sum())


def test_zero_classifier_decides_for_the_first_class():
    features, labels = clusters(C=4)
    ours = ClassStats.from_features(features, labels, weight=torch.zeros(4, 8))
    assert ours.linear_hits == 30


@few
@given(
    sizes=st.lists(st.integers(0, 90), min_size=1, max_size=8),
    seed=st.integers(0, 3),
    dtype=st.sampled_from([torch.float16, torch.float32, F64]),
)
def test_split_and_order_do_not_matter(sizes, seed, dtype):
    features, labels = clusters(N=200, seed=seed, balanced=False, dtype=dtype)
    weight, bias = classifier(8, 4)
    whole = ClassStats.from_features(features, labels, weight=weight, bias=bias)
    order = torch.randperm(200)
    cuts = [0, *np.minimum(np.cumsum(sizes), 200).tolist(), 200]

    def batches():
        nonlocal order
        for a, b in itertools.pairwise(cuts):
            yield features[order[a:b]], labels[order[a:b]]
        order = order.flip(0)  # the second pass may come in another order

    before = stats.sums._CHUNK_BYTES
    try:
        stats.sums._CHUNK_BYTES = {"cpu": 1}  # pieces of 64 rows
        same(ClassStats.from_batches(batches, 4, weight=weight, bias=bias), whole)
    finally:
        stats.sums._CHUNK_BYTES = before


def test_reused_batch_memory_and_other_label_dtypes():
    features, labels = clusters(N=100)
    x, y = torch.empty(10, 8), torch.empty(10, dtype=torch.uint8)

    def batches():
        for i in range(0, 100, 10):
            x.copy_(features[i : i + 10])
            y.copy_(labels[i : i + 10])
            yield x, y
            x.fill_(torch.nan)

    same(ClassStats.from_batches(batches, 4), ClassStats.from_features(features, labels.int()))


def test_inputs_are_left_alone_and_need_not_be_contiguous():
    features, labels = clusters(N=100)
    copy = features.clone()
    whole = ClassStats.from_features(features, labels)
    same(ClassStats.from_features(features.T.contiguous().T, labels), whole)
    same(ClassStats.from_features(features.clone().requires_grad_(), labels), whole)
    same(ClassStats.from_features(features.numpy(), labels.numpy()), whole)
    assert torch.equal(features, copy)


def test_same_bits_in_every_run_and_in_deterministic_mode():
    features, labels = clusters(N=500, d=33)
    weight, bias = classifier(33, 4)

    def run():
        s = ClassStats.from_features(features, labels, weight=weight, bias=bias)
        return torch.cat([s.means.flatten(), s.within, s.within_pinv])

    first = run()
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(run(), first)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("wide", [2048, 3])
def test_lower_precision_of_the_caller_is_not_used(monkeypatch, wide):
    monkeypatch.setattr(decide, "_WIDE", wide)
    features, labels = clusters(N=3000, d=64, spread=8.0)
    weight, bias = classifier(64, 4)

    def run():
        return ClassStats.from_features(features, labels, weight=weight, bias=bias)

    plain = run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        same(run(), plain, rtol=0)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        same(run(), plain, rtol=0)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that an operation returns, inputs excepted."""

    def __init__(self, *inputs):
        super().__init__()
        self.storages = {t.untyped_storage().data_ptr() for t in inputs}
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, list | tuple) else (out,):
            if isinstance(t, torch.Tensor) and (
                t.untyped_storage().data_ptr() not in self.storages
            ):
                self.numel = max(self.numel, t.numel())
        return out


def test_memory_does_not_grow_with_samples_or_squared_dimension(monkeypatch):
    monkeypatch.setattr(stats.sums, "_CHUNK_BYTES", {"cpu": 64 * 1000 * 4})
    d, C, rows = 1000, 5, 64
    largest = []
    for N in (500, 3000):
        features, labels = clusters(N=N, d=d, C=C)
        weight, bias = classifier(d, C)
        with Largest(features, labels) as mode:
            ClassStats.from_features(features, labels, weight=weight, bias=bias)
        largest.append(mode.numel)
    assert largest[0] <= rows * d < d * d / 10
    assert largest[1] <= rows * d


# --- errors --------------------------------------------------------------------------------------


def broken(**change):
    features, labels = clusters(N=40, d=6, C=4)
    return {"features": features, "labels": labels, **change}


F, Y = clusters(N=40, d=6, C=4)
NAN = F.clone()
NAN[17, 3] = torch.nan
INF = F.clone()
INF[0, 0] = -torch.inf

ERRORS = {
    "features of three dimensions": ({"features": F[:, :, None]}, r"\(N, d\).*\(40, 6, 1\)"),
    "features of one dimension": ({"features": F[:, 0]}, r"\(N, d\).*\(40,\)"),
    "no feature": ({"features": F[:, :0]}, r"d >= 1, got \(40, 0\)"),
    "integer features": ({"features": F.long()}, "float dtype, got torch.int64"),
    "float labels": ({"labels": Y.float()}, "integers, got torch.float32"),
    "boolean labels": ({"labels": Y > 1}, "integers, got torch.bool"),
    "one-hot labels": ({"labels": torch.eye(4).long()[Y]}, r"\(40,\).*\(40, 4\)"),
    "labels of another length": ({"labels": Y[:-1]}, r"\(40,\).*got \(39,\)"),
    "label too large": ({"num_classes": 3}, r"label 3 is not in \[0, 3\)"),
    "negative label": ({"labels": Y - 1, "num_classes": 4}, "label -1 is not in"),
    "empty class": ({"num_classes": 6}, "no samples of class 4, 5"),
    "empty class within": ({"labels": Y.where(Y != 2, 1)}, "no samples of class 2"),
    "NaN": ({"features": NAN}, "NaN or infinity"),
    "infinity": ({"features": INF}, "NaN or infinity"),
    "overflow": ({"features": F * 3e38}, "NaN or infinity"),
    "one sample": ({"features": F[:1], "labels": Y[:1]}, "at least 2 samples"),
    "no sample": ({"features": F[:0], "labels": Y[:0]}, "at least 2 samples"),
    "one class": ({"labels": torch.zeros_like(Y)}, "at least 2 classes"),
    "constant features": ({"features": torch.full((40, 6), 0.1)}, "class means are equal"),
    "zero features": ({"features": torch.zeros(40, 6)}, "class means are equal"),
    "weight of another width": ({"weight": torch.ones(4, 5)}, r"weight .*\(4, 6\).*\(4, 5\)"),
    "weight of other classes": ({"weight": torch.ones(3, 6)}, r"label 3 is not in \[0, 3\)"),
    "weight of more classes": ({"weight": torch.ones(5, 6)}, "no samples of class 4"),
    "stray label": ({"labels": Y.where(Y != 3, 2**40)}, "is a label stray .*1099511627776"),
    "stray byte": ({"labels": Y.where(Y != 3, 255)}, "is a label stray"),
    "classes that repeat": ({"classes": [0, 0, 1]}, "classes repeat"),
    "unknown classes": ({"classes": "all"}, 'labels or "seen"'),
    "class that is not there": ({"classes": [0, 1, 9]}, "no samples of class 9"),
    "transposed bias": (
        {"weight": torch.ones(4, 6), "bias": torch.ones(4, 1)}, r"bias .*\(4,\).*\(4, 1\)",
    ),
    "NaN weight": ({"weight": torch.full((4, 6), torch.nan)}, "weight has NaN"),
    "bias alone": ({"bias": torch.ones(4)}, "without a weight"),
    "weighting": ({"weighting": "samples"}, "weighting must be one of"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case):
    change, message = ERRORS[case]
    with pytest.raises(ValueError, match=message):
        ClassStats.from_features(**broken(**change))


def test_errors_of_batches():
    with pytest.raises(ValueError, match="at least 2 samples"):
        ClassStats.from_batches(lambda: (), 4)
    with pytest.raises(ValueError, match="at least 2 samples, got 0"):
        ClassStats.from_batches(lambda: ((F[:0], Y[:0]),), 4)
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        ClassStats.from_batches(lambda: ((F[:1], Y[:1]),), 4)
    with pytest.raises(ValueError, match="first have d=6"):
        ClassStats.from_batches(lambda: ((F, Y), (F[:, :5], Y)), 4)
    once = iter([(F, Y)])
    with pytest.raises(ValueError, match="two passes saw different samples"):
        ClassStats.from_batches(lambda: once, 4)
    with pytest.raises(ValueError, match="at least 2 classes"):
        ClassStats.from_batches(lambda: ((F, Y),), 1)
