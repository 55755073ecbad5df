"""Reads the claims that a notebook carries, and compares a fresh record with a stored one."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real
from pathlib import Path

from nbformat import NotebookNode

from .layout import DEFAULT, BookError, Layout, read_notebook

KEY = "nclib"  # in the metadata of the report's output, and of an executed notebook
SCHEMA = 2
DECIDING = ("verdict", "says", "kind", "scope", "bound")


def of_outputs(outputs: Iterable) -> list[dict]:
    """Records in the metadata of these outputs; normally none or one."""
    metadata = (output.get("metadata", {}) for output in outputs)
    found = [m[KEY] for m in metadata if isinstance(m.get(KEY), dict) and "claims" in m[KEY]]
    if any(r.get("schema") != SCHEMA for r in found):
        raise BookError(f"a claims report that is not of schema {SCHEMA}: run the notebook again")
    return found


def of_notebook(nb: NotebookNode) -> dict | None:
    """The record of an executed notebook, or ``None``.

    Raises:
        BookError: more than one report.
    """
    found = [r for c in nb.cells if c.cell_type == "code" for r in of_outputs(c.outputs)]
    if len(found) > 1:
        raise BookError("more than one claims report")
    return found[0] if found else None


def of_file(path: Path) -> dict | None:
    """The record stored in a notebook file; ``None`` without the file or a record."""
    if not path.exists():
        return None
    try:
        return of_notebook(read_notebook(path))
    except BookError as error:
        raise BookError(f"{path}: {error}" if str(path) not in str(error) else error) from None


def of_preset(layout: Layout, slug: str, preset: str) -> dict | None:
    """The stored record of a chapter for a preset: the chapter's own, else the variant's."""
    for variant in (DEFAULT, preset):
        record = of_file(layout.stored(slug, variant))
        if record and record["run"]["preset"] == preset:
            return record
    return None


def reference(layout: Layout, slug: str, variant: str, preset: str) -> tuple[dict | None, bool]:
    """The stored record to compare a fresh one with, and whether its values count too.

    Like is compared with like. Values count against the same variant and preset; against another
    seed or preset of the chapter only the verdicts do.
    """
    own = of_file(layout.stored(slug, variant))
    if own and own["run"]["preset"] == preset:
        return own, True
    same = of_preset(layout, slug, preset)
    if same:
        return same, variant == DEFAULT
    return of_file(layout.chapter(slug)), False


#: Claims about a ratio of two times: it follows the machine and what else runs there, so their
#: verdict is compared and not their value.
OF_TIME = frozenset({"batched-is-fast", "svd-beats-warm-start"})


def compare(stored: dict, fresh: dict, *, verdicts_only: bool = False) -> list[str]:
    """Differences between two records, one sentence each; empty where they agree.

    A difference is a missing or new claim, a changed verdict (in either direction), kind, scope or
    bound, and a value further from the stored one than the stored claim's own tolerance and a
    hundredth of the way to its bound. With ``verdicts_only``, changed verdicts and missing or new
    claims alone.
    """
    old = {c["id"]: c for c in stored["claims"]}
    new = {c["id"]: c for c in fresh["claims"]}
    differences = [f"{id}: claim is missing" for id in old if id not in new]
    differences += [f"{id}: claim is new" for id in new if id not in old]
    keys = ("verdict",) if verdicts_only else DECIDING
    for id in [id for id in old if id in new]:
        a, b = old[id], new[id]
        for key in keys:
            if not _same(a.get(key), b.get(key)):
                differences.append(f"{id}: {key} was {_show(a.get(key))}, now {_show(b.get(key))}")
        if not verdicts_only and not _close(a, b["measured"]):
            allowed = _allowed(a)
            differences.append(
                f"{id}: measured {b['measured']!r}, stored {a['measured']!r} ± {allowed!r}"
            )
    return differences


def agrees(claim: dict, value, verdict) -> bool:
    """Does another run of the same preset and seed agree with a stored claim?"""
    return claim["verdict"] == verdict and _close(claim, value)


def _close(claim: dict, value) -> bool:
    """Is a value within the stored claim's own tolerance, where values are compared at all?"""
    return claim["id"] in OF_TIME or _within(claim["measured"], value, _allowed(claim))


def _allowed(claim: dict) -> float:
    return max(claim["tolerance"] or 0.0, _rounding(claim))


def _rounding(claim: dict) -> float:
    """A hundredth of the way to the bound: so far another processor's rounding may carry a value.

    Seeds that agree to the last digit have no spread, so the tolerance drawn from it is zero.
    Counts are not rounded.
    """
    value, bound = claim["measured"], claim["bound"]
    if not isinstance(value, float) or not math.isfinite(value):
        return 0.0
    if bound is None or bound["op"] == "equals":
        return 0.0
    limits = bound["value"] if isinstance(bound["value"], list) else [bound["value"]]
    return min(abs(value - limit) for limit in limits) / 100


def _number(v) -> bool:
    return isinstance(v, Real) and not isinstance(v, bool)


def _within(a, b, tolerance: float) -> bool:
    """Is ``b`` within ``tolerance`` of ``a``? What is not a number must be equal."""
    if _number(a) and _number(b):
        return a == b or abs(a - b) <= tolerance * (1 + 1e-12)
    return type(a) is type(b) and a == b


def _same(a, b) -> bool:
    """Equal, up to the last digits of a computed bound."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if _number(a) and _number(b):
        return math.isclose(a, b, rel_tol=1e-9)
    return type(a) is type(b) and a == b


def _show(value) -> str:
    if isinstance(value, dict):
        return f"{value.get('op')} {value.get('value')}"
    return str(value)


def score(record: dict) -> dict:
    """Three counts that are never added up, each ``{"reproduced": n, "total": n}``."""
    from nclib.cards import score as counts

    return counts(record)


def score_text(record: dict) -> str:
    """The three counts for a line of the terminal."""
    counts = score(record)
    words = {"work": "work", "controls": "controls", "book": "book"}
    return " · ".join(
        f"{word} {counts[key]['reproduced']}/{counts[key]['total']}" for key, word in words.items()
    )


def holds(claim: dict) -> bool | None:
    """Does the bound hold for every measured value, and not for the rival? From the record alone.

    ``None`` where the record does not say enough to decide.
    """
    if claim["bound"] is None:
        return None
    op, bound = claim["bound"]["op"], claim["bound"]["value"]
    values = claim.get("values") or [claim["measured"], *(claim.get("spread") or ())]
    inside = all(within_bound(v, op, bound) for v in values)
    rival = (claim.get("rival") or {}).get("value")
    if rival is not None:
        rival = rival if isinstance(rival, list) else [rival]
        inside = inside and not any(within_bound(v, op, bound) for v in rival)
    return inside


def within_bound(v, op: str, bound) -> bool:
    """Is one value inside its bound? What is not a number is outside all but ``equals``."""
    if op == "equals":
        return v == bound
    if v in ("inf", "-inf"):
        v = float(v)
    if not _number(v) or math.isnan(v):
        return False
    if op == "below":
        return v <= bound
    return v >= bound if op == "above" else bound[0] <= v <= bound[1]
