"""The nearest simplex ETF: closed forms against Riemannian trust regions, time and memory.

    python benchmarks/nearest_etf.py            print the section
    python benchmarks/nearest_etf.py --write    and put it into pages/benchmarks.md
    python benchmarks/nearest_etf.py --quick    small sizes, to see that it runs

The trust-region solver and the dense rule for the gradient are those of the chapter
guiding-collapse, taken from its cells. Times are CPU times on one thread, the best of several
rounds in which the methods take turns; all methods must agree on the frame.
"""

from __future__ import annotations

import ast
import math
import sys
from functools import partial
from pathlib import Path

import nbformat
import torch

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[:2]]

from metrics import PAGE, ROOT, Largest, command, cpu_times, table  # noqa: E402

from nclib import polar  # noqa: E402
from reproduce import hashes  # noqa: E402

TITLE = "## The nearest simplex ETF"
CHAPTER = ROOT / "chapters" / "guiding-collapse.ipynb"
NEEDED = ("centering", "tangent", "truncated_cg", "trust_region", "inner_problem",
          "constraint_jacobian")
F64, DELTA = torch.float64, 1e-3
FULL = {"sizes": [(64, 10), (512, 10), (512, 100), (1024, 200), (2048, 1000)], "rounds": 3,
        "cold": 500_000, "dense": 3e6}
QUICK = {"sizes": [(16, 4), (32, 8)], "rounds": 1, "cold": 500_000, "dense": 3e6}


def chapter_functions() -> dict:
    """The functions in ``NEEDED``, from the chapter's cells."""
    names: dict = {"math": math, "torch": torch, "polar": polar, "F64": F64}
    for cell in nbformat.read(CHAPTER, as_version=4).cells:
        tree = hashes.parse(cell.source) if cell.cell_type == "code" else None
        for node in tree.body if tree else ():
            if isinstance(node, ast.FunctionDef) and node.name in NEEDED:
                exec(compile(ast.Module([node], []), cell.id, "exec"), names)
    missing = set(NEEDED) - set(names)
    if missing:
        raise SystemExit(f"{CHAPTER.name} does not define {', '.join(sorted(missing))}")
    return names


def problem(d: int, K: int):
    """Class means (d, K), the solution for slightly different ones, and an uninformed frame."""
    normal = torch.randn(2, d, K, dtype=F64, generator=torch.Generator().manual_seed(K))
    Y = normal - normal.mean(2, keepdim=True)
    Y = Y / torch.linalg.matrix_norm(Y, keepdim=True)
    start = torch.eye(d, K, dtype=F64)
    return Y[0], stiefel(Y[0] + 0.3 * Y[1], start), start


def stiefel(Y, prox, method="svd"):
    K = Y.shape[1]
    Z = 2 / (K - 1) ** 0.5 * (Y - Y.mean(1, keepdim=True)) + DELTA * prox
    return polar.polar_factor(Z, method=method)


def measure(d: int, K: int, cfg: dict, chapter: dict) -> dict[str, float]:
    """CPU seconds of each method on one problem."""
    Y, warm, cold = problem(d, K)
    solve = partial(chapter["trust_region"], *chapter["inner_problem"](Y, warm, DELTA))
    single, upstream = Y.float(), torch.ones(d, K)

    def both_ways():
        means = single.clone().requires_grad_()
        stiefel(means, warm.float()).backward(upstream)
        return means.grad

    methods = {
        "SVD": lambda: stiefel(Y, warm),
        "eigh": lambda: stiefel(Y, warm, "eigh"),
        "SVD, float32": lambda: stiefel(single, warm.float()),
        "eigh, float32": lambda: stiefel(single, warm.float(), "eigh"),
        "SVD, float32, with backward": both_ways,
        "trust regions, warm": lambda: solve(warm)[0],
    }
    if d * K * K <= cfg["cold"] * 100:
        methods["trust regions, cold"] = lambda: solve(cold)[0]
    rounds = cfg["rounds"] if d * K <= 100_000 else 1
    best, values = cpu_times(methods, rounds)
    for name, U in values.items():
        if "backward" not in name:
            off = U.double() - values["SVD"]
            near = (off - off.mean(1, keepdim=True)).norm() / K**0.5  # of the frame, not of U
            assert near < 1e-3, f"{name} at {d, K}: off by {near}"
    return best


def memory(d: int, K: int, cfg: dict, chapter: dict):
    """Largest tensor of the closed backward, and of the dense rule: computed; made if small."""
    Y, warm, _ = problem(d, K)
    means = Y.float().requires_grad_()
    U = stiefel(means, warm.float())
    with Largest() as ours:
        U.backward(torch.ones(d, K))
    computed, made = K * (K + 1) // 2 * d * K, None
    if computed <= cfg["dense"]:
        with Largest() as dense:
            chapter["constraint_jacobian"](U.detach())
        made = dense.numel
    return ours.numel, computed, made


def render(cfg: dict) -> str:
    chapter = chapter_functions()
    times, kept = [], []
    for d, K in cfg["sizes"]:
        best = measure(d, K, cfg, chapter)
        base = best["SVD"]
        row = [f"{d}, {K}", f"{1e3 * base:.2f} ms"]
        for name in ("eigh", "SVD, float32", "eigh, float32", "SVD, float32, with backward",
                     "trust regions, warm", "trust regions, cold"):
            ratio = best[name] / base if name in best else None
            row.append("–" if ratio is None else f"{ratio:.{1 if ratio < 10 else 0}f} ×")
        times.append(row)
        ours, computed, made = memory(d, K, cfg, chapter)
        kept.append([f"{d}, {K}", f"{ours:,}", f"{computed:,}",
                     "–" if made is None else f"{made:,}", f"{computed / ours:,.0f} ×"])
    return TEXT.format(
        title=TITLE, version=torch.__version__.split("+")[0], rounds=cfg["rounds"],
        time=table(["d, K", "SVD", "eigh", "SVD, float32", "eigh, float32",
                    "SVD, float32, with backward", "trust regions, warm", "trust regions, cold"],
                   times),
        memory=table(["d, K", "closed backward", "dense rule, computed", "dense rule, measured",
                      "ratio"], kept),
    )


TEXT = """\
{title}

`nclib.polar.nearest_simplex_etf` solves the inner problem of the chapter
[guiding-collapse](../chapters/guiding-collapse.ipynb) with one polar factor.
`benchmarks/nearest_etf.py` compares it with Riemannian trust regions (at most 30 iterations, or a
gradient of 1e-6; float64), from the solution for slightly different means (warm) and from an
uninformed frame (cold). CPU times on one thread, torch {version}, the best of {rounds} rounds in
which the methods take turns (one round for large sizes). Columns after the first time are multiples
of it; "–" was not run. All methods agree on the frame.

{time}

Elements of the largest tensor that the backward makes, against the Jacobian of the constraints
that the dense rule of deep declarative networks needs; the latter is made only where it is small.

{memory}
"""


def write(section: str) -> None:
    page, _, old = PAGE.read_text(encoding="utf-8").partition(TITLE)
    _, mark, other = old.partition("\n## ")  # sections of other scripts stay
    page = page.rstrip("\n")
    PAGE.write_text(f"{page}\n\n{section}{mark}{other}", encoding="utf-8")


def main(argv: list[str] | None = None) -> str:
    return command(argv, __doc__, lambda quick: render(QUICK if quick else FULL), write)


if __name__ == "__main__":
    main()
