"""One page a chapter, "What changes when …", made from its stored variants.

For each variant: its parameters, the claims whose verdict or value moved, and the figures that
differ, beside the chapter's own. No prose of the chapter stands there.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from nbformat import NotebookNode
from PIL import Image

from nclib import cards

from . import records
from .form import CAPTION, widths
from .layout import Layout, read_notebook, table, tags, write
from .plan import Variant, declared

FOLDER = Path("pages") / "what-changes"
DIFFERENT = 0.004  # mean absolute difference of two pictures, of the full range


def figures(nb: NotebookNode) -> list[tuple[str, bytes, int, str, str]]:
    """Id, PNG, width on the page, caption and alternative text of every figure."""
    found = []
    for index, cell in enumerate(nb.cells):
        if cell.cell_type != "code":
            continue
        for output, width in zip(
            [o for o in cell.outputs if "image/png" in o.get("data", {})], widths(cell.outputs),
            strict=True,
        ):
            after = nb.cells[index + 1] if index + 1 < len(nb.cells) else None
            mystnb = cell.metadata.get("mystnb", {})
            caption = mystnb.get("figure", {}).get("caption", "")
            if after is not None and "caption" in tags(after):
                caption = after.source.removeprefix(CAPTION)
            found.append((cell.id, base64.b64decode(output.data["image/png"]), width, caption,
                          mystnb.get("image", {}).get("alt", "")))
    return found


def differ(a: bytes, b: bytes) -> bool:
    """Are two pictures visibly different?"""
    one, two = (Image.open(io.BytesIO(x)).convert("RGBA") for x in (a, b))
    if one.size != two.size:
        return True
    one, two = (np.asarray(x, dtype=np.float32) / 255 for x in (one, two))
    return float(np.abs(one - two).mean()) > DIFFERENT


def moved(before: dict, after: dict) -> bool:
    """Did the verdict change, or the value by more than the claim's own tolerance?"""
    if before["verdict"] != after["verdict"]:
        return True
    return not records.agrees(before, after["measured"], after["verdict"])


def moves(own: dict, other: dict) -> list[list[str]]:
    """Rows of the claims that moved: id, statement, before, after, bound."""
    old = {c["id"]: c for c in own["claims"]}
    rows = []
    for claim in other["claims"]:
        before = old.get(claim["id"])
        if before is None or not moved(before, claim):
            continue
        flips = before["verdict"] != claim["verdict"]
        rows.append((not flips, [
            claim["id"], claim["statement"],
            f"{cards.MARK[before['verdict']]} {cards.measured_text(before)}",
            f"{cards.MARK[claim['verdict']]} {cards.measured_text(claim)}",
            cards.bound_text(claim),
        ]))
    return [row for _, row in sorted(rows, key=lambda r: r[0])]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def section(layout: Layout, staged: Layout, variant: Variant, own: NotebookNode) -> str:
    """The part of the page about one variant; its figures are written into the stage."""
    values = ", ".join(f"`{n} = {v!r}`" for n, v in variant.parameters.items())
    near = " This is the run nearest to the work's own setting." if variant.nearest else ""
    lines = [f"## {variant.name}", "",
             f"**{variant.title[:1].upper()}{variant.title[1:]}.** {variant.about.strip()}{near} "
             f"Parameters: {values}.", ""]
    path = layout.stored(variant.slug, variant.name)
    record = records.of_file(path)
    if record is None:
        from .ledger import why_not

        return "\n".join([*lines, f"{why_not(variant).capitalize()}.", ""])
    name = f"{variant.slug}--{variant.name}.ipynb"
    write(staged.root / FOLDER / "notebooks" / name, path.read_bytes())
    lines += [f"{{download}}`The executed notebook <notebooks/{name}>`", ""]
    rows = moves(records.of_notebook(own), record)
    if rows:
        chapter = f"../../chapters/{variant.slug}.ipynb"
        lines.append(table(["Claim", "Before", "Here", "Bound"], [
            [f"{_cell(statement)} [{id}]({chapter})", _cell(a), _cell(b), _cell(bound)]
            for id, statement, a, b, bound in rows
        ]))
    else:
        lines.append("No verdict changed, and no value left its claim's tolerance.")
    lines.append("")
    theirs = {id: (png, width) for id, png, width, _, _ in figures(read_notebook(path))}
    for id, png, width, caption, alt in figures(own):
        if id not in theirs or not differ(png, theirs[id][0]):
            continue
        files = []
        for kind, (data, wide) in {"default": (png, width), variant.name: theirs[id]}.items():
            file = f"{variant.slug}--{kind}--{id}.png"
            write(staged.root / FOLDER / "figures" / file, data)
            files.append((file, wide))
        lead = caption.split(". ")[0].rstrip(".")
        lines += [
            f"Figure of the chapter: *{lead}.* First the chapter's own, then this run's.", "",
            *(line for n, (file, wide) in enumerate(files) for line in (
                f"```{{image}} figures/{file}",
                f":alt: {'The figure of this run' if n else alt or 'The figure of the chapter'}",
                f":width: {wide}px", "```", "",
            )),
        ]
    return "\n".join(lines)


def page(layout: Layout, staged: Layout, slug: str) -> str:
    """The page of a chapter."""
    own = read_notebook(staged.chapter(slug))
    title = layout.title(slug)
    head = [
        f"# {title.split(':')[0]}: what changes when …", "",
        f"The chapter [{title}](../../chapters/{slug}.ipynb) was run again with other parameters. "
        "For each run: the claims whose verdict changed or whose value left its tolerance, and the "
        "figures that differ.", "",
    ]
    parts = [section(layout, staged, v, own) for v in declared(layout).get(slug, {}).values()]
    return "\n".join([*head, *parts])


def write_pages(layout: Layout, staged: Layout) -> None:
    """Write the pages of all chapters into the stage."""
    for slug in layout.slugs:
        if records.of_file(staged.chapter(slug)) is not None:
            write(staged.root / FOLDER / f"{slug}.md", page(layout, staged, slug))

