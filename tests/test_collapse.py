"""Measures: against the definitions, invariances, values at collapse, and known mistakes."""

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nclib import collapse
from nclib.collapse import NCReport, measure, measure_batches
from nclib.frames import simplex_etf
from nclib.stats import WEIGHTINGS, ClassStats

few = settings(max_examples=15, deadline=None, derandomize=True)

F64 = torch.float64
OF_SAMPLES = ("nc1", "nc1_ratio", "cdnv")
OF_MEANS = ("nc2_etf", "nc2_norms", "nc2_angles")
OF_WEIGHT = ("nc2_etf_weight", "nc2_norms_weight", "nc2_angles_weight", "nc3", "nc3_product")
FRACTIONS = ("nc4", "center_accuracy", "linear_accuracy")


def problem(seed=0, N=120, d=8, C=4, spread=0.5, dtype=F64):
    """Features, labels (unequal counts), weight and bias."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.arange(C), torch.rand(N - C, generator=g).pow(2).mul(C).long()])
    centers = torch.randn(C, d, generator=g, dtype=F64)
    features = centers[labels] + spread * torch.randn(N, d, generator=g, dtype=F64) + 1
    weight = centers + torch.randn(C, d, generator=g, dtype=F64)
    bias = torch.randn(C, generator=g, dtype=F64)
    return features.to(dtype), labels, weight.to(dtype), bias.to(dtype)


def orthogonal(d, seed, columns=None):
    g = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(d, columns or d, generator=g, dtype=F64))[0]


def textbook(features, labels, weight, bias):
    """Every definition as it is written, in NumPy, float64, with every class counting once."""
    X, y, W, b = (t.double().numpy() if t.is_floating_point() else t.numpy()
                  for t in (features, labels, weight, bias))
    C = len(W)
    mu = np.stack([X[y == c].mean(0) for c in range(C)])
    mu_G = mu.mean(0)
    M = mu - mu_G
    S = [sum(np.outer(h - mu[c], h - mu[c]) for h in X[y == c]) / (y == c).sum() for c in range(C)]
    S_W, S_B = sum(S) / C, sum(np.outer(m, m) for m in M) / C
    E = (np.eye(C) - 1 / C) / np.sqrt(C - 1)
    F = np.linalg.norm
    pairs = [(i, j) for i in range(C) for j in range(C) if i != j]

    def of(V):
        norms = F(V, axis=1)
        cosines = [V[i] @ V[j] / norms[i] / norms[j] for i, j in pairs]
        return (F(V @ V.T / F(V @ V.T) - E), norms.std() / norms.mean(),
                np.mean(np.abs(np.array(cosines) + 1 / (C - 1))))

    nearest = np.array([np.argmin(F(mu - h, axis=1)) for h in X])
    linear = np.array([np.argmax(W @ h + b) for h in X])
    return dict(zip(
        OF_SAMPLES + OF_MEANS + OF_WEIGHT + (*FRACTIONS, "nc4_bias"),
        (np.trace(S_W @ scipy.linalg.pinv(S_B, rtol=1e-10)) / C,
         np.trace(S_W) / np.trace(S_B),
         np.mean([(np.trace(S[i]) + np.trace(S[j])) / (2 * F(mu[i] - mu[j]) ** 2)
                  for i, j in pairs]),
         *of(M), *of(W),
         F(W / F(W) - M / F(M)), F(W @ M.T / F(W @ M.T) - E),
         np.mean(nearest != linear), np.mean(nearest == y), np.mean(linear == y),
         F(b + W @ mu_G)),
        strict=True,
    ))


def same(a: NCReport, b: NCReport, names=None, rel=1e-8, abs=1e-10):
    for name in names or [n for n, v in a.to_dict().items() if isinstance(v, float)]:
        assert getattr(a, name) == pytest.approx(getattr(b, name), rel=rel, abs=abs), name


# --- values


@pytest.mark.parametrize(("d", "C"), [(8, 4), (30, 5), (2, 2), (3, 6)])
@pytest.mark.parametrize(("dtype", "rel"), [(F64, 1e-9), (torch.float32, 1e-5),
                                            (torch.bfloat16, 1e-5), (torch.float16, 1e-5)])
def test_textbook(d, C, dtype, rel):
    data = problem(d=d, C=C, dtype=dtype)
    report = measure(*data)
    for name, value in textbook(*data).items():
        assert getattr(report, name) == pytest.approx(value, rel=rel, abs=rel), name


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_streaming_is_the_same(weighting):
    features, labels, weight, bias = problem()
    whole = measure(features, labels, weight, bias, weighting=weighting)
    parts = measure_batches(
        lambda: zip(features.split(17), labels.split(17), strict=True), weight, bias,
        weighting=weighting,
    )
    same(whole, parts)
    assert whole.weighting == parts.weighting == weighting


def test_functions_are_the_fields():
    features, labels, weight, bias = problem()
    report = measure(features, labels, weight, bias)
    s = ClassStats.from_features(features, labels, weight=weight, bias=bias)
    M = s.centered_means
    assert report.nc1 == collapse.nc1(s) and report.nc1_ratio == collapse.nc1_ratio(s)
    assert report.cdnv == collapse.cdnv(s) and report.nc4 == collapse.nc4(s)
    assert report.nc2_etf == collapse.nc2_etf(M)
    assert report.nc2_norms_weight == collapse.nc2_norms(weight)
    assert report.nc2_angles == collapse.nc2_angles(M)
    assert report.nc3 == collapse.nc3(means=M, weight=weight)
    assert report.nc3_product == collapse.nc3(means=M, weight=weight, form="product")
    assert report.nc4_bias == collapse.nc4_bias(weight=weight, bias=bias, mean=s.global_mean)


def test_report_without_classifier_and_as_dict():
    features, labels, weight, _ = problem()
    report = measure(features, labels)
    for name in (*OF_WEIGHT, *FRACTIONS, "nc4_bias"):
        assert getattr(report, name) is None
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()
    assert (report.rank, report.num_samples, report.num_classes, report.dim) == (3, 120, 4, 8)
    with pytest.raises(AttributeError):
        report.nc1 = 0.0
    # No bias is a bias of zero.
    same(measure(features, labels, weight), measure(features, labels, weight, torch.zeros(4)))


# --- collapse ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize(("C", "d"), [(2, 1), (4, 3), (10, 32)])
def test_collapse(C, d, dtype):
    g = torch.Generator().manual_seed(0)
    etf = simplex_etf(C, d, dtype=F64, generator=g)
    offset = torch.randn(d, generator=g, dtype=F64)
    labels = torch.arange(20 * C) % C
    features, weight = (3 * etf + offset)[labels], 2 * etf
    report = measure(features.to(dtype), labels, weight.to(dtype), (-weight @ offset).to(dtype))
    assert report.nc1 == report.nc1_ratio == report.cdnv == report.nc4 == 0
    assert report.center_accuracy == report.linear_accuracy == 1
    tiny = 1e-12 if dtype == F64 else 2e-6
    for name in (*OF_MEANS, *OF_WEIGHT, "nc4_bias"):
        assert 0 <= getattr(report, name) < tiny, name


def test_two_antipodal_pairs_are_no_etf():
    # Centered, of equal norm, with mean cosine -1/3, so signed deviations cancel; not an ETF.
    pairs = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    assert collapse.nc2_norms(pairs) == 0
    assert collapse.nc2_angles(pairs) == pytest.approx(4 / 9)
    assert collapse.nc2_etf(pairs) > 0.4


# --- invariances ---------------------------------------------------------------------------------

SEEDS = st.integers(0, 1000)


@few
@given(seed=SEEDS)
def test_rotation(seed):
    features, labels, weight, bias = problem(seed % 5)
    Q = orthogonal(8, seed)
    same(measure(features @ Q, labels, weight @ Q, bias), measure(features, labels, weight, bias))


@few
@given(seed=SEEDS, length=st.floats(0, 100))
def test_translation(seed, length):
    features, labels, weight, bias = problem(seed % 5)
    shift = length * torch.nn.functional.normalize(orthogonal(8, seed)[0], dim=0)
    same(
        measure(features + shift, labels, weight, bias - weight @ shift),
        measure(features, labels, weight, bias),
    )


@few
@given(seed=SEEDS, extra=st.integers(1, 200), dtype=st.sampled_from([torch.float32, F64]))
def test_orthogonal_embedding(seed, extra, dtype):
    """A pseudo-inverse with too small a cutoff inverts the rounding noise of the new dimensions."""
    features, labels, weight, bias = problem(seed % 5)
    P = orthogonal(8 + extra, seed, 8).T
    rel = 1e-8 if dtype == F64 else 1e-4
    same(
        measure((features @ P).to(dtype), labels, weight @ P, bias),
        measure(features, labels, weight, bias),
        rel=rel, abs=rel,
    )


@few
@given(seed=SEEDS, weighting=st.sampled_from(WEIGHTINGS))
def test_relabeling(seed, weighting):
    features, labels, weight, bias = problem(seed % 5)
    new = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    order = new.argsort()
    same(
        measure(features, new[labels], weight[order], bias[order], weighting=weighting),
        measure(features, labels, weight, bias, weighting=weighting),
    )


@few
@given(seed=SEEDS, a=st.floats(1e-3, 1e3), b=st.floats(1e-3, 1e3))
def test_scale(seed, a, b):
    features, labels, weight, bias = problem(seed % 5)
    scaled = measure(a * features, labels, b * weight, a * b * bias)
    plain = measure(features, labels, weight, bias)
    same(scaled, plain, (*OF_SAMPLES, *OF_MEANS, *OF_WEIGHT, *FRACTIONS))
    assert scaled.nc4_bias == pytest.approx(a * b * plain.nc4_bias)


@few
@given(seed=SEEDS, copies=st.lists(st.integers(1, 4), min_size=4, max_size=4))
def test_class_weighting_ignores_repeated_classes(seed, copies):
    features, labels, weight, bias = problem(seed % 5)
    index = torch.cat([(labels == c).nonzero().flatten().repeat(n) for c, n in enumerate(copies)])
    names = (*OF_SAMPLES, *OF_MEANS, *OF_WEIGHT, "nc4_bias")
    same(
        measure(features[index], labels[index], weight, bias),
        measure(features, labels, weight, bias), names,
    )


# --- conventions and mistakes that other metric codes make ---------------------------------------


def test_weightings_differ_only_for_unequal_counts():
    features, labels, weight, bias = problem(N=400)
    values = {w: measure(features, labels, weight, bias, weighting=w).nc1 for w in WEIGHTINGS}
    assert len({round(v, 6) for v in values.values()}) == 4
    index = torch.cat([(labels == c).nonzero().flatten()[:15] for c in range(4)])
    equal = [measure(features[index], labels[index], weight, bias, weighting=w) for w in WEIGHTINGS]
    same(equal[0], equal[1])
    same(equal[0], equal[2])


def test_nc4_sees_the_bias():
    etf = simplex_etf(4, 6, dtype=F64)
    labels = torch.arange(40) % 4
    bias = torch.tensor([10.0, 0, 0, 0])
    assert measure(etf[labels], labels, etf).nc4 == 0
    report = measure(etf[labels], labels, etf, bias)
    assert report.nc4 == 0.75  # the bias sends all samples to class 0
    assert (report.center_accuracy, report.linear_accuracy) == (1, 0.25)
    assert report.nc4_bias == pytest.approx(10)


def test_nc3_does_not_take_swapped_arguments():
    means, weight = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    with pytest.raises(TypeError):
        collapse.nc3(means, weight)


def test_absent_class_is_not_a_zero_mean():
    features, labels, *_ = problem()
    with pytest.raises(ValueError, match="no samples of class 4"):
        measure(features, labels, num_classes=5)


def test_noise_outside_the_between_class_space_does_not_count_in_nc1():
    features, labels, *_ = problem(d=4)
    noise = torch.randn(120, 300, generator=torch.Generator().manual_seed(1), dtype=F64)
    noise -= torch.stack([noise[labels == c].mean(0) for c in range(4)])[labels]
    noisy = torch.cat([features, noise], 1)
    assert measure(noisy, labels).nc1 == pytest.approx(measure(features, labels).nc1, rel=1e-9)
    assert measure(noisy, labels).nc1_ratio > 10 * measure(features, labels).nc1_ratio


def test_coinciding_means():
    features, labels, weight, bias = problem()
    means = torch.stack([features[labels == c].mean(0) for c in range(4)])
    features[labels == 1] += means[0] - means[1]
    report = measure(features, labels, weight, bias)
    assert report.rank == 2
    assert math.isinf(report.cdnv)
    assert math.isfinite(report.nc1)


def test_zero_classifier():
    features, labels, weight, bias = problem()
    report = measure(features, labels, 0 * weight, 0 * bias)
    assert all(math.isnan(getattr(report, name)) for name in OF_WEIGHT)
    assert report.nc4_bias == 0
    assert report.linear_accuracy == pytest.approx(float((labels == 0).double().mean()))


def test_the_graph_is_not_kept():
    features, labels, weight, bias = problem()
    for t in (features, weight, bias):
        t.requires_grad_()
    same(measure(features, labels, weight, bias),
         measure(features.detach(), labels, weight.detach(), bias.detach()))


# --- errors --------------------------------------------------------------------------------------

ETF = simplex_etf(3, 4)


@pytest.mark.parametrize("function", [collapse.nc2_etf, collapse.nc2_norms, collapse.nc2_angles])
def test_errors_of_vectors(function):
    with pytest.raises(ValueError, match=r"a matrix, got \(4,\)"):
        function(ETF[0])
    with pytest.raises(ValueError, match=r"C >= 2, got \(1, 4\)"):
        function(ETF[:1])
    with pytest.raises(ValueError, match="NaN or infinity"):
        function(ETF / 0)
    with pytest.raises(ValueError, match="zero"):
        function(0 * ETF)


def test_errors_of_functions():
    features, labels, weight, _ = problem()
    with pytest.raises(ValueError, match="row 1 of the vectors is zero"):
        collapse.nc2_angles(torch.tensor([[1.0, 0], [0, 0]]))
    with pytest.raises(ValueError, match=r"\(3, 4\), but weight is \(3, 5\)"):
        collapse.nc3(means=ETF, weight=torch.ones(3, 5))
    with pytest.raises(ValueError, match="'frobenius' or 'product'"):
        collapse.nc3(means=ETF, weight=ETF, form="cosine")
    with pytest.raises(ValueError, match="orthogonal"):
        collapse.nc3(means=torch.eye(4)[:2], weight=torch.eye(4)[2:], form="product")
    with pytest.raises(ValueError, match=r"bias must be \(3,\), got \(4,\)"):
        collapse.nc4_bias(weight=ETF, bias=torch.ones(4), mean=torch.ones(4))
    with pytest.raises(ValueError, match=r"mean must be \(4,\), got \(3,\)"):
        collapse.nc4_bias(weight=ETF, bias=None, mean=torch.ones(3))
    with pytest.raises(ValueError, match="make the statistics with weight"):
        collapse.nc4(ClassStats.from_features(features, labels))
    with pytest.raises(ValueError, match="without a weight"):
        measure(features, labels, bias=torch.ones(4))
    with pytest.raises(ValueError, match="num_classes or weight"):
        measure_batches(lambda: ((features, labels),))
    with pytest.raises(ValueError, match="weight must be"):
        measure(features, labels, weight[0])
    with pytest.raises(ValueError, match=r"weight must be \(4, 8\), got \(4, 7\)"):
        measure(features, labels, weight[:, 1:])


# --- the benchmark runs --------------------------------------------------------------------------


def test_benchmark_runs_and_its_methods_agree(capsys):
    path = Path(__file__).parent.parent / "benchmarks" / "metrics.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_metrics", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    page = benchmark.main(["--quick"])
    assert page in capsys.readouterr().out
    for _, true, ours, _, _ in benchmark.precision(benchmark.QUICK):
        assert abs(ours) < 1e-6, true
