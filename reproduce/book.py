"""Builds the book from a staged copy, so that no tracked file is touched."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from . import changes, cost, form, found, ledger, notebooks, records, trust
from .layout import DEFAULT, BookError, Layout, dumps, read_notebook, read_yaml, write
from .plan import select
from .run import Options, Row, run, say, table
from .store import page

PARTS = ("_config.yml", "_toc.yml", "README.md", "intro.md", "pyproject.toml", "references.bib",
         "chapters", "pages")


def stage(layout: Layout) -> Layout:
    """A copy of the book's content in ``_build/stage``."""
    target = layout.build / "stage"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in PARTS:
        source = layout.root / name
        if source.is_dir():
            ignore = shutil.ignore_patterns(".ipynb_checkpoints", "*.tmp", "__pycache__")
            shutil.copytree(source, target / name, ignore=ignore)
        elif source.exists():
            shutil.copy2(source, target / name)
    return Layout(target)


def pages(layout: Layout) -> Iterator[str]:
    """Every page that ``_toc.yml`` names, without its suffix."""

    def walk(node) -> Iterator[str]:
        if isinstance(node, dict):
            if "file" in node:
                yield node["file"]
            for key in ("parts", "chapters", "sections"):
                yield from walk(node.get(key, []))
        elif isinstance(node, list):
            for item in node:
                yield from walk(item)

    toc = read_yaml(layout.root / "_toc.yml")
    yield toc["root"]
    yield from walk(toc)


def jupyter_book() -> str:
    """The ``jupyter-book`` of this environment.

    Raises:
        BookError: not installed, or version 2, which writes no HTML for such a book.
    """
    from importlib import metadata

    try:
        version = metadata.version("jupyter-book")
    except metadata.PackageNotFoundError:
        raise BookError("jupyter-book is not installed in this environment") from None
    if not version.startswith("1."):
        raise BookError(f"jupyter-book 1 is needed, found {version}")
    beside = Path(sys.executable).with_name("jupyter-book")
    return str(beside) if beside.exists() else shutil.which("jupyter-book") or "jupyter-book"


def html(layout: Layout, staged: Layout) -> Path:
    """Build the staged book into ``_build/html`` without warnings; the path of its first page.

    Raises:
        BookError: the build failed or warned, or a page is missing from it.
    """
    for name in ("html", ".doctrees"):
        shutil.rmtree(layout.build / name, ignore_errors=True)
    command = [
        jupyter_book(), "build", str(staged.root), "--path-output", str(layout.root),
        "-W", "-n", "--keep-going",
    ]
    sys.stdout.flush()
    code = subprocess.run(command, check=False).returncode
    if code:
        raise BookError(f"jupyter-book ended with status {code}; its messages stand above")
    folder = layout.build / "html"
    names = list(pages(staged))
    missing = [n for n in names if not (folder / f"{Path(n).with_suffix('')}.html").exists()]
    if missing:
        raise BookError(f"no HTML was written for {', '.join(missing)}")
    return folder / "index.html"


def claims_lines(layout: Layout) -> Iterator[str]:
    """The ledger for the terminal: one line a claim of every chapter."""
    for slug in layout.slugs:
        record = records.of_file(layout.chapter(slug))
        if record is None:
            continue
        run = record["run"]
        yield (f"\n{slug}: {records.score_text(record)} "
               f"({run['preset']} preset, {run['device']}, {run['seconds']:.0f} s)")
        for c in record["claims"]:
            yield (f"  {ledger.measured_text(c):<34} {ledger.bound_text(c):<16} "
                   f"{c['kind']:<9} {c['id']}")


def build(layout: Layout, *, execute: bool, options: Options) -> list[Row]:
    """Stage, put the fresh outputs in, build, and show the ledger.

    Raises:
        BookError: the build failed.
    """
    rows: list[Row] = []
    staged = stage(layout)
    if execute:
        variants = select(layout, [], defaults=True)
        rows = run(layout, variants, options)
        table(rows)
        failed = [r.label for r in rows if r.status == "failed"]
        if failed:
            raise BookError(f"{', '.join(failed)} failed; no book was built")
        for variant in variants:
            fresh = read_notebook(layout.fresh(variant.slug, DEFAULT))
            write(staged.chapter(variant.slug), dumps(page(layout, variant, fresh)))
        for path in staged.notebooks:
            write(path, dumps(notebooks.executed(read_notebook(path))))
    ledger.update(staged)
    ledger.write_ledger(layout, staged)
    found.write_page(layout, staged)
    changes.write_pages(layout, staged)
    trust.write_page(layout, staged)
    cost.write_page(layout, staged)
    for slug in staged.slugs:
        nb = form.for_book(staged, slug, read_notebook(staged.chapter(slug)))
        write(staged.chapter(slug), dumps(nb))
    for path in staged.notebooks:
        write(path, dumps(form.for_book(staged, path.stem, read_notebook(path))))
    shutil.rmtree(staged.chapters / "variants", ignore_errors=True)
    index = html(layout, staged)
    for line in claims_lines(staged):
        say(line)
    say(f"\nbook: {index}")
    return rows
