"""Batched gradient descent on the deep ReLU model: what a hundred seeds cost beside one.

    python benchmarks/deep_ufm.py            print the table
    python benchmarks/deep_ufm.py --quick    few steps, to see that it runs

The problem is that of Figure 2 (top) of Súkeník et al. 2024: K = 10, L = 4, width 30, one sample a
class, λ = 0.004, step 0.5, float64. Its 100 000 steps are extrapolated from fewer: every step does
the same work. Three ways take turns: one seed with autograd and `torch.optim.SGD`, as a reader
would write it; one seed with `nclib.ufm.deep_descend`; a hundred seeds with `deep_descend`, half of
them on each of two threads (on a GPU all in one batch). All must agree on the loss.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from nclib import training, ufm  # noqa: E402

SEEDS, STEPS, RATE, LAM = 100, 100_000, 0.5, 0.004
PROBLEM = {"lam_w": LAM, "lam_h": LAM}


def textbook(start, steps):
    """One seed, autograd and the optimizer that comes with torch; returns its loss."""
    x = {name: v[0].clone().requires_grad_() for name, v in start.items()}
    target = torch.eye(10, dtype=torch.float64, device=x["H"].device)
    optimizer = torch.optim.SGD(x.values(), lr=RATE, weight_decay=LAM)
    for _ in range(steps):
        optimizer.zero_grad()
        h = x["H"] @ x["W1"].T
        for i in (2, 3, 4):
            h = torch.relu(h) @ x[f"W{i}"].T
        ((h - target) ** 2).sum().div(20).backward()
        optimizer.step()
    return ufm.deep_loss(**{k: v.detach()[None] for k, v in x.items()}, **PROBLEM)


def alone(start, steps):
    return ufm.deep_descend(start, rate=RATE, steps=steps, **PROBLEM).loss[-1]


def batched(start, steps, pieces):
    split = {name: v.tensor_split(pieces) for name, v in start.items()}
    parts = [{name: v[i] for name, v in split.items()} for i in range(pieces)]
    return torch.cat(training.parallel(lambda part: alone(part, steps), parts, pieces))


def main(argv: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few steps, to see that it runs")
    args = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    steps, rounds = (20, 1) if args.quick else (1000, 3)
    pieces = 1 if device.type == "cuda" else min(2, torch.get_num_threads())
    draws = torch.Generator().manual_seed(0)
    many = ufm.deep_init(SEEDS, 10, 1, 30, 4, generator=draws, device=device)
    one = {name: v[:1] for name, v in many.items()}
    methods = {
        "one seed, autograd and SGD": lambda: textbook(one, steps),
        "one seed, nclib": lambda: alone(one, steps),
        f"{SEEDS} seeds, nclib": lambda: batched(many, steps, pieces),
    }
    best, losses = dict.fromkeys(methods, float("inf")), {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the operations are too short to share between cores
    try:
        for _ in range(rounds):
            for name, method in methods.items():
                started = time.perf_counter()
                losses[name] = method()[0].item()
                best[name] = min(best[name], time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    reference = losses["one seed, nclib"]
    assert all(abs(v - reference) <= 1e-9 * reference for v in losses.values()), losses
    print(f"{device.type}, {pieces} thread(s) for the batch, best of {rounds}, {steps} steps timed")
    print(f"{'':28} {'a step':>10}  {STEPS:,} steps   the batch against it")
    last = best[f"{SEEDS} seeds, nclib"]
    for name, seconds in best.items():
        print(f"{name:28} {1e6 * seconds / steps:7.0f} µs  {seconds / steps * STEPS:9.0f} s"
              f"   {last / seconds:11.1f} ×")
    return {name: last / seconds for name, seconds in best.items()}


if __name__ == "__main__":
    main()
