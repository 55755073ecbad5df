"""Claims: sentences that could be false, each with the number that decides it.

A notebook opens one :class:`Claims`, calls :meth:`Claims.check` where a number is known and
:meth:`Claims.report` in its last code cell. The report shows a table; the raw record travels in
that output's metadata under the key ``nclib``, so the executed notebook is the one record of a run.
:mod:`nclib.cards` draws them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Integral, Real
from typing import Any

from . import cards, runtime
from ._tex import tex_to_html
from .cards import card_html as card_html
from .cards import number as number
from .cards import score as score

SCHEMA = 2
SAYS = ("work", "book")
KINDS = ("theory", "dynamics", "data", "control", "erratum", "beyond")
SCOPES = ("exact", "stand-in", "reconstruction")
VERDICTS = ("reproduced", "not reproduced", "not run")

REPRODUCED, NOT_REPRODUCED, NOT_RUN = VERDICTS


@dataclass(frozen=True)
class Claim:
    """One claim with its verdict. ``measured`` is the deciding value: the one nearest to failing.

    ``says`` is ``"work"`` or ``"book"``; ``scope`` is set for the work's statements alone.
    ``bound`` is ``{"op": "below"|"above"|"between"|"equals", "value": ...}``; ``tolerance`` is the
    absolute distance that ``measured`` may keep from the stored value of the same preset;
    ``values`` are the measured values where there are at most twelve, ``spread`` is
    ``[min, median, max]`` where there are several; ``paper`` is the work's own value
    (``paper_value`` where it is a number); ``rival`` is ``{"name": …, "value": [...]}``, the
    trivial competitor that must not satisfy the bound.
    """

    id: str
    statement: str
    says: str
    source: str | None
    kind: str
    scope: str | None
    measured: float | int | str | bool | None
    values: list[float] | None
    bound: dict | None
    tolerance: float | None
    paper: str | None
    paper_value: float | None
    rival: dict | None
    verdict: str
    seeds: int
    spread: list[float] | None = None
    controls: str | None = None
    note: str = ""

    def _ipython_display_(self) -> None:
        """Nothing: :meth:`Claims.check` has shown the card already."""


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
        self._abstract: dict[str, tuple[str, list[str], str | None]] = {}

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
        kind: str,
        measured: Any,
        says: str | None = None,
        source: str | None = None,
        scope: str | None = None,
        below: float | None = None,
        above: float | None = None,
        between: tuple[float, float] | None = None,
        equals: float | int | str | bool | None = None,
        rival: tuple[str, Any] | None = None,
        paper: str | float | None = None,
        tolerance: float | None = None,
        seeds: int | None = None,
        controls: str | None = None,
        note: str = "",
    ) -> Claim:
        """Decide one claim, keep it and show its card.

        Args:
            id: short, stable, unique in the chapter (lower case, digits, hyphens).
            statement: one sentence that could be false; symbols as ``$…$`` (small TeX subset).
            kind: one of ``KINDS``. A ``control`` names in ``controls`` the claim that it guards,
                and takes ``says`` and ``scope`` from it.
            measured: a number, or one number a seed (list, array, tensor). With several, every one
                must satisfy the bound, and the one nearest to failing is recorded.
            says: ``"work"`` (then ``source`` and ``scope`` are required) or ``"book"``.
            source: where the work states it: theorem, figure, table, sentence of the abstract.
            scope: one of ``SCOPES``; for the work's statements only.
            below, above, between, equals: exactly one bound; inclusive, finite.
            rival: name and value(s) of a trivial competitor (random frame, noise, identity). Where
                one of its values satisfies the bound, the claim is not reproduced.
            paper: the work's own value, where known.
            tolerance: allowed distance from the stored value of the same preset. Default: zero for
                integers and ``equals``; three standard deviations for three or more seeds; half the
                margin to the bound for theory. Otherwise it must be given. Never more than half the
                margin.
            seeds: how many seeds the value rests on (default: the number of values).

        Raises:
            ValueError: bad id, kind, says, scope or formula, a duplicate, not exactly one bound, a
                bound that is not finite, no measured value, an unknown ``controls``, or no
                tolerance where none can be derived.
        """
        says, scope = self._validate(id, statement, says, source, kind, scope, controls, note)
        bounds = {"below": below, "above": above, "between": between, "equals": equals}
        given = {op: v for op, v in bounds.items() if v is not None}
        if len(given) != 1:
            raise ValueError(f"claim {id!r}: give exactly one bound, got {sorted(given) or 'none'}")
        op, value = _bound(id, *next(iter(given.items())))
        values = _values(measured, id)
        deciding = min(values, key=lambda v: _margin(v, op, value))
        holds = _margin(deciding, op, value) >= 0
        paper, paper_value = _paper(paper)
        if rival is not None:
            name, other = rival[0], _values(rival[1], id)
            tex_to_html(name)
            if any(_margin(v, op, value) >= 0 for v in other):
                holds = False
                note = f"{note} The competitor ({name}) satisfies the bound too.".strip()
            rival = {"name": name, "value": [_plain(v) for v in other]}
        claim = Claim(
            id=id,
            statement=statement,
            says=says,
            source=source,
            kind=kind,
            scope=scope,
            measured=_plain(deciding),
            values=_shown(values),
            bound={"op": op, "value": value},
            tolerance=_tolerance(id, kind, op, value, values, deciding, tolerance),
            paper=paper,
            paper_value=paper_value,
            rival=rival,
            verdict=REPRODUCED if holds else NOT_REPRODUCED,
            seeds=len(values) if seeds is None else int(seeds),
            spread=_spread(values),
            controls=controls,
            note=note,
        )
        return self._keep(claim)

    def not_run(
        self, id: str, statement: str, *, kind: str, why: str, says: str | None = None,
        source: str | None = None, scope: str | None = None, paper: str | float | None = None,
        controls: str | None = None,
    ) -> Claim:
        """Keep a claim that this run does not decide, with the reason."""
        says, scope = self._validate(id, statement, says, source, kind, scope, controls, why)
        paper, paper_value = _paper(paper)
        return self._keep(Claim(
            id=id, statement=statement, says=says, source=source, kind=kind, scope=scope,
            measured=None, values=None, bound=None, tolerance=None, paper=paper,
            paper_value=paper_value, rival=None, verdict=NOT_RUN, seeds=0, controls=controls,
            note=why,
        ))

    def _keep(self, claim: Claim) -> Claim:
        self._claims[claim.id] = claim
        record = asdict(claim)
        cards.show(cards.card_text(record), cards.card_html(record, self.slug),
                   {"nclib_claim": claim.id})
        return claim

    def _validate(self, id, statement, says, source, kind, scope, controls, note):
        if not id or not all(c.isdigit() or c == "-" or ("a" <= c <= "z") for c in id):
            raise ValueError(f"claim id must be lower-case letters, digits, hyphens: {id!r}")
        if id in self._claims:
            raise ValueError(f"claim {id!r} was made already")
        if not statement.strip():
            raise ValueError(f"claim {id!r}: the statement must not be empty")
        for text in (statement, source or "", note):
            tex_to_html(text)
        if kind not in KINDS:
            raise ValueError(f"claim {id!r}: kind must be one of {KINDS}, got {kind!r}")
        if (kind == "control") != (controls is not None):
            raise ValueError(f"claim {id!r}: a control, and only a control, names what it controls")
        if controls is not None:
            if controls not in self._claims:
                raise ValueError(f"claim {id!r}: controls {controls!r}, which is not a claim yet")
            guarded = self._claims[controls]
            return guarded.says, guarded.scope
        if kind in ("erratum", "beyond"):
            if says == "work":
                raise ValueError(f"claim {id!r}: what is {kind} is said by the book")
            says = "book"
        if says not in SAYS:
            raise ValueError(f"claim {id!r}: says must be one of {SAYS}, got {says!r}")
        if (says == "work" or kind == "erratum") and not (source or "").strip():
            raise ValueError(f"claim {id!r}: name the source in the work")
        if says == "book":
            if scope is not None:
                raise ValueError(f"claim {id!r}: scope is for the work's statements")
        elif scope not in SCOPES:
            raise ValueError(f"claim {id!r}: scope must be one of {SCOPES}, got {scope!r}")
        return says, scope

    def abstract(self, assertions: Mapping[str, tuple[str, Sequence[str] | str]]) -> None:
        """Account for every assertion of the work's abstract.

        Args:
            assertions: key → (sentence in our words, ids of the claims that decide it), or
                (sentence, why it is not tested).

        The verdict is derived: *reproduced* where every claim is reproduced and every control of
        those claims holds, *not reproduced* where none of the claims is, *not tested* where none
        ran, otherwise *in part*; the scope is the weakest of the claims.

        Raises:
            ValueError: no assertion, an unknown id, an empty sentence or reason, a formula outside
                the subset, or a second call.
        """
        if self._abstract or not assertions:
            raise ValueError("claims.abstract is called once, with at least one assertion")
        kept = {}
        for key, (text, by) in assertions.items():
            reason = by if isinstance(by, str) else None
            ids = [] if reason is not None else list(by)
            unknown = [i for i in ids if i not in self._claims]
            if unknown:
                raise ValueError(f"assertion {key!r} names claims that were not made: {unknown}")
            if not text.strip() or (not ids and not (reason or "").strip()):
                raise ValueError(f"assertion {key!r} needs a sentence, and claims or a reason")
            tex_to_html(text + (reason or ""))
            kept[key] = (text, ids, reason)
        self._abstract = kept

    def _assertion(self, key: str) -> dict:
        text, ids, reason = self._abstract[key]
        claims = [self._claims[i] for i in ids]
        guards = [c for c in self if c.controls in ids and c.id not in ids]
        verdicts = [c.verdict for c in claims]
        if all(v == NOT_RUN for v in verdicts):
            verdict = "not tested"
        elif all(v == REPRODUCED for v in verdicts) and all(
            c.verdict != NOT_REPRODUCED for c in guards
        ):
            verdict = REPRODUCED
        elif REPRODUCED not in verdicts:
            verdict = NOT_REPRODUCED
        else:
            verdict = "in part"
        scopes = [SCOPES.index(c.scope) for c in claims if c.scope]
        scope = SCOPES[max(scopes)] if scopes else None
        return {"id": key, "text": text, "claims": ids, "reason": reason, "verdict": verdict,
                "scope": scope}

    def record(self) -> dict:
        """The raw record, ready for JSON: ``{"schema", "claims", "abstract", "run"}``."""
        run = self._run or runtime.current()
        return {
            "schema": SCHEMA,
            "claims": [asdict(c) for c in self],
            "abstract": [self._assertion(key) for key in self._abstract],
            "run": {"slug": self.slug, "variant": "default", **run.provenance()},
        }

    def report(self) -> None:
        """Show the assertions and one line a claim, with the record in the output's metadata.

        Without IPython the text is printed.

        Raises:
            ValueError: no claim was made.
        """
        if not self._claims:
            raise ValueError(f"no claim was made for {self.slug!r}")
        record = self.record()
        cards.show(cards.report_text(record), cards.report_html(record), {"nclib": record})


def _scalar(v):
    """A Python scalar from a 0-d tensor or NumPy value."""
    return v.item() if hasattr(v, "item") else v


def _bound(id: str, op: str, value) -> tuple[str, Any]:
    if op == "between":
        low, high = (float(_scalar(v)) for v in value)
        if not low <= high:
            raise ValueError(f"claim {id!r}: between=({low}, {high}) is empty")
        value = [low, high]
    else:
        value = _scalar(value)
    for v in value if op == "between" else [value]:
        if isinstance(v, Real) and not math.isfinite(v):
            raise ValueError(f"claim {id!r}: a bound must be finite, got {v}")
        if not isinstance(v, Real) and not (op == "equals" and isinstance(v, str)):
            raise ValueError(f"claim {id!r}: a bound must be a number, got {v!r}")
    return op, value


def _paper(paper) -> tuple[str | None, float | None]:
    paper = _scalar(paper)
    if paper is None:
        return None, None
    if isinstance(paper, Real) and not isinstance(paper, bool):
        return str(paper), float(paper)
    tex_to_html(str(paper))
    return str(paper), None


def _shown(values: list) -> list[float] | None:
    """The values for the number line, where they are few and finite numbers."""
    if len(values) > cards.DOTS or any(isinstance(v, str) or not math.isfinite(v) for v in values):
        return None
    return [float(v) for v in values]


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
    margin = _margin(deciding, op, bound)
    cap = abs(margin) / 2 if math.isfinite(margin) else 0.0
    if given is not None:
        given = float(_scalar(given))
        if not given >= 0:
            raise ValueError(f"claim {id!r}: tolerance must be ≥ 0, got {given}")
        return min(given, cap)
    if op == "equals" or all(isinstance(v, Integral) for v in values):
        return 0.0
    if kind == "theory" or not all(math.isfinite(v) for v in values):
        return cap
    if len(values) >= 3:
        return min(3 * statistics.stdev(map(float, values)), cap)
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
