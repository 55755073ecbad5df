"""The first form of claims, for chapters that are not yet converted. It goes with the last of them.

A notebook opens one :class:`Claims`, calls :meth:`Claims.check` where a number is known and
:meth:`Claims.report` in its last code cell. The report shows a table; the raw record travels in
that output's metadata under the key ``nclib``, so the executed notebook is the one record of a run.
"""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from numbers import Integral, Real
from typing import Any

from . import runtime

KINDS = ("theory", "dynamics", "data", "control", "erratum", "beyond")
SCOPES = ("exact", "stand-in", "reconstruction")
VERDICTS = ("reproduced", "not reproduced", "not run")

REPRODUCED, NOT_REPRODUCED, NOT_RUN = VERDICTS


@dataclass(frozen=True)
class Claim:
    """One claim with its verdict. ``measured`` is the deciding value: the one nearest to failing.

    ``bound`` is ``{"op": "below"|"above"|"between"|"equals", "value": ...}``; ``tolerance`` is the
    absolute distance that ``measured`` may keep from the stored value of the same preset;
    ``spread`` is ``[min, median, max]`` where several values were measured, one a seed.
    """

    id: str
    statement: str
    source: str
    kind: str
    scope: str
    measured: float | int | str | bool | None
    bound: dict | None
    tolerance: float | None
    paper: str | None
    verdict: str
    seeds: int
    spread: list[float] | None = None
    controls: str | None = None
    note: str = ""

    def _ipython_display_(self) -> None:
        """Nothing: a cell that ends with ``claims.check(...)`` shows no claim; the report does.

        A closing semicolon is not enough, because it does not work where a cell runs without
        history, as under nbval.
        """


class Claims:
    """The claims of one chapter run.

    Args:
        slug: the chapter, e.g. ``"geometric-analysis"``.
        run: the :class:`nclib.Run`; by default that of the last :func:`nclib.setup`.
    """

    def __init__(self, slug: str, run: runtime.Run | None = None):
        self.slug = slug
        self._run = run
        self._claims: dict[str, Claim] = {}

    def __iter__(self):
        return iter(self._claims.values())

    def __len__(self) -> int:
        return len(self._claims)

    def __getitem__(self, id: str) -> Claim:
        return self._claims[id]

    def check(
        self,
        id: str,
        statement: str,
        *,
        source: str,
        kind: str,
        measured: Any,
        below: float | None = None,
        above: float | None = None,
        between: tuple[float, float] | None = None,
        equals: float | int | str | bool | None = None,
        tolerance: float | None = None,
        paper: str | float | None = None,
        scope: str = "exact",
        seeds: int | None = None,
        controls: str | None = None,
        note: str = "",
    ) -> Claim:
        """Decide one claim and keep it.

        Args:
            id: short, stable, unique in the chapter (lower case, digits, hyphens).
            statement: one sentence that could be false.
            source: where the work states it ("Theorem 3.1", "Figure 4"), or "this chapter".
            kind: one of ``KINDS``. A ``control`` names in ``controls`` the claim that it guards.
            measured: a number, or one number a seed (list, array, tensor). With several, every one
                must satisfy the bound, and the one nearest to failing is recorded.
            below, above, between, equals: exactly one bound; inclusive.
            tolerance: allowed distance from the stored value of the same preset. Default: zero for
                integers and ``equals``; the scale of the bound for theory; three standard
                deviations for three or more seeds. Otherwise it must be given.
            paper: the work's own value, where known.
            scope: one of ``SCOPES``.
            seeds: how many seeds the value rests on (default: the number of values).

        Raises:
            ValueError: bad id, kind or scope, a duplicate, not exactly one bound, no measured
                value, an unknown ``controls``, or no tolerance where none can be derived.
        """
        self._validate(id, statement, source, kind, scope, controls)
        bounds = {"below": below, "above": above, "between": between, "equals": equals}
        given = {op: v for op, v in bounds.items() if v is not None}
        if len(given) != 1:
            raise ValueError(f"claim {id!r}: give exactly one bound, got {sorted(given) or 'none'}")
        (op, value), = given.items()
        if op == "between":
            value = [float(value[0]), float(value[1])]
            if not value[0] <= value[1]:
                raise ValueError(f"claim {id!r}: between=({value[0]}, {value[1]}) is empty")
        values = _values(measured, id)
        deciding = min(values, key=lambda v: _margin(v, op, value))
        holds = _margin(deciding, op, value) >= 0
        claim = Claim(
            id=id,
            statement=statement,
            source=source,
            kind=kind,
            scope=scope,
            measured=_plain(deciding),
            bound={"op": op, "value": _plain(value)},
            tolerance=_tolerance(id, kind, op, value, values, deciding, tolerance),
            paper=None if paper is None else str(paper),
            verdict=REPRODUCED if holds else NOT_REPRODUCED,
            seeds=len(values) if seeds is None else int(seeds),
            spread=_spread(values),
            controls=controls,
            note=note,
        )
        self._claims[id] = claim
        return claim

    def not_run(
        self, id: str, statement: str, *, source: str, kind: str, why: str,
        scope: str = "exact", paper: str | float | None = None, controls: str | None = None,
    ) -> Claim:
        """Keep a claim that this run does not decide, with the reason."""
        self._validate(id, statement, source, kind, scope, controls)
        claim = Claim(
            id=id, statement=statement, source=source, kind=kind, scope=scope, measured=None,
            bound=None, tolerance=None, paper=None if paper is None else str(paper),
            verdict=NOT_RUN, seeds=0, controls=controls, note=why,
        )
        self._claims[id] = claim
        return claim

    def _validate(self, id, statement, source, kind, scope, controls) -> None:
        if not id or not all(c.isdigit() or c == "-" or ("a" <= c <= "z") for c in id):
            raise ValueError(f"claim id must be lower-case letters, digits, hyphens: {id!r}")
        if id in self._claims:
            raise ValueError(f"claim {id!r} was made already")
        if not statement.strip() or not source.strip():
            raise ValueError(f"claim {id!r}: statement and source must not be empty")
        if kind not in KINDS:
            raise ValueError(f"claim {id!r}: kind must be one of {KINDS}, got {kind!r}")
        if scope not in SCOPES:
            raise ValueError(f"claim {id!r}: scope must be one of {SCOPES}, got {scope!r}")
        if (kind == "control") != (controls is not None):
            raise ValueError(f"claim {id!r}: a control, and only a control, names what it controls")
        if controls is not None and controls not in self._claims:
            raise ValueError(f"claim {id!r}: controls {controls!r}, which is not a claim yet")

    def record(self) -> dict:
        """The raw record: ``{"claims": [...], "run": {...}}``, ready for JSON."""
        run = self._run or runtime.current()
        return {
            "claims": [asdict(c) for c in self],
            "run": {"slug": self.slug, "variant": "default", **run.provenance()},
        }

    def report(self) -> None:
        """Show one row a claim, as text and HTML, with the record in the output's metadata.

        Without IPython the text table is printed.

        Raises:
            ValueError: no claim was made.
        """
        if not self._claims:
            raise ValueError(f"no claim was made for {self.slug!r}")
        record = self.record()
        text = _as_text(list(self), record["run"])
        try:
            from IPython import get_ipython
            from IPython.display import display
        except ImportError:
            print(text)
            return
        if get_ipython() is None:
            print(text)
            return
        data = {"text/plain": text, "text/html": _as_html(list(self), record["run"])}
        display(data, raw=True, metadata={"nclib": record})


def _values(measured: Any, id: str) -> list:
    """Measured value(s) as a flat list of Python scalars."""
    if hasattr(measured, "detach"):
        measured = measured.detach().cpu()
    if hasattr(measured, "tolist"):
        measured = measured.tolist()
    flat: list = []

    def walk(x):
        if isinstance(x, Sequence) and not isinstance(x, str):
            for y in x:
                walk(y)
        else:
            flat.append(x.item() if hasattr(x, "item") else x)

    walk(measured)
    if not flat:
        raise ValueError(f"claim {id!r}: nothing was measured")
    for v in flat:
        if not isinstance(v, Real | str):
            raise ValueError(f"claim {id!r}: measured {v!r} is not a number")
    return flat


def _margin(v, op: str, bound) -> float:
    """Distance of ``v`` inside its bound; negative outside; NaN is always outside."""
    if op == "equals":
        return 0.0 if v == bound else -1.0
    if isinstance(v, str) or math.isnan(v):
        return -math.inf
    if op == "below":
        return bound - v
    if op == "above":
        return v - bound
    return min(v - bound[0], bound[1] - v)


def _tolerance(id, kind, op, bound, values, deciding, given) -> float:
    if given is not None:
        if not given >= 0:
            raise ValueError(f"claim {id!r}: tolerance must be ≥ 0, got {given}")
        return float(given)
    if op == "equals" or all(isinstance(v, Integral) for v in values):
        return 0.0
    finite = [float(v) for v in values if math.isfinite(v)]
    if kind == "theory":
        if op == "between":
            return bound[1] - bound[0]
        return abs(bound) if op == "below" else abs(deciding - bound)
    if len(finite) >= 3:
        return 3 * statistics.stdev(finite)
    raise ValueError(f"claim {id!r}: fewer than three values, so give its tolerance")


def _spread(values: list) -> list[float] | None:
    if len(values) < 2 or any(isinstance(v, str) or not math.isfinite(v) for v in values):
        return None
    values = [float(v) for v in values]
    return [min(values), statistics.median(values), max(values)]


def _plain(v):
    """JSON has no NaN and no infinities: they become strings."""
    if isinstance(v, list):
        return [_plain(x) for x in v]
    if isinstance(v, float) and not math.isfinite(v):
        return str(v)
    return v


# --- presentation: every number that may vary between runs carries a leading ≈ ------------------

_MARK = {REPRODUCED: "✓", NOT_REPRODUCED: "✗", NOT_RUN: "–"}
_OPS = {"below": "≤", "above": "≥", "equals": "="}


def _number(v) -> str:
    if isinstance(v, bool) or not isinstance(v, Real):
        return str(v)
    return str(v) if isinstance(v, Integral) else f"{v:.3g}"


def _measured_text(c: Claim) -> str:
    if c.verdict == NOT_RUN:
        return "–"
    text = f"≈{_number(c.measured)}"
    if c.spread:
        text += f" in ≈{_number(c.spread[0])} to ≈{_number(c.spread[2])}"
    return text


def _bound_text(c: Claim) -> str:
    if c.bound is None:
        return "–"
    op, value = c.bound["op"], c.bound["value"]
    if op == "between":
        return f"{_number(value[0])} to {_number(value[1])}"
    return f"{_OPS[op]} {_number(value)}"


def _summary(claims: list[Claim], run: dict) -> str:
    done = sum(c.verdict == REPRODUCED for c in claims)
    stamp = f"{run['preset']} preset, seed {run['seed']}, {run['device']}, {run['seconds']:.0f} s"
    return f"{done} of {len(claims)} claims reproduced ≈[{stamp}]"


def _as_text(claims: list[Claim], run: dict) -> str:
    rows = [
        f"{_MARK[c.verdict]} {c.verdict:<14}  {c.id:<28}  {c.kind:<8}  {c.scope:<14}  "
        f"{_bound_text(c):<14}  {_measured_text(c)}"
        for c in claims
    ]
    return "\n".join([_summary(claims, run), *rows])


def _as_html(claims: list[Claim], run: dict) -> str:
    head = "".join(
        f"<th>{h}</th>"
        for h in ("", "Claim", "Source", "Kind", "Scope", "Bound", "Measured", "Work's value")
    )
    rows = []
    for c in claims:
        note = f"<br><small>{html.escape(c.note)}</small>" if c.note else ""
        cells = [
            f'<td title="{c.verdict}">{_MARK[c.verdict]}&nbsp;{c.verdict}</td>',
            f"<td><code>{c.id}</code><br>{html.escape(c.statement)}{note}</td>",
            *(
                f"<td>{html.escape(x)}</td>"
                for x in (c.source, c.kind, c.scope, _bound_text(c), _measured_text(c),
                          c.paper or "–")
            ),
        ]
        rows.append("<tr>" + "".join(cells) + "</tr>")
    return (
        f'<div class="nclib-claims"><p>{html.escape(_summary(claims, run))}</p>'
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )
