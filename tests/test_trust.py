"""The pages on trust and cost: made from records alone, and saying what was not run."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import yaml
from tiny import SLUG, chapter, claim, code, display_output, notebook, record

from reproduce import cost, faults, platforms, trust
from reproduce.__main__ import main
from reproduce.layout import BookError, dumps, read_notebook, write

ROOT = Path(__file__).parents[1]
FAULTS = [
    {"fault": f"fault {n}", "in": "chapter", "find": "0.5 + shift", "replace": f"0.5 + {n}",
     "red": ["gap"]} for n in range(1, 5)
]


def stored(book, *claims):
    nb = chapter()
    nb.cells[-1].outputs = [display_output({"nclib": record(*claims)})]
    write(book.chapter(SLUG), dumps(nb))
    return nb


def outcome(n, nb, **changes):
    found = {"fault": f"fault {n}", "expected": ["gap"], "seen": True, "red": ["gap", "rank"],
             "raised": None, "seconds": 1.0, "key": faults.key_of(FAULTS[n - 1], nb)}
    return found | changes


def test_nothing_was_run_and_the_page_says_so(book):
    stored(book)
    write(book.faults(SLUG), yaml.safe_dump(FAULTS))
    page = trust.page(book)
    assert "4 faults are listed; none was planted yet." in page
    assert "No chapter was run on another platform yet." in page
    assert "GPU: not run" in cost.page(book, book) and "12 s" in cost.page(book, book)


def test_faults_are_counted_and_survivors_named(book):
    nb = stored(book)
    write(book.faults(SLUG), yaml.safe_dump(FAULTS))
    order = [e["fault"] for e in FAULTS]
    path = book.fault_results(SLUG)
    for found in (outcome(2, nb, seen=False, red=[]), outcome(1, nb), outcome(
            3, nb, raised="ValueError", red=[], key="older")):
        faults.merged(path, {"slug": SLUG, "commit": "abc", "torch": "2"}, order, found)
    page = trust.page(book)
    assert "**2 of 3 faults were seen (66.7%).** 1 more are listed" in page
    assert f"| [{SLUG}](../chapters/{SLUG}.ipynb) | 4 | 2 | 1 | 1 | 1 |" in page
    survivors = page.split("### Faults that were not seen")[1].split("### Every fault")[0]
    assert "fault 2" in survivors and "still green" in survivors and "fault 1" not in survivors
    assert "the run raises <code>ValueError</code>" in page
    assert f'href="../chapters/{SLUG}.html#claim-gap"' in page and "and 1 more" in page
    assert len(path.read_text().splitlines()) == 6  # head, list, a line a fault, end
    write(book.faults(SLUG), yaml.safe_dump(FAULTS[2:]))  # what is not listed any more is not shown
    assert "**1 of 1 faults were seen (100.0%).**" in trust.page(book)


def test_platforms_are_compared_with_what_is_stored_now(book):
    stored(book)
    base = {"raised": None, "moved": [], "seconds": 1.0, "hash": {}, "commit": None,
            "verdicts": {"gap": "reproduced", "rank": "reproduced"}}
    for torch, threads, seed, more in (
        ("2.13.0", 1, 0, {}), ("2.13.0", 2, 1, {"moved": ["gap"]}),
        ("2.4.1", 1, 2, {"raised": "KeyError", "verdicts": {}}),
    ):
        platforms._merge(book, SLUG, base | {
            "torch": torch, "threads": threads, "hashseed": seed, "kernels": "own"} | more)
    page = trust.page(book)
    assert "**3 runs; 1 differ.**" in page
    assert "| 2 of 2 | 2 of 2, 1 values moved | raises `KeyError` |" in page
    assert "torch 2.4.1, 1 thread, hash seed 2" in page
    stored(book, claim(measured=2.0, verdict="not reproduced"), claim("rank"))
    assert "changed: `gap`" in trust.page(book)


def test_broken_records_are_named(book):
    write(book.platforms(SLUG), "{}")
    with pytest.raises(BookError, match="not a record of platforms"):
        platforms.load(book, SLUG)
    write(book.root / "benchmarks" / "cost.json", "[]")
    with pytest.raises(BookError, match=r"not a record of benchmarks/cost\.py"):
        cost.load(book)


def test_the_benchmark_of_cost_writes_what_the_page_shows(book, monkeypatch, capsys):
    script = runpy.run_path(str(ROOT / "benchmarks" / "cost.py"))
    target = book.root / "benchmarks" / "cost.json"
    write(target, json.dumps({"schema": 1}))
    monkeypatch.setitem(script["keep"].__globals__, "RECORD", target)
    monkeypatch.setattr(sys, "argv", ["cost.py"])
    script["main"](["--quick", "--write"])
    assert capsys.readouterr().out.count("exponent") == len(script["SERIES"])
    stored(book)
    page = cost.page(book, book)
    assert page.count("seeds a minute") == 3 and "steps/s" in page
    assert page.count("| time |") == len(script["SERIES"]) and "GPU: not run" in page


@pytest.mark.parametrize(("seconds", "text"), [
    (2.5, "2.5 s"), (123.4, "123 s"), (0.0123, "12 ms"), (0.00123, "1.2 ms"), (1.5e-4, "150 µs"),
])
def test_times_are_shown_in_their_unit(seconds, text):
    assert cost._time(seconds) == text


def test_the_exponent_is_the_slope():
    slope = runpy.run_path(str(ROOT / "benchmarks" / "cost.py"))["slope"]
    assert slope([(x, 3 * x**1.5) for x in (1, 4, 9, 100)]) == pytest.approx(1.5)


# --- pages that are notebooks ---------------------------------------------------------------------


def own_page(book, source):
    cells = [code("old address", "install", "nbval-skip"), code(source, "one")]
    write(book.root / "pages" / "own.ipynb", dumps(notebook(*cells)))
    return book.root / "pages" / "own.ipynb"


def test_a_page_that_is_a_notebook_is_executed_and_stored(book):
    path = own_page(book, "import os\nprint(os.listdir(), 1 + 1)")
    assert main(["--root", str(book.root), "ledger"]) == 0
    assert "git+https://github.com/o/book" in read_notebook(path).cells[0].source
    nb = read_notebook(path)
    nb.cells[0].source = "pass"
    write(path, dumps(nb))
    assert main(["--root", str(book.root), "pages"]) == 0
    cell = read_notebook(path).cells[1]
    assert cell.outputs[0].text == "[] 2\n" and cell.execution_count == 2
    assert "execution" not in cell.metadata


@pytest.mark.parametrize(("source", "words"), [
    ("1 / 0", "ZeroDivisionError"), ("import sys; print('x', file=sys.stderr)", "writes to stderr"),
])
def test_a_page_that_fails_is_not_stored(book, source, words, capsys):
    path = own_page(book, source)
    nb = read_notebook(path)
    nb.cells[0].source = "pass"
    write(path, dumps(nb))
    before = path.read_bytes()
    assert main(["--root", str(book.root), "pages"]) == 2
    assert words in capsys.readouterr().err and path.read_bytes() == before
