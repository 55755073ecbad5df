"""Everything written from stored notebooks: ledger, status tables, badges, cover picture."""

from __future__ import annotations

import base64
import re
from numbers import Integral, Real
from pathlib import Path

from . import records
from .layout import DEFAULT, BookError, Layout, dumps, read_notebook, read_yaml, tags, write
from .plan import Variant, declared
from .store import BADGES

COVER = "geometric-analysis"
STATUS = re.compile(r"(<!-- generated:status -->\n).*?(<!-- /generated:status -->)", re.DOTALL)
MARK = {"reproduced": "✓", "not reproduced": "✗", "not run": "–"}
OPS = {"below": "≤", "above": "≥", "equals": "="}

INTRO = """# Ledger

Every claim of every chapter, as measured in each stored run. The page is made from the executed
notebooks by `python -m reproduce ledger`; nothing on it is written by hand.

✓ reproduced · ✗ not reproduced · – not run. *Measured* is the value nearest to failing; where it
rests on several seeds, the range follows in brackets. The kinds are *theory* (checked in float64),
*dynamics* (over several seeds), *data* (a network on real data), *control* (the same measurement
where it must fail), *erratum* (a printed statement that is false) and *beyond* (not in the work).
The scope is *exact* (the work's own setting), *stand-in* (another data set or size) or
*reconstruction* (the work's text was not available).
"""


def url_of(layout: Layout) -> str:
    """The repository's address; ``_config.yml`` is the one place that holds it.

    Raises:
        BookError: no address there.
    """
    config = read_yaml(layout.root / "_config.yml")
    try:
        return config["repository"]["url"].rstrip("/")
    except (TypeError, KeyError, AttributeError):
        raise BookError("_config.yml has no repository: url:") from None


def stored_records(layout: Layout, slug: str) -> list[tuple[Variant, dict | None]]:
    """The default and the declared variants of a chapter with their stored records."""
    variants = [Variant(slug), *declared(layout).get(slug, {}).values()]
    return [(v, records.of_file(layout.stored(slug, v.name))) for v in variants]


# --- tables ---------------------------------------------------------------------------------------


def escape(text) -> str:
    """Plain text as one cell of a Markdown table."""
    return re.sub(r"([\\`*_{}\[\]<>|$~#^])", r"\\\1", " ".join(str(text).split()))


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def number(value) -> str:
    if isinstance(value, bool) or not isinstance(value, Real):
        return str(value)
    return str(value) if isinstance(value, Integral) else f"{value:.3g}"


def bound_text(claim: dict) -> str:
    bound = claim["bound"]
    if bound is None:
        return "–"
    if bound["op"] == "between":
        return "{} to {}".format(*map(number, bound["value"]))
    return f"{OPS[bound['op']]} {number(bound['value'])}"


def measured_text(claim: dict) -> str:
    mark = MARK[claim["verdict"]]
    if claim["measured"] is None:
        return mark
    text = f"{mark} {number(claim['measured'])}"
    if claim.get("spread"):
        text += f" ({number(claim['spread'][0])} to {number(claim['spread'][2])})"
    return text


def why_not(variant: Variant) -> str:
    """Why a variant has no stored run, from what it needs."""
    words = {"gpu": "a CUDA device", "network": "the network"}
    needs = [words.get(n, f"the data set {n.removeprefix('data:')}") for n in variant.needs]
    return "not run" + (f": needs {' and '.join(needs)}" if needs else "")


def claims_table(stored: list[tuple[Variant, dict | None]]) -> str:
    """One row a claim, one column a variant."""
    first: dict[str, dict] = {}
    by_variant = []
    for variant, record in stored:
        claims = {c["id"]: c for c in record["claims"]} if record else {}
        by_variant.append((variant, claims))
        for id, claim in claims.items():
            first.setdefault(id, claim)
            if first[id]["bound"] is None:
                first[id] = claim
    head = ["Claim", "Bound", "Work's value"]
    head += [f"`{v.name}`" for v, _ in by_variant]
    rows = []
    for id, claim in first.items():
        control = f" Control of `{claim['controls']}`." if claim.get("controls") else ""
        about = " · ".join(escape(claim[key]) for key in ("source", "kind", "scope"))
        row = [f"`{id}` {escape(claim['statement'])}{control} *{about}*"]
        row += [escape(bound_text(claim)), escape(claim["paper"] or "–")]
        for _, claims in by_variant:
            row.append(escape(measured_text(claims[id])) if id in claims else "not run")
        rows.append(row)
    return table(head, rows)


def runs_table(stored: list[tuple[Variant, dict | None]]) -> str:
    """One row a variant: what it ran with, or why it did not."""
    head = ["Run", "Parameters", "Claims reproduced", "Preset", "Device", "Seconds", "Versions",
            "Commit"]
    rows = []
    for variant, record in stored:
        values = ", ".join(f"`{n} = {v!r}`" for n, v in variant.parameters.items()) or "–"
        name = f"`{variant.name}`"
        if record is None:
            rows.append([name, values, why_not(variant), *["–"] * 5])
            continue
        run = record["run"]
        if variant.name != DEFAULT:
            name = f"[{name}](../chapters/variants/{variant.slug}/{variant.name}.ipynb)"
        versions = ", ".join(f"{n} {v}" for n, v in run["versions"].items())
        threads = f", {run['threads']} threads" if run.get("threads") else ""
        rows.append([
            name, values, records.score_text(record), escape(run["preset"]),
            escape(run["device"] + threads), number(round(run["seconds"])), escape(versions),
            f"`{(run['commit'] or 'none')[:7]}`",
        ])
    return table(head, rows)


def ledger_page(layout: Layout) -> str:
    parts = [INTRO]
    for work in layout.works:
        slug = work["slug"]
        if slug not in layout.slugs:
            continue
        stored = stored_records(layout, slug)
        parts.append(f"## [{escape(work['title'])}](../chapters/{slug}.ipynb)\n")
        parts.append(f"{citation(work)}\n")
        parts.append(claims_table(stored) + "\n")
        parts.append(runs_table(stored) + "\n")
    planned = [w for w in layout.works if w["slug"] not in layout.slugs]
    if planned:
        lines = [f"- {escape(w['title'])}: {citation(w)}" for w in planned]
        parts.append("## Planned\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def citation(work: dict) -> str:
    """Authors, venue and link of a work, as far as known."""
    parts = [escape(work[key]) for key in ("authors", "venue") if key in work]
    if "arxiv" in work:
        parts.append(f"[arXiv:{work['arxiv']}](https://arxiv.org/abs/{work['arxiv']})")
    if "openreview" in work:
        parts.append(f"[OpenReview](https://openreview.net/forum?id={work['openreview']})")
    return ", ".join(parts)


def status_table(layout: Layout) -> str:
    rows = []
    for work in layout.works:
        slug, title = work["slug"], escape(work["title"])
        record = records.of_file(layout.chapter(slug))
        if record is None:
            rows.append([work["part"], title, "planned", "–"])
            continue
        cpu = records.of_preset(layout, slug, "cpu")
        rows.append([
            work["part"], f"[{title}](chapters/{slug}.ipynb)",
            records.score_text(record),
            f"{cpu['run']['seconds']:.0f} s" if cpu else "not run",
        ])
    return table(["Part", "Work", "Status", "Run time, CPU"], rows)


def badges(layout: Layout, slug: str) -> str:
    """The line below a chapter's title."""
    cpu, gpu = (records.of_preset(layout, slug, preset) for preset in ("cpu", "gpu"))
    record = records.of_file(layout.chapter(slug))
    repository = url_of(layout).removeprefix("https://github.com/")
    parts = [
        f"[Open in Colab](https://colab.research.google.com/github/{repository}"
        f"/blob/main/chapters/{slug}.ipynb)"
    ]
    if cpu:
        cores = {1: "one CPU core", 2: "two CPU cores"}
        threads = cpu["run"].get("threads", 2)
        parts.append(
            f"{cpu['run']['seconds']:.0f} s on {cores.get(threads, f'{threads} CPU cores')}"
        )
    else:
        parts.append("CPU: not run")
    parts.append(
        f"{gpu['run']['seconds']:.0f} s on {escape(gpu['run']['device'])}" if gpu
        else "GPU: not run"
    )
    if record:
        parts.append(records.score_text(record))
    return " · ".join(parts)


# --- files ----------------------------------------------------------------------------------------


def cover(layout: Layout) -> bytes:
    """The landing page's picture: PNG output of the cell tagged ``cover``.

    Raises:
        BookError: no such cell, or it has no PNG output.
    """
    path = layout.chapter(COVER)
    for cell in read_notebook(path).cells:
        if "cover" in tags(cell):
            for output in cell.get("outputs", []):
                if "image/png" in output.get("data", {}):
                    return base64.b64decode(output.data["image/png"])
    raise BookError(f"{path}: no cell tagged 'cover' with a PNG output")


def generated(layout: Layout) -> dict[Path, str | bytes]:
    """Content of every generated file, by path.

    Raises:
        BookError: a page without the status markers, or no cover picture.
    """
    files: dict[Path, str | bytes] = {layout.root / "pages" / "ledger.md": ledger_page(layout)}
    status = f"\n{status_table(layout)}\n\n"
    for name in ("intro.md", "README.md"):
        path = layout.root / name
        if not path.exists():
            raise BookError(f"{path} is missing")
        text, count = STATUS.subn(
            lambda m: m[1] + status + m[2], path.read_text(encoding="utf-8")
        )
        if count != 1:
            raise BookError(f"{path}: expected the markers <!-- generated:status --> once")
        files[path] = text
    for slug in layout.slugs:
        nb = read_notebook(layout.chapter(slug))
        cells = [c for c in nb.cells if BADGES in tags(c) and c.cell_type == "markdown"]
        line = badges(layout, slug)
        if any(c.source != line for c in cells):
            for cell in cells:
                cell.source = line
            files[layout.chapter(slug)] = dumps(nb)
    if records.of_file(layout.chapter(COVER)):
        files[layout.root / "pages" / "_static" / "cover.png"] = cover(layout)
    return files


def update(layout: Layout, *, check: bool = False) -> list[Path]:
    """Write what differs from disk; with ``check`` only say what does."""
    changed = []
    for path, content in generated(layout).items():
        data = content.encode("utf-8") if isinstance(content, str) else content
        if not path.exists() or path.read_bytes() != data:
            changed.append(path)
            if not check:
                write(path, data)
    return changed
