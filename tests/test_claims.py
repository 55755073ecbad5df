"""Claims: verdicts, tolerances, records, and every way to misuse them."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

import nclib
from nclib import cards
from nclib import claims as module

ROOT = Path(__file__).resolve().parent.parent
BASE = {"says": "work", "source": "Theorem 1", "kind": "theory", "scope": "exact"}


@pytest.fixture
def claims():
    return nclib.Claims("a-chapter", nclib.setup(seed=3, preset="cpu"))


@pytest.mark.parametrize(
    ("measured", "bound", "verdict"),
    [
        (1e-11, {"below": 1e-10}, "reproduced"),
        (1e-10, {"below": 1e-10}, "reproduced"),
        (2e-10, {"below": 1e-10}, "not reproduced"),
        (2.0, {"above": 1.0}, "reproduced"),
        (0.5, {"above": 1.0}, "not reproduced"),
        (0.5, {"between": (0, 1)}, "reproduced"),
        (1.5, {"between": (0, 1)}, "not reproduced"),
        (7, {"equals": 7}, "reproduced"),
        (8, {"equals": 7}, "not reproduced"),
        ("[1, 2]", {"equals": "[1, 2]"}, "reproduced"),
        (float("nan"), {"below": 1.0}, "not reproduced"),
        (float("nan"), {"above": 1.0}, "not reproduced"),
        (float("-inf"), {"below": 1.0}, "reproduced"),
        (float("inf"), {"between": (0, 1)}, "not reproduced"),
    ],
)
def test_verdicts(claims, measured, bound, verdict):
    assert claims.check("x", "A sentence.", measured=measured, **bound, **BASE).verdict == verdict


@pytest.mark.parametrize(
    "values", [[0.1, 0.2, 3.0], torch.tensor([0.1, 0.2, 3.0]), torch.tensor([[0.1], [0.2], [3.0]])]
)
def test_one_bad_seed_decides(claims, values):
    claim = claims.check("x", "A sentence.", measured=values, below=1, **BASE)
    assert claim.verdict == "not reproduced"
    assert claim.measured == 3.0 and claim.seeds == 3
    assert claim.spread == pytest.approx([0.1, 0.2, 3.0])


def test_nan_among_seeds_is_never_reproduced(claims):
    claim = claims.check("x", "A sentence.", measured=[0.1, float("nan")], below=1, **BASE)
    assert claim.verdict == "not reproduced" and claim.measured == "nan" and claim.spread is None


def test_default_tolerances(claims):
    def tolerance(id, kind, measured, **bound):
        extra = {"controls": "first"} if kind == "control" else {"says": "book"}
        return claims.check(
            id, "A sentence.", kind=kind, measured=measured, **bound, **extra
        ).tolerance

    assert tolerance("first", "theory", 1e-12, below=1e-10) == pytest.approx(4.95e-11)
    assert tolerance("b", "theory", 5.0, above=1.0) == 2.0
    assert tolerance("c", "theory", 0.5, between=(0, 2)) == 0.25
    assert tolerance("d", "data", 12, equals=12) == 0
    assert tolerance("e", "data", 12, above=3) == 0  # integers are exact
    assert tolerance("f", "data", [1.0, 2.0, 3.0], below=99) == pytest.approx(3.0)
    assert tolerance("f2", "data", [1.0, 2.0, 3.0], below=4) == 0.5  # half the margin
    assert tolerance("f3", "data", [1.0, 2.0, 3.0], below=2) == 0.5  # outside the bound as well
    assert tolerance("g", "control", [1.0, 2.0, 3.0], below=9, tolerance=0.5) == 0.5
    assert tolerance("g2", "control", [1.0, 2.0, 3.0], below=9, tolerance=100) == 3.0
    with pytest.raises(ValueError, match="fewer than three"):
        tolerance("h", "data", 0.5, below=1)


def test_a_rival_that_passes_turns_the_claim_red(claims):
    good = claims.check("x", "S.", measured=0.1, below=0.2, rival=("noise", 0.5), **BASE)
    assert good.verdict == "reproduced" and good.rival == {"name": "noise", "value": [0.5]}
    bad = claims.check("y", "S.", measured=0.1, below=0.2, rival=("noise", [0.5, 0.15]), **BASE)
    assert bad.verdict == "not reproduced" and "noise" in bad.note


def test_nan_in_a_data_claim_is_not_reproduced(claims):
    claim = claims.check("x", "S.", says="book", kind="data", measured=[0.1, float("nan")], below=1)
    assert claim.verdict == "not reproduced" and claim.tolerance == 0


@pytest.mark.parametrize("bound", [torch.tensor(1.0), np.float64(1.0), np.array(1.0)])
def test_bounds_of_other_libraries(claims, bound):
    claims.check("x", "S.", measured=0.5, below=bound, **BASE)
    claims.check("y", "S.", measured=0.5, between=(0 * bound, bound), **BASE)
    json.dumps(claims.record(), allow_nan=False)


def test_who_says_it(claims):
    claims.check("w", "S.", measured=1, equals=1, **BASE)
    book = claims.check("b", "S.", says="book", kind="dynamics", measured=1, equals=1)
    assert book.scope is None and book.source is None
    control = claims.check("c", "S.", kind="control", controls="w", measured=1, equals=1)
    assert (control.says, control.scope) == ("work", "exact")
    erratum = claims.check("e", "S.", kind="erratum", source="Eq. 3", measured=1, equals=1)
    assert erratum.says == "book"
    claims.check("b2", "S.", kind="beyond", measured=2, equals=1)
    score = module.score(claims.record())
    assert score["work"]["reproduced"] == score["work"]["total"] == 1
    assert score["work"]["by_scope"] == {"exact": {"reproduced": 1, "total": 1}}
    assert score["controls"]["total"] == 1
    assert score["book"] == {"reproduced": 2, "total": 3}


def test_assertions_of_the_abstract(claims):
    def check(id, value, **more):
        claims.check(id, "S.", measured=value, equals=1, **(BASE | more))

    check("good", 1)
    check("bad", 0, scope="stand-in")
    claims.not_run("gpu", "S.", why="no GPU", **BASE)
    check("guarded", 1, scope="reconstruction")
    claims.check("guard", "S.", kind="control", controls="guarded", measured=0, equals=1)
    claims.abstract({
        "a": ("A.", ["good"]), "b": ("B.", ["good", "bad"]), "c": ("C.", ["bad"]),
        "d": ("D.", ["gpu"]), "e": ("E.", ["good", "gpu"]), "f": ("F.", ["guarded"]),
        "g": ("G.", "Not testable here."),
    })
    found = {a["id"]: (a["verdict"], a["scope"]) for a in claims.record()["abstract"]}
    assert found == {
        "a": ("reproduced", "exact"), "b": ("in part", "stand-in"),
        "c": ("not reproduced", "stand-in"), "d": ("not tested", "exact"),
        "e": ("in part", "exact"), "f": ("in part", "reconstruction"), "g": ("not tested", None),
    }
    with pytest.raises(ValueError, match="called once"):
        claims.abstract({"a": ("A.", ["good"])})


@pytest.mark.parametrize(
    ("assertions", "message"),
    [
        ({}, "at least one"),
        ({"a": ("A.", ["absent"])}, "not made"),
        ({"a": ("", ["x"])}, "needs a sentence"),
        ({"a": ("A.", "")}, "needs a sentence"),
        ({"a": (r"$\\nope$", ["x"])}, "outside the small subset"),
    ],
)
def test_misuse_of_abstract(claims, assertions, message):
    claims.check("x", "S.", measured=1, equals=1, **BASE)
    with pytest.raises(ValueError, match=message):
        claims.abstract(assertions)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "Bad Id"}, "lower-case"),
        ({"id": ""}, "lower-case"),
        ({"kind": "hope"}, "kind must be"),
        ({"scope": "vague"}, "scope must be"),
        ({"scope": None}, "scope must be"),
        ({"says": "someone"}, "says must be"),
        ({"says": "book"}, "scope is for"),
        ({"source": " "}, "name the source"),
        ({"source": None}, "name the source"),
        ({"kind": "beyond"}, "said by the book"),
        ({"kind": "erratum", "says": None, "source": None, "scope": None}, "name the source"),
        ({"statement": r"$\nope$ is."}, "outside the small subset"),
        ({"statement": "Costs 5 $."}, "lone"),
        ({"below": float("inf")}, "finite"),
        ({"below": "big"}, "a number"),
        ({"statement": ""}, "must not be empty"),
        ({"kind": "control"}, "names what it controls"),
        ({"controls": "other"}, "names what it controls"),
        ({"kind": "control", "controls": "absent"}, "not a claim yet"),
        ({"above": 0.0}, "exactly one bound"),
        ({"below": None}, "exactly one bound"),
        ({"below": None, "between": (2, 1)}, "empty"),
        ({"measured": []}, "nothing was measured"),
        ({"measured": {"a": 1}}, "not a number"),
        ({"tolerance": -1}, "tolerance"),
        ({"tolerance": float("nan")}, "tolerance"),
    ],
)
def test_misuse_raises_and_keeps_nothing(claims, change, message):
    good = {"id": "x", "statement": "S.", **BASE}
    good |= {"measured": 0.1, "below": 1}
    with pytest.raises(ValueError, match=message):
        claims.check(**(good | change))
    assert len(claims) == 0


def test_duplicate_id(claims):
    claims.check("x", "A sentence.", measured=0.0, below=1, **BASE)
    with pytest.raises(ValueError, match="made already"):
        claims.not_run("x", "A sentence.", why="no GPU", **BASE)


def test_record_is_strict_json(claims):
    claims.check("x", "A sentence.", measured=float("inf"), above=1, tolerance=1, **BASE)
    claims.not_run("y", "Another.", why="no GPU", **BASE)
    record = json.loads(json.dumps(claims.record(), allow_nan=False))
    assert [c["verdict"] for c in record["claims"]] == ["reproduced", "not run"]
    assert record["claims"][0]["measured"] == "inf"
    run = record["run"]
    assert run["slug"] == "a-chapter" and run["seed"] == 3 and run["preset"] == "cpu"
    assert set(run["versions"]) == {"python", "torch", "numpy", "nclib"}


def test_report_without_a_claim(claims):
    with pytest.raises(ValueError, match="no claim"):
        claims.report()


def test_report_prints_outside_a_notebook(claims, capsys):
    claims.check("x", "A sentence.", measured=0.5, below=1, **BASE)
    claims.report()
    assert "✓ reproduced" in capsys.readouterr().out


def sanitize(text: str) -> str:
    rules = re.findall(
        r"^regex: (.*)$\n^replace: (.*)$", (ROOT / "nbval.cfg").read_text(), flags=re.MULTILINE
    )
    assert len(rules) == 5
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text)
    return text


@pytest.mark.parametrize("render", [cards.report_text, cards.report_html])
def test_reports_differ_only_where_marked(render):
    """Another machine: other values, time and device, the same verdicts → the same clean text."""
    run = {"preset": "cpu", "seed": 0, "device": "cpu", "seconds": 12.3}
    other = {"preset": "gpu", "seed": 4, "device": "NVIDIA H200", "seconds": 999.0}
    texts, shown = [], []
    for scale, facts in ((1.0, run), (1.7e-9, other)):
        claims = nclib.Claims("a-chapter", nclib.setup(0, "cpu"))
        claims.check("x", "A < b.", measured=0.3 * scale, below=1, **BASE)
        values = [0.2 * scale, -0.1 * scale, 0.2]
        claims.check("y", "Seeds.", says="book", kind="data", measured=values, below=1,
                     rival=("noise", 3 / scale), paper=0.5)
        record = claims.record()
        texts.append(render(record | {"run": facts}))
        shown.append("".join(f(c) for c in record["claims"]
                             for f in (cards.card_html, cards.card_text)))
    for a, b in (texts, shown):
        assert a != b and sanitize(a) == sanitize(b)
    flipped = texts[0].replace("1 of 1", "0 of 1")
    assert sanitize(flipped) != sanitize(texts[0])


@pytest.mark.parametrize(
    ("value", "text"),
    [(-0.00446, "−0.00446"), (1e-10, "10⁻¹⁰"), (-2.5e-7, "−2.5·10⁻⁷"), (12345.6, "12,300"),
     (99.95, "100"), (0.0, "0"), (7, "7"), (-7, "−7"), (True, "True"), ("a", "a"),
     (float("nan"), "NaN"), (float("-inf"), "−∞"), (1234567, "1,234,567")],
)
def test_numbers_for_people(value, text):
    assert cards.number(value) == text
    if not isinstance(value, str | bool):
        assert sanitize(f"≈{text}, rank 3") == "≈NUM, rank 3"


def test_number_line_marks():
    claims = nclib.Claims("a-chapter", nclib.setup(0, "cpu"))
    claims.check("x", "S.", measured=[0.2, 0.3, 0.4], between=(0.1, 0.5), rival=("noise", 0.9),
                 paper=0.25, **BASE)
    record = claims.record()["claims"][0]
    seeds = [{"value": 0.3, "verdict": "reproduced"}] * 9 + [
        {"value": "nan", "verdict": "not reproduced"}]
    html = cards.card_html(record, "a-chapter", seeds=seeds, ledger="../pages/ledger.html")
    assert html.count("<circle") == 3 and "9 of 10 seeds" in html and "noise" in html
    assert "../pages/ledger.html#a-chapter--x" in html and 'id="claim-x"' in html
    places = [float(x) for x in re.findall(r'cx="([\d.]+)"', html)]
    assert places == sorted(places) and 0 < places[0] < places[-1] < cards.WIDTH


@pytest.mark.parametrize("bare", ["0.25", "1e-10", "[28, 18, 10]", "rank 9"])
def test_sanitizer_leaves_bare_numbers(bare):
    assert sanitize(bare) == bare


@pytest.mark.parametrize("text", ["≈0.25", "≈-3.1e-12", "≈1,234", "≈nan", "≈ 7", "≈[a, b 3]",
     "≈.5", "≈NaN", "≈2.0×10⁻⁵", "≈10⁻⁵", "≈−3.1·10⁻⁷"])
def test_sanitizer_takes_marked_text(text):
    assert not re.search(r"\d", sanitize(text))


def test_lists_behind_a_mark_stay_compared():
    assert sanitize("≈99.9, rank 3") == sanitize("≈100, rank 3") == "≈NUM, rank 3"


def test_html_escapes(claims):
    claims.check("x", "a < b & c.", measured=0, below=1, note="<script>", **BASE)
    html = cards.card_html(claims.record()["claims"][0])
    assert "<script>" not in html and "a &lt; b &amp; c" in html


def test_integers_stay_integers(claims):
    claim = claims.check("x", "S.", measured=torch.tensor(7), equals=7, **BASE)
    assert claim.measured == 7 and isinstance(claim.measured, int)
    assert not math.isnan(claim.tolerance)


def test_a_claim_that_ends_a_cell_shows_nothing(claims):
    claim = claims.check("a", "One is one.", measured=1, equals=1, **BASE)
    data, metadata = InteractiveShell.instance().display_formatter.format(claim)
    assert data == {} and metadata == {}
