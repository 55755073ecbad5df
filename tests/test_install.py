"""The first cell of every notebook: our nclib, no other, and Colab's own packages left alone."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from IPython.core.inputtransformer2 import TransformerManager

from reproduce import form
from reproduce.hashes import INSTALL
from reproduce.layout import Layout, read_notebook, tags
from reproduce.ledger import url_of

LAYOUT = Layout(Path(__file__).resolve().parents[1])
URL = url_of(LAYOUT)
NOTEBOOKS = [*LAYOUT.chapters.glob("*.ipynb"), *LAYOUT.chapters.glob("variants/*/*.ipynb"),
             *LAYOUT.notebooks]


class Missing:
    """An importer that has no nclib, nor what it needs."""

    def find_spec(self, name, path=None, target=None):
        if name == "nclib":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def installs(monkeypatch, **modules) -> list[str]:
    """What the cell asks pip for, where ``sys.modules`` has these modules and no other nclib."""
    asked = []

    class Shell:
        def run_line_magic(self, name, line, **_):
            asked.append(f"{name} {line.format(**namespace)}")  # as IPython does

    for name in [n for n in sys.modules if n.partition(".")[0] == "nclib"]:
        monkeypatch.delitem(sys.modules, name)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name.replace("_", "."), module)
    if "nclib" not in modules:
        monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    source = TransformerManager().transform_cell(form.install_cell(URL))
    namespace = {"get_ipython": Shell}
    exec(source, namespace)
    return asked


def test_colab_gets_nclib_alone(monkeypatch):
    asked = installs(monkeypatch, google_colab=ModuleType("google.colab"))
    assert asked == [f'pip install --quiet --no-deps "git+{URL}"']


def test_elsewhere_what_is_missing_comes_along(monkeypatch):
    asked = installs(monkeypatch)
    assert asked == [f'pip install --quiet  "git+{URL}"']


def test_ours_is_left_alone(monkeypatch):
    ours = ModuleType("nclib")
    ours.Claims = object
    assert installs(monkeypatch, nclib=ours) == []


def test_a_netcat_is_refused_by_name(monkeypatch):
    with pytest.raises(AssertionError, match="pip uninstall nclib"):
        installs(monkeypatch, nclib=ModuleType("nclib"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_notebook_has_this_cell(path):
    found = [c.source for c in read_notebook(path).cells if INSTALL in tags(c)]
    assert found == [form.install_cell(URL)]
