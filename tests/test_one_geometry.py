"""The closing chapter: its links to claims of the others, its graph, and functions of its cells."""

import ast
import itertools
import math
import re
from pathlib import Path

import nbformat
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nclib import frames, ufm
from reproduce.form import CLAIM_LINK, linked

CHAPTERS = Path(__file__).resolve().parents[1] / "chapters"
SLUG = "one-geometry"


def cells(slug, kind):
    nb = nbformat.read(CHAPTERS / f"{slug}.ipynb", as_version=4)
    return [c.source for c in nb.cells if c.cell_type == kind]


def ids_of(slug):
    """Ids of the claims that the chapter's code makes, as far as they are written out."""
    found = set()
    for source in cells(slug, "code"):
        if source.lstrip().startswith("try:"):
            continue
        for node in ast.walk(ast.parse(source)):
            if (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
                    and node.func.attr in ("check", "not_run") and node.args
                    and isinstance(node.args[0], ast.Constant)):
                found.add(node.args[0].value)
    return found


def strangers(texts):
    """Links to claims that their chapter does not make."""
    wrong, known = [], {}
    for text in texts:
        for words, slug, anchor in CLAIM_LINK.findall(text):
            if slug not in known:
                known[slug] = ids_of(slug) if (CHAPTERS / f"{slug}.ipynb").exists() else set()
            if anchor.removeprefix("claim-") not in known[slug]:
                wrong.append(f"{words} in {slug}")
    return wrong


@pytest.mark.parametrize("path", sorted(CHAPTERS.glob("*.ipynb")), ids=lambda p: p.stem)
def test_links_to_claims_of_other_chapters_lead_somewhere(path):
    assert strangers(cells(path.stem, "markdown")) == []


def test_a_link_to_no_claim_is_seen():
    good = "[x](geometric-analysis.ipynb#claim-etf-attains-minimum)"
    assert strangers([good]) == []
    assert len(strangers([good.replace("attains", "misses"), good.replace("geo", "neo")])) == 2


def test_the_page_links_to_cards():
    text = "[a](b-c.ipynb#claim-d-e), [f](g.ipynb), [h](../i.ipynb#claim-j)"
    assert linked(text) == ('<a href="b-c.html#claim-d-e">a</a>, [f](g.ipynb), '
                            "[h](../i.ipynb#claim-j)")


def edges():
    """The edges of the figure, and those of the list with the chapters of their links."""
    (code,) = [s for s in cells(SLUG, "code") if "EDGES = [" in s]
    assigned = {n.targets[0].id: n.value for n in ast.parse(code).body
                if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name)}
    drawn = ast.literal_eval(assigned["EDGES"])
    (text,) = [s for s in cells(SLUG, "markdown") if s.startswith("1. **")]
    lines = re.findall(r"(?m)^(\d+)\. \*\*([a-z-]+) (\w+) .*?([a-z]+-[a-z]+)\*\*(.*)$", text)
    return drawn, lines


def test_every_arrow_has_its_sentence_with_a_claim_of_either_end():
    drawn, lines = edges()
    assert [int(n) for n, *_ in lines] == list(range(1, len(drawn) + 1))
    for (a, b, kind), (_, start, word, end, rest) in zip(drawn, lines, strict=True):
        assert (a, b, kind) == (start, end, word)
        assert {slug for _, slug, _ in CLAIM_LINK.findall(rest)} == {a, b}
    works = {p.stem for p in CHAPTERS.glob("*.ipynb")} - {SLUG}
    assert {s for e in drawn for s in e[:2]} == works


@pytest.fixture(scope="module")
def chapter():
    """Names that the chapter's cells with definitions leave behind."""
    names = {"math": math, "torch": torch, "itertools": itertools, "K": 10, "ufm": ufm,
             "double": {"dtype": torch.float64}, "pad": torch.nn.functional.pad,
             "normalize": torch.nn.functional.normalize}
    names |= dict.fromkeys(("even", "nets", "head", "bias", "clock"))  # defaults of arguments
    for source in cells(SLUG, "code"):
        body = [n for n in ast.parse(source.replace("%pip", "#")).body
                if isinstance(n, ast.FunctionDef)] if "%pip" not in source else []
        exec(compile(ast.Module(body, []), SLUG, "exec"), names)
    return names


def test_squared_optimum_is_critical(chapter):
    counts, lam = torch.tensor([40.0] * 5 + [8.0] * 5, dtype=torch.float64), 0.01
    W, M, b = (v.clone().requires_grad_() for v in chapter["squared_optimum"](counts, lam))
    off = M @ W.mT + b - torch.eye(10)
    decay = W.square().sum() + (counts[:, None] * M.square()).sum()
    loss = (counts * off.square().sum(1)).sum() / (2 * counts.sum()) + lam / 2 * decay
    assert max(g.abs().max() for g in torch.autograd.grad(loss, (W, M, b))) < 1e-12


def test_graph_has_four_equal_singular_values(chapter):
    values = torch.linalg.svdvals(chapter["centered"](chapter["graph"]()))
    assert torch.allclose(values[:4], values[:1].expand(4)) and values[4] < 1e-12


def test_turning_keeps_the_frame(chapter):
    etf = frames.simplex_etf(10, 20, dtype=torch.float64)
    new = chapter["turned"](etf, 0.5)
    assert torch.allclose(new @ new.T, etf @ etf.T) and (new - etf).norm() > 0.5


def test_exponent_of_aligned_frame(chapter):
    etf = frames.simplex_etf(10, dtype=torch.float64)
    assert torch.allclose(chapter["exponents"](etf, etf), torch.tensor(10 / 36).double())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 5), st.integers(2, 4))
def test_sharper_bound_holds(chapter, seed, spread, classes):
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(20 * classes) % classes
    h = torch.randn(classes, 3, generator=g).double()[y]
    h = h + spread * torch.randn(len(y), 3, generator=g).double() ** 3
    V, wrong = chapter["pairs"](h, y)
    assert (wrong <= chapter["sharper"](V) + 1e-12).all()
