"""The parts of ``tests/colab.py`` that need no environment; ``make colab`` plays the whole."""

from __future__ import annotations

import subprocess
import sys

import colab
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from tiny import chapter, record

from reproduce import form
from reproduce.layout import BookError, dumps, write
from reproduce.ledger import url_of

HEAD = subprocess.run(["git", "-C", str(colab.ROOT), "rev-parse", "HEAD"], capture_output=True,
                      text=True).stdout.strip()
URL = url_of(colab.LAYOUT)


def toy(tmp_path, source=None):
    nb = chapter()
    next(c for c in nb.cells if c.id == "install").source = source or form.install_cell(URL)
    nb.cells[-1].outputs = [new_output("stream", text="old")]
    write(tmp_path / "toy.ipynb", dumps(nb))
    return tmp_path / "toy.ipynb"


def test_the_first_cell_installs_the_commit_of_the_record(tmp_path):
    nb = colab.prepared(toy(tmp_path), "abc")
    install = next(c for c in nb.cells if c.id == "install").source
    assert f'"git+file://{colab.ROOT}@abc"' in install and "github" not in install
    assert not any(c.get("outputs") for c in nb.cells)


def test_a_first_cell_with_another_address_is_refused(tmp_path):
    path = toy(tmp_path, "%pip install git+https://github.com/someone/else")
    with pytest.raises(BookError, match="does not install from"):
        colab.prepared(path, "abc")


@pytest.mark.skipif(not HEAD, reason="not a checkout")
def test_the_commit_must_be_there_and_whole():
    assert colab.commit_of(record(commit=HEAD), None) == HEAD
    assert colab.commit_of(record(commit="0" * 40), "HEAD") == HEAD
    with pytest.raises(BookError, match="has no commit"):
        colab.commit_of(record(commit="0" * 40), None)
    with pytest.raises(BookError, match="uncommitted changes"):
        colab.commit_of(record(commit=f"{HEAD}+changes"), None)


def test_names():
    assert [p.stem for p in colab.notebooks(["measure-your-own"])] == ["measure-your-own"]
    assert len(colab.notebooks([])) == len(colab.LAYOUT.slugs) + len(colab.LAYOUT.notebooks)
    with pytest.raises(BookError, match="no notebook nowhere"):
        colab.notebooks(["nowhere"])


def test_a_kernel_of_another_interpreter_runs_without_this_checkout(tmp_path, monkeypatch):
    """The way that notebooks are run, with this interpreter in the place of Colab's."""
    environment = colab.Environment(tmp_path / "none", colab=True)
    environment.python = sys.executable
    monkeypatch.setattr(environment, "without_nclib", lambda: None)
    versions = iter([{"torch": "1", "numpy": "1"},
                     {"torch": "2", "numpy": "1", "neural-collapse-reproduced": "0"}])
    monkeypatch.setattr(environment, "versions", lambda: next(versions))
    nb = new_notebook(cells=[
        new_code_cell(f'x = "git+{URL}"', metadata={"tags": ["nbval-skip"]}),
        new_code_cell("import os; assert os.listdir() == ['toy.ipynb'], os.listdir()\n"
                      "assert 'PYTHONPATH' not in os.environ"),
    ])
    write(tmp_path / "toy.ipynb", dumps(nb))
    problems = colab.play(tmp_path / "toy.ipynb", environment, "HEAD")
    assert problems == ["torch was 1 and is 2 now"]
