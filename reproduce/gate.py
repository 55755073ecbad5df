"""What a stored notebook must be before its page is believed. Nothing is executed here.

A pull request can change a stored notebook without running it. From the record and the declaration
alone: verdicts follow from values and bounds, assertions from their claims, parameters are those
declared, and outputs hold nothing that a browser could run. That cards and report show what the
record says is checked by rendering them anew (:func:`reproduce.form.tidy`).
"""

from __future__ import annotations

import base64
import math
import re
from html.parser import HTMLParser
from typing import Any

import papermill
from nbformat import NotebookNode
from papermill.translators import translate_parameters

from nclib.claims import Claim, Claims

from . import records
from .layout import tags
from .plan import INJECTED, Variant

MIME = {"text/plain", "text/html", "image/png"}
ELEMENTS = {
    "a", "b", "br", "code", "data", "div", "em", "i", "li", "p", "small", "span", "strong", "sub",
    "sup", "table", "tbody", "td", "th", "thead", "tr", "ul", "ol",
    "svg", "g", "line", "circle", "path", "rect", "text",
}
ATTRIBUTES = {
    "class", "style", "id", "href", "title", "role", "aria-label", "data-verdict", "colspan",
    "rowspan", "viewbox", "x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "d", "width", "height",
    "fill", "stroke", "stroke-width", "stroke-opacity", "text-anchor", "font-size",
}
FORBIDDEN_STYLE = ("url(", "expression(", "@import", "position:", "<", "\\")
COMMIT = re.compile(r"[0-9a-f]{7,64}(\+changes)?")
PNG = b"\x89PNG\r\n\x1a\n"


def faults(variant: Variant, nb: NotebookNode) -> list[str]:
    """Why this notebook, said to be the stored run of ``variant``, is not believed."""
    record = records.of_notebook(nb)
    if record is None:
        return []
    return [
        *_declared(variant, nb, record["run"]),
        *(fault for claim in record["claims"] for fault in _claim(claim)),
        *_assertions(record),
        *_cards(nb, record),
        *(f"cell {i}: {fault}" for i, cell in enumerate(nb.cells) for fault in _outputs(cell)),
    ]


def _declared(variant: Variant, nb: NotebookNode, run: dict) -> list[str]:
    """The run is of this chapter, this variant, these parameters."""
    defaults = {
        name: p["default"] for name, p in papermill.inspect_notebook(nb).items()
    } if any("parameters" in tags(c) for c in nb.cells) else {}
    found = []
    wanted: dict[str, Any] = {"slug": variant.slug, "variant": variant.name}
    for key in ("seed", "preset"):
        text = defaults.get(key)
        value = variant.parameters.get(key, text.strip("\"'") if text else None)
        if value not in (None, "auto"):
            wanted[key] = value
    for key, value in wanted.items():
        if str(run.get(key)) != str(value):
            found.append(f"the record says {key} {run.get(key)!r}, declared is {value!r}")
    commit = run.get("commit")
    if commit is not None and not COMMIT.fullmatch(str(commit)):
        found.append(f"the record says commit {commit!r}, which is none")
    kept = nb.metadata.get(records.KEY, {}).get("parameters")
    if kept != variant.parameters:
        found.append(f"run with {kept!r}, declared are {variant.parameters!r}")
    injected = [c.source for c in nb.cells if INJECTED in tags(c)]
    if injected != _injected(variant.parameters):
        found.append("the injected cell is not what papermill makes of the declared parameters")
    return found


def _injected(parameters: dict) -> list[str]:
    if not parameters:
        return []
    ordered = dict(sorted(parameters.items()))  # as the runner hands them over
    return [translate_parameters("python3", "python", ordered, "Parameters")]


def _claim(claim: dict) -> list[str]:
    """The verdict follows from value and bound."""
    id = claim["id"]
    if claim["bound"] is None or claim["measured"] is None:
        fits = claim["verdict"] == "not run" and claim["bound"] is claim["measured"] is None
        return [] if fits else [f"{id}: {claim['verdict']}, with no value or no bound"]
    verdict = "reproduced" if records.holds(claim) else "not reproduced"
    found = []
    if claim["verdict"] != verdict:
        found.append(f"{id}: {claim['verdict']}, but its value and bound say {verdict}")
    values = claim["values"]
    if values and claim["measured"] not in values:
        found.append(f"{id}: the deciding value {claim['measured']!r} is none of its values")
    spread = claim["spread"]
    if spread and values and not _close(spread, [min(values), None, max(values)]):
        found.append(f"{id}: its range {spread!r} is not that of its values")
    return found


def _close(a: list, b: list) -> bool:
    return all(y is None or math.isclose(x, y, rel_tol=1e-9) for x, y in zip(a, b, strict=True))


def _assertions(record: dict) -> list[str]:
    """The verdicts of the abstract follow from those of the claims."""
    claims = Claims(record["run"]["slug"])
    try:
        claims._claims = {c["id"]: Claim(**c) for c in record["claims"]}
        claims._abstract = {
            a["id"]: (a["text"], a["claims"], a["reason"]) for a in record["abstract"]
        }
        derived = [claims._assertion(a["id"]) for a in record["abstract"]]
    except (KeyError, TypeError, ValueError) as error:
        return [f"the record is broken: {type(error).__name__}: {error}"]
    return [
        f"assertion {a['id']}: {a['verdict']}, but its claims say {b['verdict']}"
        for a, b in zip(record["abstract"], derived, strict=True) if a != b
    ]


def _cards(nb: NotebookNode, record: dict) -> list[str]:
    """One card a claim, and none besides."""
    shown = [
        o.metadata["nclib_claim"] for c in nb.cells for o in c.get("outputs", [])
        if "nclib_claim" in o.get("metadata", {})
    ]
    made = [c["id"] for c in record["claims"]]
    if sorted(shown) == sorted(made):
        return []
    odd = sorted({*shown} ^ {*made}) or sorted(i for i in {*shown} if shown.count(i) > 1)
    return [f"cards and claims differ: {', '.join(odd)}"]


def _outputs(cell: NotebookNode) -> list[str]:
    found = []
    for output in cell.get("outputs", []):
        for kind, data in output.get("data", {}).items():
            if kind not in MIME:
                found.append(f"output of type {kind}")
            elif kind == "text/html":
                found += _markup(data)
            elif kind == "image/png" and not base64.b64decode(data[:16]).startswith(PNG):
                found.append("a picture that is no PNG")
    return found


class _Markup(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.found: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        if tag not in ELEMENTS:
            self.found.append(f"HTML element <{tag}>")
        for name, value in attrs:
            value = (value or "").strip().lower()
            if name not in ATTRIBUTES:
                self.found.append(f"HTML attribute {name} on <{tag}>")
            elif name == "style" and any(f in value for f in FORBIDDEN_STYLE):
                self.found.append(f"style {value!r} on <{tag}>")
            elif name == "href" and not value.startswith(("#", "../", "https://")):
                self.found.append(f"link to {value!r}")

    def handle_decl(self, decl):
        self.found.append(f"HTML declaration {decl[:40]!r}")

    unknown_decl = handle_pi = handle_comment = handle_decl


def _markup(text: str) -> list[str]:
    """What in this HTML is not one of the elements and attributes that pages here are made of."""
    return _Markup(text).found
