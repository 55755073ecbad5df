"""Rules of the form of a chapter: answer first, code as a second layer, claims that stand alone.

Each rule lists problems of a notebook, and is tried on a doctored one as well.
"""

from __future__ import annotations

import base64
import copy
import re

import nbformat
import pytest
import yaml
from test_notebooks import (
    CHAPTERS,
    OTHERS,
    PIXEL,
    ROOT,
    VARIANTS,
    code_cells,
    images,
    label,
    name,
    read,
    records,
    tags,
    toy,
)

from reproduce.form import (
    CAPTION,
    FIGURE_BYTES,
    SAME,
    TITLE,
    moves,
    palette,
    still,
    without_twins,
)
from reproduce.layout import BookError, Layout
from reproduce.plan import declared
from reproduce.store import ANIMATION_BYTES
from reproduce.store import NOTEBOOK_BYTES as MAX_NOTEBOOK

MAX_OPEN, MAX_OPEN_CHAPTER, MAX_CELL, COLUMNS = 20, 150, 60, 84
LEADING = re.compile(r"(It|Its|These|This|Those|That|Nor|Here|There|They|Along|Also|And|But)\b")
BARE = re.compile(r"[λσμΣθαβγ]_|\^[\d{]")
ENTRIES = yaml.safe_load((ROOT / "chapters" / "works.yml").read_text(encoding="utf-8"))
WORKS = {e["slug"]: e.get("assertions", {}) for e in ENTRIES}
SYNTHESES = {e["slug"] for e in ENTRIES if e.get("synthesis")}


def is_folded(cell):
    return bool({"hide-input", "hide-cell", "remove-cell", "remove-input"} & set(tags(cell)))


def folds_have_titles(nb, path):
    return [
        f"{name(c)} is folded and has no title: start it with '{TITLE}Code: …'"
        for c in code_cells(nb)
        if "hide-input" in tags(c) and not c.source.startswith(TITLE)
    ]


def little_open_code(nb, path):
    open_ = [len(c.source.splitlines()) for c in code_cells(nb) if not is_folded(c)]
    problems = [f"an open cell of {n} lines" for n in open_ if n > MAX_OPEN]
    if sum(open_) > MAX_OPEN_CHAPTER:
        problems.append(f"{sum(open_)} open lines of code")
    return problems


def narrow_and_short_code(nb, path):
    problems = []
    for c in code_cells(nb):
        lines = c.source.splitlines()
        if len(lines) > MAX_CELL:
            problems.append(f"{name(c)} has {len(lines)} lines")
        if "nbval-skip" in tags(c):
            continue  # it holds the repository's address
        problems += [f"{name(c)}: {len(x)} columns: {x[:40]}…" for x in lines if len(x) > COLUMNS]
    return problems


def figures_have_captions(nb, path):
    problems = []
    for i, c in enumerate(nb.cells):
        if c.cell_type != "code" or not images(c):
            continue
        alt = c.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        after = nb.cells[i + 1] if i + 1 < len(nb.cells) else None
        if len(images(c)) > 1:
            problems.append(f"{name(c)} shows more than one figure")
        if len(alt) < 20:
            problems.append(f"{name(c)}: no alternative text")
        if after is None or "caption" not in tags(after) or not after.source.startswith(CAPTION):
            problems.append(f"{name(c)}: no caption cell that starts with {CAPTION!r} follows")
        elif BARE.search(re.sub(r"\$[^$]*\$", "", after.source)):
            problems.append(f"{name(c)}: a symbol of the caption is not typeset")
    return problems


def light(nb, path):
    problems = [
        f"{name(c)}: figure of {len(base64.b64decode(data)) // 1000} kB"
        for c in code_cells(nb)
        for _, data in images(c)
        if len(base64.b64decode(data)) > (ANIMATION_BYTES if moves(data) else FIGURE_BYTES)
    ]
    size = len(nbformat.writes(nb).encode())
    return problems + ([f"notebook of {size // 1000} kB"] if size > MAX_NOTEBOOK else [])


def statements_stand_alone(nb, path):
    problems = []
    for c in (c for r in records(nb) for c in r["claims"]):
        text = c["statement"]
        if LEADING.match(text):
            problems.append(f"{c['id']} starts with {text.split()[0]!r}")
        if not text.rstrip("$").endswith("."):
            problems.append(f"{c['id']} does not end in a period")
        if len(text) > 200:
            problems.append(f"{c['id']} has {len(text)} characters")
        if BARE.search(re.sub(r"\$[^$]*\$", "", text)):
            problems.append(f"{c['id']}: a symbol is not typeset")
    return problems


def abstract_is_accounted_for(nb, path):
    slug = path.parent.name if path.parent.parent.name == "variants" else path.stem
    problems = []
    for r in records(nb):
        have = {a["id"] for a in r["abstract"]}
        problems += [f"no word on the assertion {k}" for k in WORKS.get(slug, {}) if k not in have]
        problems += [f"{a['id']}: no claim and no reason" for a in r["abstract"]
                     if not a["claims"] and not a["reason"]]
    return problems


def work_statements_have_scope(nb, path):
    return [
        f"{c['id']}: the work says it, and source or scope is missing"
        for r in records(nb)
        for c in r["claims"]
        if c["says"] == "work" and c["kind"] != "control" and not (c["source"] and c["scope"])
    ]


RULES = [
    folds_have_titles, little_open_code, narrow_and_short_code, figures_have_captions, light,
    statements_stand_alone, abstract_is_accounted_for, work_statements_have_scope,
]


STORED = [*CHAPTERS, *VARIANTS]


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.__name__)
@pytest.mark.parametrize("path", STORED, ids=label)
def test_stored(path, rule):
    assert rule(read(path), path) == []


@pytest.mark.parametrize("rule", RULES[:5], ids=lambda r: r.__name__)
@pytest.mark.parametrize("path", OTHERS, ids=lambda p: p.stem)
def test_other_notebook(path, rule):
    assert rule(read(path), path) == []


def test_statements_are_unique_in_the_book():
    seen: dict[str, str] = {}
    for path in CHAPTERS:
        for c in records(read(path))[0]["claims"]:
            where = f"{path.stem}/{c['id']}"
            assert seen.setdefault(c["statement"], where) == where


@pytest.mark.parametrize("path", CHAPTERS, ids=label)
def test_one_nearest_run(path):
    variants = declared(Layout(ROOT)).get(path.stem, {}).values()
    assert sum(v.nearest for v in variants) == (path.stem not in SYNTHESES)


def test_bounds_that_nothing_comes_near(record_property):
    """Listed for a look, not refused: a bound that no stored value is within a factor 1000 of."""
    far = []
    for path in CHAPTERS:
        for c in records(read(path))[0]["claims"]:
            bound = c["bound"]
            if bound is None or bound["op"] not in ("below", "above") or c["kind"] == "theory":
                continue
            m, v = c["measured"], bound["value"]
            if isinstance(m, int | float) and m and v and not 1e-3 < abs(m / v) < 1e3:
                far.append(f"{path.stem}/{c['id']}")
    record_property("bounds to look at", far)


# --- each rule can fail -------------------------------------------------------------------------


def good():
    nb = toy()
    cells = code_cells(nb)
    cells[1].metadata["tags"] = ["parameters", "hide-input"]
    cells[1].source = f"{TITLE}Code: parameters\n{cells[1].source}"
    cells[2].metadata["mystnb"] = {"image": {"alt": "A single blue point on white ground."}}
    caption = nbformat.v4.new_markdown_cell(
        f"{CAPTION}Everything ends in one point, $\\lambda_W$ or not.",
        metadata={"tags": ["caption"]},
    )
    nb.cells.insert(5, caption)
    record = cells[3].outputs[0].metadata["nclib"]
    common = {"says": "work", "source": "Theorem 1", "scope": "exact"}
    record["claims"][0] |= common | {"statement": r"Every $\lambda_W$ is small."}
    record["claims"][1] |= common | {"statement": "Without decay nothing is small."}
    record |= {"schema": 2, "abstract": [{"id": "a", "claims": ["a"], "reason": None}]}
    return nb


def claims(nb):
    return records(nb)[0]["claims"]


PATH = ROOT / "chapters" / "toy.ipynb"
DOCTORED = [
    (folds_have_titles, lambda nb, c: c[1].update(source="x: int = 1")),
    (little_open_code, lambda nb, c: c[2].update(source="x = 1\n" * 21)),
    (little_open_code, lambda nb, c: nb.cells.extend(
        nbformat.v4.new_code_cell("x = 1\n" * 20) for _ in range(8))),
    (narrow_and_short_code, lambda nb, c: c[2].update(source="x" * 85)),
    (narrow_and_short_code, lambda nb, c: c[2].update(source="x\n" * 61)),
    (figures_have_captions, lambda nb, c: nb.cells.pop(5)),
    (figures_have_captions, lambda nb, c: nb.cells[5].update(source="A point.")),
    (figures_have_captions, lambda nb, c: nb.cells[5].update(source=f"{CAPTION}So λ_W falls.")),
    (figures_have_captions, lambda nb, c: c[2].metadata.pop("mystnb")),
    (figures_have_captions, lambda nb, c: c[2].outputs.append(copy.deepcopy(c[2].outputs[0]))),
    (light, lambda nb, c: c[2].outputs[0].data.update(
        {"image/png": base64.b64encode(b"x" * (FIGURE_BYTES + 1)).decode()})),
    (light, lambda nb, c: nb.cells[3].update(source="x" * MAX_NOTEBOOK)),
    (statements_stand_alone, lambda nb, c: claims(nb)[0].update(statement="It is small.")),
    (statements_stand_alone, lambda nb, c: claims(nb)[0].update(statement="All is small")),
    (statements_stand_alone, lambda nb, c: claims(nb)[0].update(statement="x" * 200 + ".")),
    (statements_stand_alone, lambda nb, c: claims(nb)[0].update(statement="The λ_W is small.")),
    (abstract_is_accounted_for,
     lambda nb, c: records(nb)[0]["abstract"].append({"id": "b", "claims": [], "reason": None})),
    (work_statements_have_scope, lambda nb, c: claims(nb)[0].update(scope=None)),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.__name__)
def test_a_good_notebook_passes(rule):
    assert rule(good(), PATH) == []


@pytest.mark.parametrize(("rule", "doctor"), DOCTORED, ids=lambda x: getattr(x, "__name__", ""))
def test_a_doctored_notebook_fails(rule, doctor):
    nb = good()
    doctor(nb, code_cells(nb))
    assert rule(nb, PATH) != []


def test_a_missing_assertion_is_seen(monkeypatch):
    monkeypatch.setitem(WORKS, "toy", {"a": "A.", "left-out": "B."})
    assert abstract_is_accounted_for(good(), PATH) == ["no word on the assertion left-out"]


def test_every_rule_has_a_doctored_notebook():
    assert {rule for rule, _ in DOCTORED} == set(RULES)


def test_a_caption_belongs_to_the_picture_alone():
    from reproduce.form import _picture_alone

    nb = good()
    cell = next(c for c in nb.cells if any("image/png" in o.get("data", {})
                                           for o in c.get("outputs", [])))
    assert _picture_alone(cell) == [cell]
    card = nbformat.v4.new_output("display_data", {"text/html": "<div>a card</div>"})
    cell.outputs.insert(0, card)
    code, alone = _picture_alone(cell)
    assert code.outputs == [card] and code.source and "mystnb" not in code.metadata
    assert ["image/png" in o.data for o in alone.outputs] == [True] and alone.source != code.source
    assert alone.metadata["mystnb"]["image"]["alt"] and alone.metadata["tags"] == ["remove-input"]


def test_a_variant_keeps_one_frame_of_an_animation():
    import io

    from nbformat.v4 import new_code_cell, new_notebook, new_output
    from PIL import Image

    frames = [Image.new("P", (40, 20), k) for k in (3, 7)]
    buffer = io.BytesIO()
    frames[0].save(buffer, format="PNG", save_all=True, append_images=frames[1:])
    png = base64.b64encode(buffer.getvalue()).decode()
    assert moves(png)
    told = {"image/png": {"width": 20}}
    nb = new_notebook(cells=[new_code_cell("1", outputs=[
        new_output("display_data", {"image/png": png}, metadata=told)])])
    output = still(nb).cells[0].outputs[0]
    assert not moves(output.data["image/png"]) and output.metadata == told
    kept = output.data["image/png"]
    shown, first = (Image.open(io.BytesIO(base64.b64decode(x))).convert("RGB") for x in (kept, png))
    assert shown.size == (40, 20) and shown.getpixel((5, 5)) == first.getpixel((5, 5))
    assert still(nb).cells[0].outputs[0].data["image/png"] == kept


def test_a_variant_leaves_out_the_pictures_of_its_chapter():
    from nbformat.v4 import new_code_cell, new_notebook, new_output

    a, b = (base64.b64encode(x).decode() for x in (b"one picture", b"another"))

    def notebook(*pngs):
        return new_notebook(cells=[
            new_code_cell(f"{i}", id=f"cell-{i}", outputs=[
                new_output("display_data", {"image/png": png, "text/plain": "<Figure>"})])
            for i, png in enumerate(pngs)
        ])

    chapter, variant = notebook(a, b), notebook(a, a)
    same, other = (c.outputs[0] for c in without_twins(variant, chapter).cells)
    assert same.data == {"text/plain": SAME} and other.data["image/png"] == a
    assert dict(without_twins(variant, chapter).cells[0].outputs[0].metadata) == same.metadata
    with pytest.raises(BookError, match="cell cell-0 stands for a picture"):
        without_twins(variant, notebook(b, b))


def test_palette_keeps_transparency_and_is_stable():
    import io

    import numpy as np
    from PIL import Image

    pixels = np.zeros((120, 120, 4), np.uint8)
    rng = np.random.default_rng(0)
    pixels[20:100, 20:100, :3] = rng.integers(0, 256, (80, 80, 3))
    pixels[20:100, 20:100, 3] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(buffer, format="PNG")
    small = palette(buffer.getvalue())
    assert len(small) < len(buffer.getvalue()) / 2
    back = np.asarray(Image.open(io.BytesIO(small)).convert("RGBA"))
    assert back[0, 0, 3] == 0 and back[50, 50, 3] == 255
    assert palette(small) == small
    assert len(palette(buffer.getvalue(), limit=2000)) <= len(small)
    assert palette(base64.b64decode(PIXEL))
