"""Claims: verdicts, tolerances, records, and every way to misuse them."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

import nclib
from nclib import claims as module

ROOT = Path(__file__).resolve().parent.parent
BASE = {"source": "Theorem 1", "kind": "theory"}


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
        extra = {"controls": "first"} if kind == "control" else {}
        claim = claims.check(
            id, "A sentence.", source="T", kind=kind, measured=measured, **bound, **extra
        )
        return claim.tolerance

    assert tolerance("first", "theory", 1e-12, below=1e-10) == 1e-10
    assert tolerance("b", "theory", 5.0, above=1.0) == 4.0
    assert tolerance("c", "theory", 0.5, between=(0, 2)) == 2.0
    assert tolerance("d", "data", 12, equals=12) == 0
    assert tolerance("e", "data", 12, above=3) == 0  # integers are exact
    assert tolerance("f", "data", [1.0, 2.0, 3.0], below=9) == pytest.approx(3.0)
    assert tolerance("g", "control", [1.0, 2.0, 3.0], below=9, tolerance=0.5) == 0.5
    with pytest.raises(ValueError, match="fewer than three"):
        tolerance("h", "data", 0.5, below=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "Bad Id"}, "lower-case"),
        ({"id": ""}, "lower-case"),
        ({"kind": "hope"}, "kind must be"),
        ({"scope": "vague"}, "scope must be"),
        ({"source": " "}, "must not be empty"),
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
    good = {"id": "x", "statement": "S.", "source": "T", "kind": "theory"}
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
    assert len(rules) == 2
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text)
    return text


@pytest.mark.parametrize("render", [module._as_text, module._as_html])
def test_reports_differ_only_where_marked(render):
    """Another machine: other values, time and device, the same verdicts → the same clean text."""
    run = {"preset": "cpu", "seed": 0, "device": "cpu", "seconds": 12.3}
    other = {"preset": "gpu", "seed": 4, "device": "NVIDIA [x]", "seconds": 999.0}
    texts = []
    for scale, facts in ((1.0, run), (1.7e-9, other | {"device": "NVIDIA H200"})):
        claims = nclib.Claims("a-chapter")
        claims.check("x", "A < b.", measured=0.3 * scale, below=1, **BASE)
        values = [0.2 * scale, -0.1 * scale, 0.2]
        claims.check("y", "Seeds.", source="T", kind="data", measured=values, below=1)
        texts.append(render(list(claims), facts))
    assert texts[0] != texts[1]
    assert sanitize(texts[0]) == sanitize(texts[1])
    flipped = texts[0].replace("2 of 2", "1 of 2")
    assert sanitize(flipped) != sanitize(texts[0])


@pytest.mark.parametrize("bare", ["0.25", "1e-10", "[28, 18, 10]", "rank 9"])
def test_sanitizer_leaves_bare_numbers(bare):
    assert sanitize(bare) == bare


@pytest.mark.parametrize("text", ["≈0.25", "≈-3.1e-12", "≈1,234", "≈nan", "≈ 7", "≈[a, b 3]"])
def test_sanitizer_takes_marked_text(text):
    assert not re.search(r"\d", sanitize(text))


def test_html_escapes():
    claims = nclib.Claims("a-chapter")
    claims.check("x", "a < b & c", measured=0, below=1, note="<script>", **BASE)
    html = module._as_html(list(claims), {"preset": "cpu", "seed": 0, "device": "", "seconds": 1})
    assert "<script>" not in html and "a &lt; b &amp; c" in html


def test_integers_stay_integers(claims):
    claim = claims.check("x", "S.", measured=torch.tensor(7), equals=7, **BASE)
    assert claim.measured == 7 and isinstance(claim.measured, int)
    assert not math.isnan(claim.tolerance)


def test_a_claim_that_ends_a_cell_shows_nothing(claims):
    claim = claims.check("a", "One is one.", measured=1, equals=1, **BASE)
    data, metadata = InteractiveShell.instance().display_formatter.format(claim)
    assert data == {} and metadata == {}
