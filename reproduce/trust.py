"""The page "Trust": which planted faults were seen, and which verdicts depend on the platform.

Made from the records of ``make faults`` and ``make platforms``; what was not run is said to be so.
"""

from __future__ import annotations

import html

from . import faults, platforms, records
from .layout import Layout, read_notebook, read_yaml, table, write

INTRO = """# Trust

A book of verdicts is worth as much as its power to say no. Two tests of the tests: plant a known
fault and see whether a verdict turns red; run the chapters on another platform and see whether one
changes.

"""
FAULTS = """## Planted faults

Each fault is one wrong line: a sign, a dropped term, another graph, another centering. Those of a
chapter are planted in the notebook or in nclib, and the claims named beforehand must turn *not
reproduced* (or the run must raise an error); those of nclib are planted in the library alone, and
its unit tests must fail. `make faults` plants them all, one at a time.

"""
PLATFORMS = """## Other platforms

The `cpu` preset with seed 0, with another version of torch, with one and two threads, with three
seeds of Python's hashes, which decide the order of sets, and with the numerical kernels of an older
processor (AVX2), which round differently. Threads are those of the numerical libraries: for its own
operations nclib sets torch to one thread, so that results do not depend on the number of cores.
`make platforms` runs them.

"""
LIBRARY = "nclib"


def listed(layout: Layout, slug: str) -> list[str]:
    """The faults of a chapter or of nclib, by name."""
    path = layout.faults(slug)
    return [e["fault"] for e in read_yaml(path) or []] if path.exists() else []


def counts(layout: Layout, slug: str) -> dict:
    """Faults listed and run; those seen and those that survived, as recorded."""
    names = listed(layout, slug)
    record = faults.load(layout.fault_results(slug)) or {"faults": []}
    run = [e for e in record["faults"] if e["fault"] in names]
    return {"slug": slug, "listed": len(names), "run": run,
            "seen": [e for e in run if e["seen"]], "survived": [e for e in run if not e["seen"]],
            "commit": record.get("commit"), "torch": record.get("torch")}


def current(layout: Layout, slug: str, run: list[dict]) -> int | None:
    """How many of these outcomes belong to the chapter's code as it stands; None: not known."""
    if slug == LIBRARY or not run:
        return None
    chapter = read_notebook(layout.chapter(slug))
    entries = {e["fault"]: e for e in read_yaml(layout.faults(slug))}
    return sum(e["key"] == faults.key_of(entries[e["fault"]], chapter) for e in run)


def _name(layout: Layout, slug: str) -> str:
    if slug == LIBRARY:
        return "nclib, by its unit tests"
    return f"[{slug}](../chapters/{slug}.ipynb)"


def _how(slug: str, entry: dict) -> str:
    """What turned red with a fault, or what stayed green."""
    if slug == LIBRARY:
        tests = ", ".join(f"<code>{html.escape(t)}</code>" for t in entry["expected"])
        return f"{'fails' if entry['seen'] else 'passes still'}: {tests}"
    if entry["raised"]:
        return f"the run raises <code>{html.escape(entry['raised'])}</code>"

    def links(ids) -> str:
        return ", ".join(f'<a href="../chapters/{slug}.html#claim-{i}"><code>{i}</code></a>'
                         for i in ids)

    if not entry["seen"]:
        green = [i for i in entry["expected"] if i not in entry["red"]]
        return f"still green: {links(green)}"
    more = len(set(entry["red"]) - set(entry["expected"]))
    return f"red: {links(entry['expected'])}" + (f" and {more} more" if more else "")


def faults_part(layout: Layout) -> str:
    """Counts by place, the survivors by name, and every fault with what it turned red."""
    found = [counts(layout, slug) for slug in [LIBRARY, *layout.slugs]]
    found = [f for f in found if f["listed"]]
    ran, seen = (sum(len(f[key]) for f in found) for key in ("run", "seen"))
    total = sum(f["listed"] for f in found)
    parts = [FAULTS]
    if not ran:
        parts.append(f"{total} faults are listed; none was planted yet.\n\n")
    else:
        rest = "" if ran == total else f" {total - ran} more are listed and were not planted yet."
        parts.append(f"**{seen} of {ran} faults were seen ({seen / ran:.1%}).**{rest}\n\n")
    rows = []
    for f in found:
        done = len(f["run"])
        now = current(layout, f["slug"], f["run"])
        rows.append([_name(layout, f["slug"]), str(f["listed"]),
                     str(len(f["seen"])) if done else "not run",
                     str(len(f["survived"])) if done else "–",
                     str(f["listed"] - done), "–" if now is None else str(done - now)])
    parts.append(table(["Place", "listed", "seen", "not seen", "not run", "with earlier code"],
                       rows, numbers=True) + "\n\n")
    survivors = [(f["slug"], e) for f in found for e in f["survived"]]
    if ran:
        parts.append("### Faults that were not seen\n\n")
        parts.append("".join(
            f"- {e['fault']} ({slug}; {_how(slug, e)})\n" for slug, e in survivors
        ) or "None of those that were planted.\n")
        parts.append("\n### Every fault\n\n")
    for f in found:
        if not f["run"]:
            continue
        lines = "".join(
            f'<li><b data-verdict="{"reproduced" if e["seen"] else "not reproduced"}">'
            f"{'seen' if e['seen'] else 'not seen'}</b> {html.escape(e['fault'])} "
            f"<small>({_how(f['slug'], e)})</small></li>" for e in f["run"]
        )
        parts.append(
            f'<div class="nclib-ledger nclib-found"><details><summary>{f["slug"]}: '
            f"{len(f['seen'])} of {len(f['run'])}</summary><ul>{lines}</ul></details></div>\n\n"
        )
    return "".join(parts)


def _cell(layout: Layout, slug: str, run: dict | None) -> str:
    if run is None:
        return "not run"
    if run["raised"]:
        return f"raises `{run['raised']}`"
    stored = records.of_preset(layout, slug, platforms.PRESET)
    differ = platforms.changed(stored, run)
    total = len(run["verdicts"])
    moved = f", {len(run['moved'])} values moved" if run["moved"] else ""
    if differ:
        return f"changed: {', '.join(f'`{i}`' for i in differ)}{moved}"
    return f"{total} of {total}{moved}"


def platforms_part(layout: Layout) -> str:
    """One row a chapter, one column a platform: verdicts that are as stored."""
    runs = {slug: platforms.by_place(platforms.load(layout, slug)) for slug in layout.slugs}
    places = sorted({p for by in runs.values() for p in by})
    if not places:
        return f"{PLATFORMS}No chapter was run on another platform yet.\n"
    head = ["Chapter", *(platforms.Platform(*place).name for place in places)]
    rows = [
        [_name(layout, slug), *(_cell(layout, slug, runs[slug].get(p)) for p in places)]
        for slug in layout.slugs
    ]
    done = [(slug, r) for slug, by in runs.items() for r in by.values()]
    bad = sum(bool(r["raised"] or platforms.changed(
        records.of_preset(layout, slug, platforms.PRESET), r)) for slug, r in done)
    text = (f"**{len(done)} runs; {'no verdict changed' if not bad else f'{bad} differ'}.** Cells "
            "say how many verdicts are as stored; *moved* counts values that left their tolerance "
            "around the stored one with the verdict unchanged.\n\n")
    return PLATFORMS + text + table(head, rows, numbers=True) + "\n\n"


def page(layout: Layout) -> str:
    """The page, as Markdown with HTML."""
    return INTRO + faults_part(layout) + "\n" + platforms_part(layout)


def write_page(layout: Layout, staged: Layout) -> None:
    """The page, into the stage; the records lie in the checkout."""
    write(staged.root / "pages" / "trust.md", page(layout))
