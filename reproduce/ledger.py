"""Everything written from stored notebooks: ledger, status tables, first screens, cover picture."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import re
from pathlib import Path

from nclib import cards
from nclib._tex import tex_to_html, tex_to_text
from nclib.claims import SCOPES

from . import form, records, seeds
from .layout import BookError, Layout, dumps, read_notebook, read_yaml, table, tags, write
from .plan import INSTALL, Variant, declared, nearest

COVER = "geometric-analysis"
STATUS = re.compile(r"(<!-- generated:status -->\n).*?(<!-- /generated:status -->)", re.DOTALL)
MARK = cards.MARK
NONE = {"verdict": "not tested"}

INTRO = """# Ledger

Every claim of every chapter, as measured in each stored run, made from the executed notebooks.
*Statements of the works*, *controls* and *findings of this book* are counted apart.

"""
KEYS = """
The kinds are *theory* (checked in float64), *dynamics* (over several seeds), *data* (a network on
real data), *control* (the same measurement where it must fail), *erratum* (a printed statement that
is false) and *beyond* (not in the work). The scope is *exact* (the work's own setting), *stand-in*
(another data set or size) or *reconstruction* (the work's text was not available).

Download: <a href="../_static/ledger.json" download>ledger.json</a> ·
<a href="../_static/ledger.csv" download>ledger.csv</a>. `ledger.json` holds `works` (slug, title,
assertions with verdict and claims, statements reproduced, nearest run), `syntheses` (chapters that
reproduce no work of their own) and `claims` (the fields of
a claim's record, with `slug`, `runs`: variant → verdict and value, and `seeds`: values and verdicts
of seeds 0 to 9). `ledger.csv` has one line a claim and run.
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


# --- texts ----------------------------------------------------------------------------------------


def escape(text) -> str:
    """Plain text as one cell of a Markdown table."""
    return re.sub(r"([\\`*_{}\[\]<>|$~#^])", r"\\\1", " ".join(str(text).split()))


def measured_text(claim: dict) -> str:
    """Mark and value, for the terminal."""
    return f"{MARK[claim['verdict']]} {cards.measured_text(claim)}"


bound_text = cards.bound_text


def why_not(variant: Variant) -> str:
    """Why a variant has no stored run, from what it needs."""
    words = {"gpu": "a CUDA device", "network": "the network"}
    needs = [words.get(n, f"the data set {n.removeprefix('data:')}") for n in variant.needs]
    return "not run" + (f": needs {' and '.join(needs)}" if needs else "")


def citation(work: dict) -> str:
    """Authors, venue and link of a work, as far as known."""
    parts = [escape(work[key]) for key in ("authors", "venue") if key in work]
    if "arxiv" in work:
        parts.append(f"[arXiv:{work['arxiv']}](https://arxiv.org/abs/{work['arxiv']})")
    if "openreview" in work:
        parts.append(f"[OpenReview](https://openreview.net/forum?id={work['openreview']})")
    return ", ".join(parts)


# --- the ledger -----------------------------------------------------------------------------------


def assertions(layout: Layout, slug: str) -> list[dict]:
    """The assertions of a work's abstract with their verdicts; without a chapter: not tested."""
    record = records.of_file(layout.chapter(slug)) if slug in layout.slugs else None
    if record and record["abstract"]:
        return record["abstract"]
    work = next(w for w in layout.works if w["slug"] == slug)
    return [
        {"id": key, "text": text, "claims": [], "reason": None, "scope": None, **NONE}
        for key, text in work.get("assertions", {}).items()
    ]


def of_work(layout: Layout, work: dict) -> dict:
    """A work's assertions, its statements by the default run, and its nearest run."""
    slug = work["slug"]
    entry = {"slug": slug, "part": work["part"], "title": work["title"],
             "chapter": slug in layout.slugs, "assertions": assertions(layout, slug),
             "reproduced": None, "total": None, "nearest": None}
    if record := records.of_file(layout.chapter(slug)):
        score = cards.score(record)["work"]
        entry |= {key: score[key] for key in ("reproduced", "total")}
    if variant := nearest(layout, slug):
        record = records.of_file(layout.stored(slug, variant.name))
        score = cards.score(record)["work"] if record else {}
        entry["nearest"] = {"name": variant.name, "title": variant.title,
                            "reproduced": score.get("reproduced"), "total": score.get("total")}
    return entry


def content(layout: Layout) -> dict:
    """All that the ledger shows, ready for JSON."""
    claims = []
    for slug in layout.slugs:
        stored = stored_records(layout, slug)
        found = seeds.load(layout, slug)
        first: dict[str, dict] = {}
        for variant, record in stored:
            for claim in record["claims"] if record else ():
                entry = first.setdefault(
                    claim["id"], {"slug": slug, **claim, "runs": {}}
                )
                entry["runs"][variant.name] = {
                    "verdict": claim["verdict"], "measured": claim["measured"],
                }
        for id, entry in first.items():
            entry["seeds"] = seeds.of_claim(found, id)
        claims += first.values()
    works = [of_work(layout, work) for work in layout.works]
    syntheses = [{key: e[key] for key in ("slug", "part", "title")}
                 for e in layout.syntheses if e["slug"] in layout.slugs]
    return {"schema": 1, "works": works, "syntheses": syntheses, "claims": claims}


def _squares(entry: dict) -> str:
    """One mark a run, then one a seed."""
    parts = []
    for name, run in entry["runs"].items():
        parts.append((name, run["verdict"]))
    for seed in entry["seeds"] or ():
        if seed["verdict"]:
            parts.append((f"seed {seed['seed']}", seed["verdict"]))
    return "".join(
        f'<b class="nclib-run" data-verdict="{verdict}" title="{html.escape(name)}: {verdict}">'
        f"{MARK[verdict]}</b>" for name, verdict in parts
    )


def _row(entry: dict) -> str:
    verdict, id = entry["verdict"], f"{entry['slug']}--{entry['id']}"
    flips = len({r["verdict"] for r in entry["runs"].values()}) > 1
    who = "control" if entry["kind"] == "control" else entry["says"]
    link = f"../chapters/{entry['slug']}.html#claim-{entry['id']}"
    return (
        f'<tr id="{id}" data-verdict="{verdict}" data-work="{entry["slug"]}" data-says="{who}" '
        f'data-kind="{entry["kind"]}" data-scope="{entry["scope"] or "none"}" '
        f'data-flips="{int(flips)}"><td class="nclib-what"><b data-verdict="{verdict}" '
        f'title="{verdict}">{MARK[verdict]}</b> {tex_to_html(entry["statement"])} '
        f'<a href="{link}"><code>{entry["id"]}</code></a> '
        f'<a class="nclib-permalink" href="#{id}" aria-label="link to this row">#</a><br>'
        f"<small>{tex_to_html(cards.about(entry))}</small></td>"
        f'<td class="nclib-value">{html.escape(cards.measured_text(entry))}<br>'
        f"<small>{html.escape(cards.bound_text(entry))}</small></td>"
        f'<td class="nclib-runs">{_squares(entry)}</td></tr>'
    )


def _dots(work: dict) -> str:
    dots = "".join(
        f'<b class="nclib-run" data-verdict="{a["verdict"]}" '
        f'title="{html.escape(tex_to_text(a["text"]))} ({a["verdict"]})">'
        f'{MARK[a["verdict"]]}</b>' for a in work["assertions"]
    )
    return f'{html.escape(work["title"])} <span class="nclib-dots">{dots}</span>'


def _verdict(a: dict) -> str:
    scope = f" <small>({cards.SCOPE[a['scope']]})</small>" if a["scope"] else ""
    return f'<b data-verdict="{a["verdict"]}">{MARK[a["verdict"]]} {a["verdict"]}</b>{scope}'


def glance(works: list[dict]) -> str:
    """The landing page's list: a work opens to its assertions and what was found. HTML."""
    blocks = []
    for work in works:
        lines = "".join(
            f"<li>{_verdict(a)}: {tex_to_html(a['text'])}"
            f"{'' if a['claims'] or not a['reason'] else ' ' + tex_to_html(a['reason'])}</li>"
            for a in work["assertions"]
        )
        foot = "No chapter yet."
        if work["chapter"]:
            foot = f'<a href="chapters/{work["slug"]}.html">Open the chapter</a>'
        if near := work["nearest"]:
            score = "not run"
            if near["total"] is not None:
                score = (f"{near['reproduced']} of {near['total']} of the work's statements "
                         f"reproduced; in the chapter {work['reproduced']} of {work['total']}")
            page = f"pages/what-changes/{work['slug']}.html#{near['name']}"
            foot += (f' · nearest to the work\'s own setting: <a href="{page}">'
                     f"{html.escape(near['title'])}</a>, {score}")
        blocks.append(f"<details><summary>{_dots(work)}</summary><ul>{lines}</ul><p>{foot}</p>"
                      "</details>")
    lines = "\n".join(blocks)  # a line a work, so that a change shows where it is
    return f'<div class="nclib-ledger nclib-glance">\n{lines}\n</div>'


def _deciders(works: list[dict]) -> str:
    """The ledger's list: a work opens to the claims that decide each of its assertions."""
    blocks = []
    for work in works:
        lines = "".join(
            f"<li>{_verdict(a)} <code>{a['id']}</code>: "
            + (", ".join(f'<a href="#{work["slug"]}--{i}">{i}</a>' for i in a["claims"])
               or "decided by no claim") + "</li>" for a in work["assertions"]
        )
        blocks.append(f"<details><summary>{_dots(work)}</summary><ul>{lines}</ul></details>")
    return f'<div class="nclib-glance">{"".join(blocks)}</div>'


def _filters(data: dict) -> str:
    def buttons(key: str, values) -> str:
        return "".join(
            f'<button type="button" data-key="{key}" data-value="{value}" '
            f'aria-pressed="false">{html.escape(text)}</button>' for value, text in values
        )

    kinds = sorted({c["kind"] for c in data["claims"]} - {"control"})
    options = "".join(
        f'<option value="{w["slug"]}">{html.escape(w["slug"])}</option>'
        for w in [*data["works"], *data["syntheses"]] if w.get("chapter", True)
    )
    return (
        '<div class="nclib-filters" hidden>'
        + buttons("verdict", [("not reproduced", "not reproduced"), ("not run", "not run")])
        + buttons("flips", [("1", "changes in a variant")])
        + buttons("says", [("work", "the work says"), ("control", "controls"), ("book", "ours")])
        + buttons("kind", [(k, k) for k in kinds])
        + buttons("scope", [(s, s) for s in SCOPES])
        + f'<select data-key="work" aria-label="work"><option value="">all works</option>{options}'
        '</select><input type="search" placeholder="search claims" aria-label="search claims">'
        '<output class="nclib-count"></output></div>'
    )


def _seeds_run(layout: Layout, slug: str) -> str:
    found = seeds.load(layout, slug)
    if found is None:
        return "other seeds were not run yet"
    ran = seeds.seeds_of(found)
    return f"then {len(ran)} seeds: {', '.join(map(str, ran))}"


def ledger_page(layout: Layout) -> str:
    """The page: at a glance, filters, and one folded table a work that needs no script."""
    data = content(layout)
    blocks = [_deciders(data["works"]), _filters(data)]
    for work in [*data["works"], *data["syntheses"]]:
        entries = [c for c in data["claims"] if c["slug"] == work["slug"]]
        if not entries:
            continue
        runs = list(dict.fromkeys(name for c in entries for name in c["runs"]))
        record = {"claims": entries}
        missing = [v for v, r in stored_records(layout, work["slug"]) if r is None]
        absent = "".join(f" · {html.escape(v.name)}: {why_not(v)}" for v in missing)
        blocks.append(
            f'<details id="{work["slug"]}" class="nclib-work"><summary>'
            f'<strong>{html.escape(work["title"])}</strong><br>'
            f"{html.escape(cards.score_text(record))}</summary>"
            f'<p><a href="../chapters/{work["slug"]}.html">The chapter</a>. <small>Runs, in the '
            f"order of the marks: {', '.join(runs)}; {_seeds_run(layout, work['slug'])}{absent}"
            "</small></p>"
            f'<table class="nclib-rows"><tbody>{"".join(map(_row, entries))}</tbody></table>'
            "</details>"
        )
    script = '<script src="../_static/ledger.js" defer></script>'
    body = "".join(blocks)
    return f'{INTRO}<div class="nclib-ledger">{body}</div>\n{script}\n{KEYS}'


def ledger_csv(data: dict) -> str:
    """One line a claim and run."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["slug", "id", "statement", "says", "source", "kind", "scope", "bound", "run",
                     "verdict", "measured"])
    for c in data["claims"]:
        runs = list(c["runs"].items())
        runs += [(f"seed-{s['seed']}", {"verdict": s["verdict"], "measured": s["value"]})
                 for s in c["seeds"] or ()]
        for name, run in runs:
            writer.writerow([c["slug"], c["id"], tex_to_text(c["statement"]), c["says"],
                             c["source"] or "", c["kind"], c["scope"] or "", cards.bound_text(c),
                             name, run["verdict"], run["measured"]])
    return out.getvalue()


# --- status and first screens ---------------------------------------------------------------------


def status_table(layout: Layout) -> str:
    """One row a work: its assertions at a glance, its statements by the default run; for README."""
    rows = []
    for work in layout.works:
        slug, title = work["slug"], escape(work["title"])
        record = records.of_file(layout.chapter(slug))
        if record is None:
            rows.append([work["part"], title, "no stored run", "–"])
            continue
        dots = "".join(MARK[a["verdict"]] for a in record["abstract"])
        cpu = records.of_preset(layout, slug, "cpu")
        s = cards.score(record)["work"]
        rows.append([
            work["part"], f"[{title}](chapters/{slug}.ipynb)",
            f"{dots} {s['reproduced']} of {s['total']} of the work's statements reproduced".strip(),
            f"{cpu['run']['seconds']:.0f} s" if cpu else "not run",
        ])
    head = ["Part", "Work", "Assertions of the abstract (✓ ◐ ✗ –), statements", "Run time, CPU"]
    return table(head, rows)


def badges(layout: Layout, slug: str) -> str:
    """The line below a chapter's title."""
    cpu, gpu = (records.of_preset(layout, slug, preset) for preset in ("cpu", "gpu"))
    parts = []
    host, _, repository = url_of(layout).removeprefix("https://").partition("/")
    if host == "github.com":  # Colab opens no other host
        parts.append(f"[Open in Colab](https://colab.research.google.com/github/{repository}"
                     f"/blob/main/chapters/{slug}.ipynb)")
    if cpu:
        parts.append(f"{cpu['run']['seconds']:.0f} s on one CPU core")
    else:
        parts.append("CPU: not run")
    parts.append(
        f"{gpu['run']['seconds']:.0f} s on {escape(gpu['run']['device'])}" if gpu
        else "GPU: not run"
    )
    near = form.nearest_line(layout, slug)
    return " · ".join([*parts, near] if near else parts)


def first_screen(layout: Layout, slug: str) -> dict[str, str]:
    """The generated cells of a chapter, by tag."""
    texts = {"badges": badges(layout, slug), INSTALL: form.install_cell(url_of(layout))}
    record = records.of_file(layout.chapter(slug))
    if record is not None and record["abstract"]:
        texts["abstract"] = form.abstract_lines(record)
    if record is not None and (record["abstract"] or slug in {e["slug"] for e in layout.syntheses}):
        texts["cite"] = form.cite_lines(layout, slug, record, url_of(layout))
    return texts


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
    files: dict[Path, str | bytes] = {}
    for slug in layout.slugs:
        nb = read_notebook(layout.chapter(slug))
        if form.fill(layout, slug, nb, first_screen(layout, slug)):
            files[layout.chapter(slug)] = dumps(nb)
    for path in layout.notebooks:
        nb = read_notebook(path)
        if form.fill(layout, path.stem, nb, {INSTALL: form.install_cell(url_of(layout))}):
            files[path] = dumps(nb)
    works = [of_work(layout, work) for work in layout.works]
    texts = {"intro.md": glance(works),
             "README.md": status_table(layout)}
    for name, status in texts.items():
        path = layout.root / name
        if not path.exists():
            raise BookError(f"{path} is missing")
        text, count = STATUS.subn(
            lambda m, new=status: f"{m[1]}\n{new}\n\n{m[2]}", path.read_text(encoding="utf-8")
        )
        if count != 1:
            raise BookError(f"{path}: expected the markers <!-- generated:status --> once")
        files[path] = text
    if records.of_file(layout.chapter(COVER)):
        files[layout.root / "pages" / "_static" / "cover.png"] = cover(layout)
    return files


def update(layout: Layout, *, check: bool = False) -> list[Path]:
    """Write what differs from disk; with ``check`` only say what does."""
    changed = []
    for path, text in generated(layout).items():
        data = text.encode("utf-8") if isinstance(text, str) else text
        if not path.exists() or path.read_bytes() != data:
            changed.append(path)
            if not check:
                write(path, data)
    return changed


def write_ledger(layout: Layout, staged: Layout) -> None:
    """The ledger's page and its two files, into the stage."""
    data = content(staged)
    write(staged.root / "pages" / "ledger.md", ledger_page(staged))
    folder = staged.root / "pages" / "_static"
    write(folder / "ledger.json", json.dumps(data, ensure_ascii=False, indent=1))
    write(folder / "ledger.csv", ledger_csv(data))

