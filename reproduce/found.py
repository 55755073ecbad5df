"""The page "What we found": printed statements that are false, and what did not reproduce, by work.

Made from the stored records, so that it can say nothing that no notebook measured.
"""

from __future__ import annotations

import html

from nclib import cards
from nclib._tex import tex_to_html

from . import ledger
from .layout import Layout, write

INTRO = """# What we found

For the authors of the works, and for whoever builds on them: printed statements that turned out to
be false, each with its counter-example, and statements that did not reproduce here, each with what
was measured and tried. A work without an entry had none. Where the text of a work was not available
to us, or its data was replaced by a stand-in, the entry says so: there the fault may be ours.
Please open an issue where we are wrong.

"""


def _entry(claim: dict) -> str:
    """One finding: what is claimed, what was measured, what was tried."""
    note = f" {tex_to_html(claim['note'])}" if claim["note"] else ""
    link = f"../chapters/{claim['slug']}.html#claim-{claim['id']}"
    value = f"{cards.measured_text(claim)}, bound {cards.bound_text(claim)}"
    if claim["paper"]:
        shown = claim["paper"]
        if claim["paper_value"] is not None:
            shown = cards.number(claim["paper_value"])
        value += f", the work: {shown}"
    return (f"<li>{tex_to_html(claim['statement'])} <small>{tex_to_html(cards.about(claim))}. "
            f"Measured: {html.escape(value)}.</small>{note} "
            f'<a href="{link}"><code>{claim["id"]}</code></a></li>')


def _list(title: str, lines: list[str]) -> str:
    return f"<h3>{title}</h3><ul>{''.join(lines)}</ul>" if lines else ""


def _work(work: dict, claims: list[dict]) -> str:
    errata = [_entry(c) for c in claims if c["kind"] == "erratum" and c["verdict"] == "reproduced"]
    failed = [
        _entry(c) for c in claims
        if c["says"] == "work" and c["kind"] != "control" and c["verdict"] == "not reproduced"
    ]
    near, moved = work["nearest"], []
    if near:
        for c in claims:
            run = c["runs"].get(near["name"])
            if (c["says"] == "work" and c["kind"] != "control" and run
                    and c["verdict"] == "reproduced" and run["verdict"] == "not reproduced"):
                moved.append(
                    f"<li>{tex_to_html(c['statement'])} <small>Measured there: "
                    f"{html.escape(cards.number(run['measured']))}, bound "
                    f"{html.escape(cards.bound_text(c))}.</small> "
                    f'<a href="ledger.html#{c["slug"]}--{c["id"]}"><code>{c["id"]}</code></a></li>'
                )
    open_ = [
        f"<li>{tex_to_html(a['text'])}{' ' + tex_to_html(a['reason']) if a['reason'] else ''}</li>"
        for a in work["assertions"] if a["verdict"] == "not tested"
    ]
    body = (
        _list("Printed statements that are false", errata)
        + _list("Statements that did not reproduce", failed)
        + _list("Statements that hold in the chapter and fail in the run nearest to the work's own "
                "setting", moved)
        + _list("Assertions of the abstract that were not tested", open_)
    )
    if not body:
        body = "<p>No false statement was found, and everything that was tested reproduced.</p>"
    return body


def page(layout: Layout) -> str:
    """The page, as Markdown with HTML."""
    data = ledger.content(layout)
    parts = [INTRO]
    for work in data["works"]:
        if not work["chapter"]:
            continue
        claims = [c for c in data["claims"] if c["slug"] == work["slug"]]
        parts.append(
            f"## [{work['title']}](../chapters/{work['slug']}.ipynb)\n\n"
            f'<div class="nclib-ledger nclib-found">{_work(work, claims)}</div>\n\n'
        )
    return "".join(parts)


def write_page(layout: Layout, staged: Layout) -> None:
    """The page, into the stage."""
    write(staged.root / "pages" / "found.md", page(staged))
