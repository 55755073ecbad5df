"""What the work costs, and how cost grows: training ensembles, solving the UFM, measuring.

    python benchmarks/cost.py            print the tables
    python benchmarks/cost.py --write    and keep them in benchmarks/cost.json, from which the page
                                         pages/cost.md is made
    python benchmarks/cost.py --quick    small sizes, to see that it runs
    python benchmarks/cost.py --device cuda --write    the same on a GPU, kept beside the CPU's

On the CPU, times are CPU times of one thread, the best of three rounds; on a GPU the clock's. One
size is varied at a time. The exponent p of "cost grows like size^p" is a least-squares slope of
log time over log size.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import nclib  # noqa: E402
from nclib import ensembles, models, ufm  # noqa: E402
from nclib.solve import minimize  # noqa: E402

RECORD = ROOT / "benchmarks" / "cost.json"
INPUTS, BATCH, CLASSES = 196, 128, 10  # Fashion-MNIST at 14 × 14
FULL = {
    "steps": 20, "rounds": 3,
    "members": (1, 3, 10, 30), "width": (64, 128, 256, 512), "batch": (32, 128, 512, 2048),
    "K": (4, 8, 16, 32), "d": (16, 32, 64, 128), "problems": (1, 4, 16, 64),
    "N": (2_000, 8_000, 32_000), "dim": (64, 256, 1024), "C": (10, 100, 1000),
}
QUICK = {
    "steps": 2, "rounds": 1, "members": (1, 2), "width": (8, 16), "batch": (16, 32),
    "K": (3, 4), "d": (4, 8), "problems": (1, 2), "N": (200, 400), "dim": (8, 16), "C": (4, 8),
}


def seconds(function: Callable[[], object], rounds: int, device: torch.device) -> float:
    """Best of several rounds: CPU time, or the clock's where a GPU does the work."""
    cuda = device.type == "cuda"
    clock = time.perf_counter if cuda else time.process_time
    best = math.inf
    for _ in range(rounds):
        if cuda:
            torch.cuda.synchronize()
        start = clock()
        function()
        if cuda:
            torch.cuda.synchronize()
        best = min(best, clock() - start)
    return best


def slope(points: list[tuple[float, float]]) -> float:
    """Least-squares slope of log time over log size."""
    x, y = ([math.log(p[i]) for p in points] for i in (0, 1))
    mx, my = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sum(
        (a - mx) ** 2 for a in x)


def training(size: dict, device: torch.device, *, members=10, width=128, batch=BATCH) -> float:
    """Seconds for one step of an ensemble of MLPs with two hidden layers."""
    nets = ensembles.seeded(lambda: models.MLP(INPUTS, [width] * 2, CLASSES), range(members))
    nets = nets.to(device)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, INPUTS, generator=generator).to(device)
    y = (torch.arange(batch) % CLASSES).to(device)
    index = torch.arange(batch, device=device)
    optimizer = ensembles.SGD(nets, 0.01, momentum=0.9, decay=5e-4)

    def steps(count: int) -> None:
        ensembles.train(nets, x, y, batches=[index] * count, optimizer=optimizer)

    steps(2)
    return seconds(lambda: steps(size["steps"]), size["rounds"], device) / size["steps"]


def solving(size: dict, device: torch.device, *, problems=4, K=8, d=32, n=10) -> float:
    """Seconds to the optimum of the cross-entropy UFM (gradient below 1e-8) from random starts."""
    generator = torch.Generator().manual_seed(0)
    start = ufm.init(problems, K, n, d, generator=generator, device=device)
    lam_w, lam_h = 5e-3, 5e-3 / n

    def solve() -> None:
        found = minimize(lambda W, H, b: ufm.ce_loss(W, H, b, lam_w, lam_h, 1e-3), start, tol=1e-8)
        if not bool(found.converged.all()):
            raise RuntimeError(f"no optimum for K = {K}, d = {d}")

    return seconds(solve, size["rounds"], device)


def measuring(size: dict, device: torch.device, *, N=8_000, dim=256, C=10) -> float:
    """Seconds for all measures of float32 features and their classifier."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(N) % C
    centers = torch.randn(C, dim, generator=generator)
    h = (centers[y] + 0.3 * torch.randn(N, dim, generator=generator)).to(device)
    y, weight = y.to(device), centers.to(device)
    return seconds(lambda: nclib.measure(h, y, weight), size["rounds"], device)


SERIES = (  # key, function, parameter, what is varied, what is fixed
    ("members", training, "members", "members of the ensemble (seeds)",
     f"one step, two hidden layers of 128, batch of {BATCH}"),
    ("width", training, "width", "width of the two hidden layers",
     f"one step, 10 members, batch of {BATCH}"),
    ("batch", training, "batch", "samples of a batch (N for full-batch training)",
     "one step, 10 members, two hidden layers of 128"),
    ("K", solving, "K", "K, classes", "4 problems, d = 32, 10 samples a class"),
    ("d", solving, "d", "d, features", "4 problems, K = 8, 10 samples a class"),
    ("problems", solving, "problems", "problems solved at once (seeds)",
     "K = 8, d = 32, 10 samples a class"),
    ("N", measuring, "N", "N, samples", "d = 256, 10 classes"),
    ("dim", measuring, "dim", "d, features", "8,000 samples, 10 classes"),
    ("C", measuring, "C", "C, classes", "8,000 samples, d = 256"),
)


def run(size: dict, device: torch.device) -> list[dict]:
    found = []
    for key, function, name, varied, fixed in SERIES:
        points = [(x, function(size, device, **{name: x})) for x in size[key]]
        found.append({"key": key, "group": function.__name__, "varied": varied, "fixed": fixed,
                      "points": points, "exponent": round(slope(points), 2)})
        cells = ", ".join(f"{x}: {1e3 * t:.3g} ms" for x, t in points)
        print(f"{function.__name__:9} {varied}: {cells}; exponent {found[-1]['exponent']}",
              flush=True)
    return found


def keep(device: torch.device, found: list[dict]) -> None:
    """Put this device's tables into the record; the other device's stay."""
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {"schema": 1}
    name = torch.cuda.get_device_name() if device.type == "cuda" else "one thread of an x86-64 CPU"
    record[device.type] = {
        "device": name, "torch": torch.__version__.split("+")[0],
        "date": datetime.date.today().isoformat(), "series": found,
    }
    lines = json.dumps(record, indent=1, ensure_ascii=False)
    RECORD.write_text(lines + "\n", encoding="utf-8")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    device = torch.device(args.device)
    found = run(QUICK if args.quick else FULL, device)
    if args.write:
        keep(device, found)


if __name__ == "__main__":
    main(sys.argv[1:])
