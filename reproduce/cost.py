"""The page "Cost": what was measured by ``benchmarks/cost.py``, and the seconds of stored runs."""

from __future__ import annotations

from . import records, seeds
from .layout import Layout, read_record, table, write
from .plan import nearest
from .run import duration

INTRO = """# What it costs

How long a run takes, how cost grows with classes, features, samples and seeds, and how long each
chapter took when its stored outputs were made.

"""
GROUPS = {
    "training": ("Training many small networks at once", """`nclib.ensembles` trains networks that
differ in seed or hyper-parameters in one batch of matrix products. *Seeds a minute* is how many
networks could be trained for a thousand steps in one minute.

"""),
    "solving": ("Solving the unconstrained-features model", """`nclib.solve.minimize` finds optima
of many problems at once, here the cross-entropy model from random starts, until the gradient is
below 1e-8.

"""),
    "measuring": ("Measuring collapse", """`nclib.measure` computes every measure of features and a
classifier that lie in memory; [Benchmarks](benchmarks.md) compares it with textbook forms.

"""),
}
CHAPTERS = """## The chapters

Seconds that each stored run recorded, from the first cell to the report: of one core's CPU time
on the CPU, of the clock on a GPU.

"""
STEPS = 1000  # of the training whose networks a minute are counted
NOT_RUN = "**GPU: not run.** `python benchmarks/cost.py --device cuda --write` measures there.\n\n"


def load(layout: Layout) -> dict:
    """The record of the benchmark, empty where there is none.

    Raises:
        BookError: a file that is no such record.
    """
    path = layout.root / "benchmarks" / "cost.json"
    return read_record(path, "benchmarks/cost.py", schema=1) or {}


def _time(seconds: float) -> str:
    unit, value = next(
        ((u, seconds * f) for u, f in (("s", 1), ("ms", 1e3)) if seconds * f >= 1),
        ("µs", seconds * 1e6),
    )
    return f"{value:.2g} {unit}" if value < 10 else f"{value:.0f} {unit}"


def _series(entry: dict) -> str:
    """One table: a column a size, the time, and for training the rates."""
    sizes = [x for x, _ in entry["points"]]
    rows = [["time"] + [_time(t) for _, t in entry["points"]]]
    if entry["group"] == "training":
        rows.append(["steps/s"] + [f"{1 / t:,.0f}" for _, t in entry["points"]])
        members = sizes if entry["key"] == "members" else [10] * len(sizes)
        rows.append(["seeds a minute"] + [
            f"{60 * m / (STEPS * t):,.0f}" for m, (_, t) in zip(members, entry["points"],
                                                              strict=True)
        ])
    head = [entry["varied"], *(f"{x:,}" for x in sizes)]
    p = entry["exponent"]
    grows = "does not grow with" if abs(p) < 0.05 else f"grows like the power {p:.2g} of"
    fixed = entry["fixed"][0].upper() + entry["fixed"][1:]
    return f"{fixed}: cost {grows} what is varied.\n\n{table(head, rows, numbers=True)}\n\n"


def _measured(device: dict) -> str:
    parts = [f"Measured on {device['device']}, torch {device['torch']}, {device['date']}, the best "
             "of three rounds. Where cost grows with a power below one, larger is cheaper for "
             "each.\n\n"]
    for group, (title, text) in GROUPS.items():
        parts.append(f"### {title}\n\n{text}")
        parts += [_series(e) for e in device["series"] if e["group"] == group]
    return "".join(parts)


def chapters(layout: Layout) -> str:
    """The seconds that stored runs took, by chapter."""
    rows = []
    for slug in layout.slugs:
        cpu, gpu = (records.of_preset(layout, slug, p) for p in ("cpu", "gpu"))
        found = seeds.load(layout, slug)
        ran = [r["seconds"] for r in found["runs"] if r.get("seconds")] if found else []
        variant = nearest(layout, slug)
        near = records.of_file(layout.stored(slug, variant.name)) if variant else None

        def shown(record: dict | None) -> str:
            return duration(record["run"]["seconds"]) if record else "not run"

        many = f"{min(ran):.0f} to {max(ran):.0f} s" if ran else "not run"
        rows.append([f"[{slug}](../chapters/{slug}.ipynb)", shown(cpu), many, shown(gpu),
                     shown(near)])
    return table(["Chapter", "default, CPU", "its other seeds", "default, GPU",
                  "nearest to the work"], rows, numbers=True) + "\n"


def page(layout: Layout, staged: Layout) -> str:
    """The page, as Markdown: chapters from the stage, the benchmark from the checkout."""
    found = load(layout)
    parts = [INTRO, CHAPTERS, chapters(staged), "\n"]
    if "cpu" in found:
        parts += ["## On one CPU core\n\n", _measured(found["cpu"])]
    else:
        parts.append("## On one CPU core\n\nNot run: `python benchmarks/cost.py --write`.\n\n")
    parts.append("## On a GPU\n\n")
    parts.append(_measured(found["cuda"]).replace("### ", "### GPU: ") if "cuda" in found
                 else NOT_RUN)
    return "".join(parts)


def write_page(layout: Layout, staged: Layout) -> None:
    """The page, into the stage."""
    write(staged.root / "pages" / "cost.md", page(layout, staged))
