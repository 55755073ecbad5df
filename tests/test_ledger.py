"""The pages made from stored notebooks, here and in a tiny book."""

import base64
from pathlib import Path

import pytest
from tiny import PNG, SLUG, chapter, claim, display_output, record

from reproduce import ledger, store
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


def cells_of(line: str) -> list[str]:
    return [c.strip() for c in line.replace("\\|", "\0").strip("|").split("|")]


def test_everything_is_written_once(book, capsys):
    stored_chapter(book, claim(), claim("off", measured=2.0, verdict="not reproduced"))
    root = ["--root", str(book.root), "ledger"]
    assert main([*root, "--check"]) == 1
    assert "outdated: pages/ledger.md" in capsys.readouterr().out
    assert main(root) == 0
    assert main([*root, "--check"]) == 0
    assert (book.root / "pages/_static/cover.png").read_bytes() == base64.b64decode(PNG)
    for name in ("intro.md", "README.md"):
        text = (book.root / name).read_text()
        link = f"[A Tiny Work](chapters/{SLUG}.ipynb)"
        assert f"| I | {link} | 1 of 2 claims reproduced | 12 s |" in text
        assert "| II | A Later Work | planned | – |" in text
        assert text.startswith("# Book") and text.endswith("<!-- /generated:status -->\n")
    line = read_notebook(book.chapter(SLUG)).cells[1].source
    assert line == (
        "[Open in Colab](https://colab.research.google.com/github/o/book/blob/main/chapters/"
        f"{SLUG}.ipynb) · 12 s on two CPU cores · GPU: not run · 1 of 2 claims reproduced"
    )


@pytest.mark.parametrize("name", ["pages/ledger.md", "intro.md", "README.md",
                                  "pages/_static/cover.png", f"chapters/{SLUG}.ipynb"])
def test_check_sees_each_file(book, name):
    stored_chapter(book)
    ledger.update(book)
    path = book.root / name
    good = path.read_bytes()
    bad = good.replace(b"of 2 claims", b"of 9 claims") if name != "pages/ledger.md" else b""
    path.write_bytes(bad if bad != good else b"")
    assert ledger.update(book, check=True) == [path]
    ledger.update(book)
    assert path.read_bytes() == good


def test_ledger_page(book):
    stored_chapter(book, claim(spread=[0.4, 0.45, 0.5], paper="0.3"),
                   claim("other", kind="control", controls="gap"))
    stored_chapter(book, claim(measured=0.125), variant="seed-1", seed=1)
    text = ledger.ledger_page(book)
    head = next(line for line in text.splitlines() if line.startswith("| Claim"))
    assert cells_of(head)[3:] == ["`default`", "`seed-1`", "`gpu`", "`broken`"]
    row = next(line for line in text.splitlines() if line.startswith("| `gap`"))
    assert "The gap \\| of \\*W\\* is small." in row
    assert "*Theorem 1 · theory · exact*" in row
    assert cells_of(row)[1:] == ["≤ 1", "0.3", "✓ 0.5 (0.4 to 0.5)", "✓ 0.125", "not run",
                                 "not run"]
    assert "Control of `gap`." in text
    runs = [cells_of(line) for line in text.splitlines() if line.startswith("| `gpu`")]
    assert runs == [["`gpu`", "`preset = 'gpu'`", "not run: needs a CUDA device", *["–"] * 5]]
    assert "[`seed-1`](../chapters/variants/" in text and "`0123456`" in text
    assert "## Planned" in text and "A Later Work" in text


def test_gpu_record_in_badges(book):
    stored_chapter(book)
    stored_chapter(book, variant="gpu", preset="gpu", device="NVIDIA T4", seconds=99.6)
    assert "12 s on two CPU cores · 100 s on NVIDIA T4 · 2 of 2" in ledger.badges(book, SLUG)


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


# --- this book ------------------------------------------------------------------------------------


def test_generated_pages_are_current():
    stale = [str(p.relative_to(ROOT)) for p in ledger.update(Layout(ROOT), check=True)]
    assert not stale, f"outdated: {stale}; run `make ledger`"


def test_stored_notebooks_are_whole():
    faulty = {r.label: [r.status, *r.details] for r in store.check_stored(Layout(ROOT)) if not r.ok}
    assert not faulty


def test_no_pipe_breaks_a_table():
    lines = ledger.ledger_page(Layout(ROOT)).splitlines()
    width = None
    for line in lines:
        if not line.startswith("|"):
            width = None
            continue
        width = width or len(cells_of(line))
        assert len(cells_of(line)) == width, line
