"""The pages made from stored notebooks, here and in a tiny book."""

import base64
import csv
import json
import re
import shutil
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from nbformat.v4 import new_markdown_cell
from tiny import PNG, SLUG, chapter, claim, display_output, record

from nclib import cards
from reproduce import changes, form, found, ledger, records
from reproduce.__main__ import main
from reproduce.layout import BookError, Layout, dumps, read_notebook, write

ROOT = Path(__file__).parent.parent


def stored_chapter(book: Layout, *claims, variant="default", cover=True, **run) -> None:
    """Write the chapter as if it had been run, with these claims."""
    nb = chapter()
    for index, cell in enumerate(c for c in nb.cells if c.cell_type == "code"):
        cell.execution_count = index + 1
    nb.cells[-1].outputs = [display_output({"nclib": record(*claims, variant=variant, **run)})]
    if cover:
        nb.cells[-2].outputs = [display_output(**{"image/png": PNG})]
    write(book.stored(SLUG, variant), dumps(nb))


def test_everything_is_written_once(book, capsys):
    stored_chapter(book, claim(), claim("off", measured=2.0, verdict="not reproduced"))
    root = ["--root", str(book.root), "ledger"]
    assert main([*root, "--check"]) == 1
    assert "outdated: intro.md" in capsys.readouterr().out
    assert main(root) == 0
    assert main([*root, "--check"]) == 0
    assert (book.root / "pages/_static/cover.png").read_bytes() == base64.b64decode(PNG)
    readme, intro = ((book.root / name).read_text() for name in ("README.md", "intro.md"))
    link = f"[A Tiny Work](chapters/{SLUG}.ipynb)"
    assert f"| I | {link} | ✓ 1 of 2 of the work's statements reproduced | 12 s |" in readme
    assert "| II | A Later Work | no stored run | – |" in readme
    assert "✓ reproduced</b> <small>(in the work's own setting)" in intro
    assert f'href="chapters/{SLUG}.html"' in intro and "No chapter yet" in intro
    for text in (readme, intro):
        assert text.startswith("# Book") and text.endswith("<!-- /generated:status -->\n")
    line = read_notebook(book.chapter(SLUG)).cells[1].source
    assert line == (
        "[Open in Colab](https://colab.research.google.com/github/o/book/blob/main/chapters/"
        f"{SLUG}.ipynb) · 12 s on one CPU core · GPU: not run"
    )


@pytest.mark.parametrize("name", ["intro.md", "README.md", "pages/_static/cover.png",
                                  f"chapters/{SLUG}.ipynb"])
def test_check_sees_each_file(book, name):
    stored_chapter(book)
    ledger.update(book)
    path = book.root / name
    good = path.read_bytes()
    bad = b"" if path.name == "cover.png" else good.replace(
        b"12 s", b"99 s").replace(b"Open the chapter", b"Forged")
    path.write_bytes(bad)
    assert ledger.update(book, check=True) == [path]
    ledger.update(book)
    assert path.read_bytes() == good


def test_ledger_page(book):
    stored_chapter(book, claim(spread=[0.4, 0.45, 0.5], paper="0.3"),
                   claim("other", kind="control", controls="gap"))
    stored_chapter(book, claim(measured=2.0, verdict="not reproduced"), variant="broken")
    text = ledger.ledger_page(book)
    row = re.search(rf'<tr id="{SLUG}--gap".*?</tr>', text)[0]
    assert 'data-flips="1"' in row and 'data-says="work"' in row and 'data-scope="exact"' in row
    assert f'href="../chapters/{SLUG}.html#claim-gap"' in row
    assert "λ<sub><i>W</i></sub>" in row and "$" not in row
    assert "0.5 (0.4 … 0.5)" in row and "≤ 1" in row
    assert 'title="default: reproduced"' in row and 'title="broken: not reproduced"' in row
    other = re.search(rf'<tr id="{SLUG}--other".*?</tr>', text)[0]
    assert 'data-says="control"' in other and "control of gap" in other
    assert "gpu: not run: needs a CUDA device" in text
    assert "A Later Work" in text and f'<a href="#{SLUG}--gap">gap</a>' in text
    assert "\n\n" not in text[text.index("<div class"):text.index("</div>\n<script")]


def test_page_of_findings(book):
    wrong = claim("sign", kind="erratum", says="book", scope=None, source="Equation 7",
                  note="Ours.")
    missed = claim("missed", measured=2.0, verdict="not reproduced", note="Tried twice the steps.")
    guard = claim("guard", kind="control", controls="missed", measured=2.0,
                  verdict="not reproduced")
    stored_chapter(book, claim(), wrong, missed, guard)
    text = found.page(book)
    false, failed = text.split("Statements that did not reproduce")
    assert "erratum: Equation 7" in false and "Ours." in false and "#claim-sign" in false
    assert "Tried twice the steps." in failed and "#claim-missed" in failed
    assert "#claim-gap" not in text and "#claim-guard" not in text and "$" not in text
    assert "A Later Work" not in text
    stored_chapter(book, claim())
    assert "No false statement was found" in found.page(book)


def test_ledger_files(book, tmp_path):
    stored_chapter(book, claim())
    staged = Layout(tmp_path / "stage")
    shutil.copytree(book.root, staged.root, ignore=shutil.ignore_patterns("stage"))
    ledger.write_ledger(book, staged)
    data = json.loads((staged.root / "pages/_static/ledger.json").read_text())
    assert [c["id"] for c in data["claims"]] == ["gap"]
    assert data["claims"][0]["runs"]["default"]["verdict"] == "reproduced"
    assert [w["chapter"] for w in data["works"]] == [True, False]
    lines = (staged.root / "pages/_static/ledger.csv").read_text().splitlines()
    rows = list(csv.DictReader(lines))
    assert rows[0]["id"] == "gap" and rows[0]["run"] == "default" and rows[0]["bound"] == "≤ 1"
    assert (staged.root / "pages/ledger.md").exists()


def test_gpu_record_in_badges(book):
    stored_chapter(book)
    stored_chapter(book, variant="gpu", preset="gpu", device="NVIDIA T4", seconds=99.6)
    assert "12 s on one CPU core · 100 s on NVIDIA T4" in ledger.badges(book, SLUG)


def test_first_screen(book):
    stored_chapter(book)
    texts = ledger.first_screen(book, SLUG)
    assert "✓ **reproduced** (in the work's own setting): The assertion holds holds." in (
        texts["abstract"])
    assert 'href="#claim-gap"' in texts["abstract"] and "@misc{" in texts["cite"]


def test_a_staged_chapter(book):
    stored_chapter(book)
    nb = read_notebook(book.chapter(SLUG))
    figure = next(c for c in nb.cells if c.id == "figure")
    figure.source = "#@title Code: a pixel\n" + figure.source
    figure.outputs[0].metadata["image/png"] = {"width": 321}
    caption = new_markdown_cell("**Figure.** One\npixel.", id="cap", metadata={"tags": ["caption"]})
    nb.cells.insert(nb.cells.index(figure) + 1, caption)
    shown = display_output({"nclib_claim": "gap"}, **{"text/html": "old"})
    nb.cells[-1].outputs.insert(0, shown)
    form.for_book(book, SLUG, nb)
    mystnb = next(c for c in nb.cells if c.id == "figure").metadata["mystnb"]
    assert mystnb["figure"]["caption"] == "One pixel."
    assert mystnb["image"]["width"] == "321px"
    assert mystnb["code_prompt_show"] == "Code: a pixel"
    assert not any("#@title" in c.source or c.id == "cap" for c in nb.cells)
    html = nb.cells[-1].outputs[0].data["text/html"]
    assert 'id="claim-gap"' in html and f"../pages/ledger.html#{SLUG}--gap" in html


def test_a_staged_chapter_cites_what_it_names(book):
    stored_chapter(book)
    nb = read_notebook(book.chapter(SLUG))
    entry = "@misc{{{key},\n  author = {{{author}}},\n  year = {{2020}},\n  url = {{{url}}},\n}}\n"
    works = [
        (SLUG, "Own, A.", "https://arxiv.org/abs/2000.00001"),
        ("linked", "Link, B.", "https://arxiv.org/abs/2000.00002"),
        ("named", "Saxe, A. M.", "https://arxiv.org/abs/1312.6120"),
        ("silent", "Other, C.", "https://arxiv.org/abs/2000.00003"),
    ]
    write(book.root / "references.bib",
          "".join(entry.format(key=k, author=a, url=u) for k, a, u in works))
    nb.cells += [
        new_markdown_cell("Saxe et al. say so, [others](https://arxiv.org/abs/2000.00002) too."),
        new_markdown_cell("## Cite", metadata={"tags": ["cite"]}),
    ]
    assert form.named_works(book, SLUG, nb) == [SLUG, "linked", "named"]
    shown = dumps(form.for_book(book, SLUG, nb))
    assert f"{{cite:t}}`{SLUG},linked,named`" in shown
    (book.root / "references.bib").unlink()
    assert form.named_works(book, SLUG, nb) == []


def test_a_live_figure_stands_before_the_code(book):
    stored_chapter(book)
    live = [c.source for c in form.for_book(book, SLUG, read_notebook(book.chapter(SLUG))).cells
            if "nclib-live" in c.source]
    assert live == []
    write(book.root / "pages" / "_static" / "live" / f"{SLUG}.js", "// a figure")
    cells = form.for_book(book, SLUG, read_notebook(book.chapter(SLUG))).cells
    at = next(i for i, c in enumerate(cells) if "nclib-live" in c.source)
    assert f'data-figure="{SLUG}"' in cells[at].source and "<noscript>" in cells[at].source
    code = [i for i, c in enumerate(cells) if c.cell_type == "code" and "cover" not in
            c.metadata.get("tags", [])]
    assert at < code[0]


def test_page_of_changes(book, tmp_path):
    stored_chapter(book, claim(), claim("rank", measured=3))
    stored_chapter(book, claim(measured=2.0, verdict="not reproduced"), claim("rank", measured=3),
                   variant="broken")
    staged = Layout(tmp_path / "stage")
    shutil.copytree(book.root, staged.root, ignore=shutil.ignore_patterns("stage"))
    text = changes.page(book, staged, SLUG)
    assert "## broken" in text and "`shift = 0.6`" in text
    assert "[gap]" in text and "[rank]" not in text and "✗ 2" in text
    assert "Not run: needs a cuda device." in text
    assert (staged.root / changes.FOLDER / "notebooks" / f"{SLUG}--broken.ipynb").exists()


def test_a_plain_build_of_the_checkout(book):
    """The Sphinx extension writes the generated pages and shows chapters as the stage does."""
    path = ROOT / "pages" / "_ext" / "nclib_book.py"
    extension = module_from_spec(spec := spec_from_file_location("nclib_book", path))
    spec.loader.exec_module(extension)
    stored_chapter(book)
    stored_chapter(book, claim(measured=2.0, verdict="not reproduced"), variant="broken")
    handlers = {}
    app = SimpleNamespace(srcdir=str(book.root), connect=handlers.__setitem__)
    extension.prepare(app, SimpleNamespace())
    assert (book.root / "pages" / "ledger.md").is_file()
    assert (book.root / changes.FOLDER / f"{SLUG}.md").is_file()
    stored = book.chapter(SLUG).read_text()
    source = [stored]
    handlers["source-read"](app, f"chapters/{SLUG}", source)
    shown = dumps(form.for_book(book, SLUG, read_notebook(book.chapter(SLUG))))
    assert source == [shown] and book.chapter(SLUG).read_text() == stored
    source = ["# Notation"]
    handlers["source-read"](app, "pages/notation", source)
    assert source == ["# Notation"]


def test_missing_parts_are_errors(book):
    stored_chapter(book, cover=False)
    with pytest.raises(BookError, match="cover"):
        ledger.generated(book)
    write(book.root / "intro.md", "# No markers\n")
    with pytest.raises(BookError, match="markers"):
        ledger.generated(book)


def test_works_file(book):
    works = Layout(ROOT).works
    assert len(works) == 9 and len({w["slug"] for w in works}) == 9
    write(book.chapters / "works.yml", "- {slug: a, part: I, title: T, doi: x}\n")
    with pytest.raises(BookError, match="unknown"):
        _ = Layout(book.root).works


def test_a_synthesis_is_no_work_and_has_its_claims_in_the_ledger(book):
    entries = yaml.safe_load((book.chapters / "works.yml").read_text())
    entries += [entries.pop(0) | {"synthesis": True}]  # the tiny chapter, after the work to come
    write(book.chapters / "works.yml", yaml.safe_dump(entries))
    book = Layout(book.root)
    stored_chapter(book, claim())
    data = ledger.content(book)
    assert [w["slug"] for w in data["works"]] == ["later"]
    assert [s["slug"] for s in data["syntheses"]] == book.slugs == [SLUG]
    assert {c["slug"] for c in data["claims"]} == {SLUG}
    page = ledger.ledger_page(book)
    assert f'<details id="{SLUG}"' in page and f'<option value="{SLUG}">' in page
    assert SLUG not in ledger.status_table(book) and SLUG not in ledger.glance(data["works"])
    found_record = records.of_file(book.chapter(SLUG))
    cite = form.cite_lines(book, SLUG, found_record, "https://github.com/o/book")
    assert "-work," not in cite and f"{SLUG}-reproduced" in cite


def test_counts_of_a_chapter_without_a_work():
    claim = {"says": "book", "kind": "theory", "verdict": "reproduced", "scope": None}
    assert cards.score_text({"claims": [claim]}).startswith("Controls that hold: 0 of 0.")
    work = claim | {"says": "work", "scope": "exact"}
    assert cards.score_text({"claims": [work]}).startswith("Statements of the work: 1 of 1")


# --- this book ------------------------------------------------------------------------------------


def test_generated_pages_are_current():
    stale = [str(p.relative_to(ROOT)) for p in ledger.update(Layout(ROOT), check=True)]
    assert not stale, f"outdated: {stale}; run `make ledger`"
