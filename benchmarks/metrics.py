"""nclib's measures against the textbook formulations: time, memory and precision.

    python benchmarks/metrics.py            print the tables
    python benchmarks/metrics.py --write    and write pages/benchmarks.md
    python benchmarks/metrics.py --quick    small sizes, to see that it runs

Every method computes NC1 (pseudo-inverse), NC2, NC3, NC4 and CDNV of the same float32 features and
classifier, and the values must agree. Times are CPU times on one thread, the best of several
rounds in which the methods take turns, so that what else the machine does touches all of them.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from nclib import collapse, stats  # noqa: E402

PEER = importlib.util.find_spec("neural_collapse") is not None
PAGE = ROOT / "pages" / "benchmarks.md"
FULL = {"N": 50_000, "d": 512, "classes": (10, 100), "rounds": 5, "loop": 1000,
        "wide": (50_000, 2048, 1000)}
QUICK = {"N": 600, "d": 48, "classes": (4, 10), "rounds": 1, "loop": 100, "wide": (400, 64, 20)}


# --- data ---------------------------------------------------------------------------------------


def clusters(N: int, d: int, C: int, spread: float = 0.3, offset: float = 0.0):
    """Features ``(N, d)`` around C random centers, labels ``(N,)``, and a classifier."""
    generator = torch.Generator().manual_seed(C)
    centers = torch.randn(C, d, generator=generator)
    labels = torch.rand(N // C, C, generator=generator).argsort(1).flatten()  # balanced
    features = torch.randn(N, d, generator=generator).mul_(spread).add_(centers[labels] + offset)
    weight = centers + torch.randn(C, d, generator=generator)
    bias = torch.randn(C, generator=generator) * d**0.5
    return features, labels, weight, bias


def batches(features, labels, size):
    return lambda: zip(features.split(size), labels.split(size), strict=True)


# --- the textbook -------------------------------------------------------------------------------


def finish(means, within, variances, disagreements, N, weight):
    """NC1 to NC4 and CDNV from class means ``(C, d)``, Sigma_W ``(d, d)`` and class variances."""
    C = len(means)
    M = means - means.mean(0)
    between = M.T @ M / C
    target = (torch.eye(C) - 1 / C) / (C - 1) ** 0.5
    gram = M @ M.T
    spread = (variances[:, None] + variances) / (2 * torch.cdist(M, M) ** 2)
    return {
        "nc1": float(torch.trace(within @ torch.linalg.pinv(between, hermitian=True)) / C),
        "nc2_etf": float((gram / gram.norm() - target).norm()),
        "nc3": float((weight / weight.norm() - M / M.norm()).norm()),
        "nc4": float(disagreements / N),
        "cdnv": float(spread[~torch.eye(C, dtype=torch.bool)].mean()),
    }


def covariance_whole(features, labels, weight, bias):
    """Covariance and pseudo-inverse, every step on the whole array."""
    N, C = len(features), len(weight)
    counts = torch.bincount(labels, minlength=C)
    means = torch.zeros(C, features.shape[1]).index_add_(0, labels, features) / counts[:, None]
    residuals = features - means[labels]
    within = residuals.T @ residuals / N
    variances = torch.zeros(C).index_add_(0, labels, residuals.square().sum(1)) / counts
    nearest = torch.cdist(features, means).argmin(1)
    linear = (features @ weight.T + bias).argmax(1)
    return finish(means, within, variances, (nearest != linear).sum(), N, weight)


def covariance_batches(features, labels, weight, bias, size):
    """Covariance and pseudo-inverse from accumulators: one pass for the means, one for the rest."""
    N, (C, d) = len(features), weight.shape
    counts, sums = torch.zeros(C, dtype=torch.int64), torch.zeros(C, d)
    walk = batches(features, labels, size)
    for x, y in walk():
        counts += torch.bincount(y, minlength=C)
        sums.index_add_(0, y, x)
    means = sums / counts[:, None]
    within, variances, disagreements = torch.zeros(d, d), torch.zeros(C), 0
    for x, y in walk():
        residuals = x - means[y]
        within += residuals.T @ residuals
        variances.index_add_(0, y, residuals.square().sum(1))
        nearest = torch.cdist(x, means).argmin(1)
        disagreements += (nearest != (x @ weight.T + bias).argmax(1)).sum()
    return finish(means, within / N, variances / counts, disagreements, N, weight)


def sample_loops(features, labels, weight, bias):
    """One sample at a time, as the definitions are written."""
    N, (C, d) = len(features), weight.shape
    counts, means = torch.zeros(C), torch.zeros(C, d)
    for h, y in zip(features, labels.tolist(), strict=True):
        counts[y] += 1
        means[y] += h
    means /= counts[:, None]
    within, variances, disagreements = torch.zeros(d, d), torch.zeros(C), 0
    for h, y in zip(features, labels.tolist(), strict=True):
        r = h - means[y]
        within += torch.outer(r, r)
        variances[y] += r @ r
        disagreements += int((means - h).norm(dim=1).argmin() != (weight @ h + bias).argmax())
    return finish(means, within / N, variances / counts, disagreements, N, weight)


def outer_products(features, labels, weight, bias, size=64):
    """As the covariance in batches, with Sigma_W as the mean of ``(B, d, d)`` outer products."""
    N, (C, d) = len(features), weight.shape
    counts, sums = torch.zeros(C, dtype=torch.int64), torch.zeros(C, d)
    walk = batches(features, labels, size)
    for x, y in walk():
        counts += torch.bincount(y, minlength=C)
        sums.index_add_(0, y, x)
    means = sums / counts[:, None]
    within, variances, disagreements = torch.zeros(d, d), torch.zeros(C), 0
    for x, y in walk():
        residuals = x - means[y]
        within += (residuals[:, :, None] * residuals[:, None, :]).sum(0)
        variances.index_add_(0, y, residuals.square().sum(1))
        nearest = torch.cdist(x, means).argmin(1)
        disagreements += (nearest != (x @ weight.T + bias).argmax(1)).sum()
    return finish(means, within / N, variances / counts, disagreements, N, weight)


def peer_batches(features, labels, weight, size):
    """The package neural_collapse as its README says: one pass for the means, one for the rest.

    Install it with ``pip install git+https://github.com/rhubarbwu/neural-collapse``. It takes no
    classifier bias and its NC3 compares Gram matrices; the values returned here are also ours.
    """
    from neural_collapse import accumulate, measure

    C, d = weight.shape
    walk = batches(features, labels, size)
    collector = accumulate.MeanAccumulator(C, d)
    for x, y in walk():
        collector.accumulate(x, y)
    means, center = collector.compute()
    covariance = accumulate.CovarAccumulator(C, d, M=means)
    norms = accumulate.VarNormAccumulator(C, d, M=means)
    decisions = accumulate.DecAccumulator(C, d, M=means, W=weight)
    for x, y in walk():
        covariance.accumulate(x, y, means)
        norms.accumulate(x, y, means)
        decisions.accumulate(x, y, weight, means)
    measure.self_duality_error(weight, means, center)
    measure.clf_ncc_agreement(decisions)
    return {
        "nc1": measure.covariance_ratio(covariance.compute(), means, center),
        "nc2_etf": measure.simplex_etf_error(means, center),
        "cdnv": measure.variability_cdnv(norms.compute()[0], means),
    }


def one_pass_nc1(features, labels, C):
    """NC1 from class sums and ``HᵀH`` of a single float32 pass: Sigma_W is a difference."""
    N = len(features)
    counts = torch.bincount(labels, minlength=C)
    means = torch.zeros(C, features.shape[1]).index_add_(0, labels, features) / counts[:, None]
    within = (features.T @ features - (counts[:, None] * means).T @ means) / N
    M = means - means.mean(0)
    return float(torch.trace(within @ torch.linalg.pinv(M.T @ M / C, hermitian=True)) / C)


def covariance_nc1(features, labels, C):
    """NC1 by covariance and pseudo-inverse, in the precision of the features."""
    means = torch.zeros(C, features.shape[1], dtype=features.dtype)
    counts = torch.bincount(labels, minlength=C)
    means = means.index_add_(0, labels, features) / counts[:, None]
    residuals = features - means[labels]
    M = means - means.mean(0)
    within = residuals.T @ residuals / len(features)
    return float(torch.trace(within @ torch.linalg.pinv(M.T @ M / C, hermitian=True)) / C)


# --- measuring ----------------------------------------------------------------------------------


def cpu_times(methods: dict[str, Callable], rounds: int):
    """Best CPU seconds and last value of each method; the methods take turns."""
    best, values = dict.fromkeys(methods, float("inf")), {}
    for _ in range(rounds):
        for name, method in methods.items():
            start = time.process_time()
            values[name] = method()
            best[name] = min(best[name], time.process_time() - start)
    return best, values


def agree(values: dict[str, dict]) -> None:
    """Every method must give the values of the first."""
    reference = next(iter(values.values()))
    for name, value in values.items():
        for key in reference.keys() & value.keys():
            wanted = reference[key]
            # Two float32 decisions may differ on a sample that lies on a border.
            close = abs(value[key] - wanted) <= (2e-4 if key == "nc4" else 2e-4 * abs(wanted))
            assert close, f"{name}: {key} is {value[key]}, not {wanted}"


def ours(report) -> dict:
    return {k: getattr(report, k) for k in ("nc1", "nc2_etf", "nc3", "nc4", "cdnv")}


def against_textbook(cfg: dict, C: int):
    """Rows ``(name, CPU seconds, seconds of nclib on the same kind of input)``."""
    data = clusters(cfg["N"], cfg["d"], C)
    features, labels, weight, bias = data

    def streaming(size):
        return ours(collapse.measure_batches(batches(features, labels, size), weight, bias))

    methods = {
        "memory": lambda: ours(collapse.measure(*data)),
        "1024": lambda: streaming(1024),
        "128": lambda: streaming(128),
        "whole": lambda: covariance_whole(*data),
        "cov 1024": lambda: covariance_batches(*data, 1024),
        "cov 128": lambda: covariance_batches(*data, 128),
    }
    if PEER:
        methods |= {
            "peer 1024": lambda: peer_batches(features, labels, weight, 1024),
            "peer 128": lambda: peer_batches(features, labels, weight, 128),
        }
    best, values = cpu_times(methods, cfg["rounds"])
    agree(values)
    few = cfg["loop"]
    part = (features[:few], labels[:few], weight, bias)
    slow, values = cpu_times(
        {
            "memory": lambda: ours(collapse.measure(*part)),
            "loops": lambda: sample_loops(*part),
            "outer": lambda: outer_products(*part),
        },
        1,
    )
    agree(values)
    scale = cfg["N"] / few
    peer = [
        (f"neural_collapse 0.1, batches of {size}", best[f"peer {size}"], best[size])
        for size in ("1024", "128") if PEER
    ]
    return [
        ("nclib, in memory", best["memory"], best["memory"]),
        ("nclib, batches of 1024", best["1024"], best["1024"]),
        ("nclib, batches of 128", best["128"], best["128"]),
        ("covariance and pinv, whole arrays", best["whole"], best["memory"]),
        ("covariance and pinv, batches of 1024", best["cov 1024"], best["1024"]),
        ("covariance and pinv, batches of 128", best["cov 128"], best["128"]),
        *peer,
        ("loop over samples (extrapolated)", slow["loops"] * scale, best["memory"]),
        ("outer products in batches of 64 (extrapolated)", slow["outer"] * scale, best["memory"]),
    ]


def overlapping(cfg: dict, C: int) -> tuple[float, float, float]:
    """CPU time of nclib for overlapping classes over that for the others; both values of NC1."""
    apart = clusters(cfg["N"], cfg["d"], C)
    overlap = clusters(cfg["N"], cfg["d"], C, spread=1.5)
    best, values = cpu_times(
        {"apart": lambda: collapse.measure(*apart), "overlap": lambda: collapse.measure(*overlap)},
        cfg["rounds"],
    )
    return best["overlap"] / best["apart"], values["apart"].nc1, values["overlap"].nc1


def against_matmul(cfg: dict) -> float:
    """CPU time of NC1 over that of one product of the features with a ``(d, C)`` matrix."""
    N, d, C = cfg["wide"]
    features, labels, weight, _ = clusters(N, d, C)
    best, _ = cpu_times(
        {
            "nc1": lambda: collapse.nc1(stats.ClassStats.from_features(features, labels, C)),
            "matmul": lambda: features @ weight.T,
        },
        min(3, cfg["rounds"]),
    )
    return best["nc1"] / best["matmul"]


def precision(cfg: dict):
    """Rows ``(offset, true NC1, relative errors of nclib, covariance, one pass)`` in float32."""
    C, rows = 10, []
    N, d = min(cfg["N"], 5000), min(cfg["d"], 128)
    for offset in (0.0, 30.0):
        for spread in (0.3, 1e-2, 1e-3, 1e-4):
            features, labels, *_ = clusters(N, d, C, spread, offset)
            true = covariance_nc1(features.double(), labels, C)
            found = (
                collapse.nc1(stats.ClassStats.from_features(features, labels, C)),
                covariance_nc1(features, labels, C),
                one_pass_nc1(features, labels, C),
            )
            rows.append((offset, true, *((v - true) / true for v in found)))
    return rows


class Largest(TorchDispatchMode):
    """Records the number of elements of the largest tensor that an operation makes."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, tuple | list) else (out,):
            if isinstance(t, torch.Tensor) and not func.is_view:
                self.numel = max(self.numel, t.numel())
        return out


def memory(cfg: dict, C: int):
    """Rows ``(name, elements of the largest intermediate tensor)``."""
    data = clusters(cfg["N"], cfg["d"], C)
    methods = {
        "nclib, in memory": lambda: collapse.measure(*data),
        "covariance and pinv, whole arrays": lambda: covariance_whole(*data),
        "covariance and pinv, batches of 1024": lambda: covariance_batches(*data, 1024),
    }
    rows = []
    for name, method in methods.items():
        with Largest() as largest:
            method()
        rows.append((name, largest.numel))
    return rows


# --- the page -----------------------------------------------------------------------------------


def table(header, rows) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def signed(error: float) -> str:
    percent = 100 * error
    if abs(percent) >= 1:
        return f"{percent:+,.0f} %"
    return f"{error:+.0e}"


def render(cfg: dict) -> str:
    times = {C: against_textbook(cfg, C) for C in cfg["classes"]}
    header = ["Method"]
    for C in cfg["classes"]:
        header += [f"CPU time, {C} classes", "against nclib"]
    rows = []
    for i, (name, *_) in enumerate(times[cfg["classes"][0]]):
        row = [name]
        for C in cfg["classes"]:
            _, seconds, base = times[C][i]
            row += [f"{seconds:.3f} s", "1" if seconds == base else f"{seconds / base:.1f} ×"]
        rows.append(row)
    few, many = cfg["classes"]
    overlap, apart_nc1, overlap_nc1 = overlapping(cfg, many)
    errors = [
        [f"{offset:g}", f"{true:.1e}", *map(signed, found)]
        for offset, true, *found in precision(cfg)
    ]
    N, d, C = cfg["wide"]
    return PAGE_TEXT.format(
        N=cfg["N"],
        d=cfg["d"],
        version=torch.__version__.split("+")[0],
        rounds=cfg["rounds"],
        time=table(header, rows),
        peer=PEER_TEXT if PEER else "",
        loop=cfg["loop"],
        many=many,
        overlap=overlap,
        apart_nc1=apart_nc1,
        overlap_nc1=overlap_nc1,
        capability=torch.backends.cpu.get_cpu_capability(),
        wide_N=N,
        wide_d=d,
        wide_C=C,
        matmul=against_matmul(cfg),
        precision=table(
            ["Offset", "True NC1", "nclib", "covariance and pinv", "one pass, HᵀH"], errors
        ),
        few=few,
        size=cfg["N"] * cfg["d"],
        memory=table(["Method", "Elements"], [[n, f"{k:,}"] for n, k in memory(cfg, few)]),
    )


PEER_TEXT = """\
[neural_collapse](https://github.com/rhubarbwu/neural-collapse) is a package of the field (R. Wu and
A. Mehrotra, 2024), used as its README says.

"""

PAGE_TEXT = """\
# Benchmarks of the measures

nclib computes NC1 to NC4 and CDNV (class-distance normalized variance) in two passes over the
features, without a d×d matrix: the first pass finds the class means, the second multiplies the
residuals once by a basis of the between-class space, and by the classifier where that is needed: a
sample nearer to its class mean than the classifier's next boundary is decided as the mean is. This
page compares that with the textbook formulations, which `benchmarks/metrics.py` writes out. `make
bench` measures again; `python benchmarks/metrics.py --write` also makes this page again.

All methods see the same {N:,} float32 features of dimension {d:,} and the same classifier, and
their values must agree before a time is shown. Times are CPU times on one thread of an x86-64 CPU
({capability}) with torch {version}, the best of {rounds} rounds in which the methods take turns.
Trust the ratios rather than the seconds, and those as far as the processor: nclib reads the
features twice and multiplies little, while a covariance is one large product, so where memory is
slow against arithmetic all ratios shrink. Each ratio is to nclib on the same kind of input: whole
arrays to in memory, batches to batches of the same size.

## Time

{time}

{peer}The two slow forms were run on {loop:,} samples and extrapolated to {N:,}.

Where classes are apart, nclib knows most nearest class centers without comparing distances, and
most decisions of the classifier without its product. Without that help, for {many} classes that
overlap (NC1 of {overlap_nc1:.2g} in place of
{apart_nc1:.2g}), it takes {overlap:.2f} times as long in memory.

With {wide_C:,} classes, {wide_N:,} features and d = {wide_d:,}, NC1 takes **{matmul:.2f} times**
as long as a single product of the features with a (d, C) matrix.

## Precision

Relative error of NC1 from float32 features, against covariance and pinv in float64 of the same
features; 10 classes. "Offset" is a constant added to every feature, in standard deviations of the
class means: features have one after a ReLU.

{precision}

A single float32 pass takes Σ_W as the difference of two large matrices: near collapse nothing of it
is left, and it can be negative. nclib's NC1 is never negative, and exactly zero at exact collapse.

## Memory

Elements of the largest tensor that an operation makes, for {few} classes; the features themselves
have {size:,}. nclib's does not grow with the number of samples.

{memory}
"""


def command(argv: list[str] | None, doc: str, render: Callable[[bool], str], write: Callable):
    """The command line of a benchmark: ``render(quick)`` on one thread, printed and written."""
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    args = parser.parse_args(argv)
    if args.quick and args.write:
        parser.error("--write needs the full sizes")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        page = render(args.quick)
    finally:
        torch.set_num_threads(threads)
    if args.write:
        write(page)
    print(page)
    return page


def write(page: str) -> None:
    """Write the page; the section of nearest_etf.py at its end stays."""
    kept = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    _, mark, other = kept.partition("\n## The nearest simplex ETF\n")
    PAGE.write_text(page + mark + other, encoding="utf-8")


def main(argv: list[str] | None = None) -> str:
    return command(argv, __doc__, lambda quick: render(QUICK if quick else FULL), write)


if __name__ == "__main__":
    main()
