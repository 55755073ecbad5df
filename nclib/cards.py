"""How claims look: cards in place, the closing report, tables. HTML that needs no style sheet.

A number that may differ between runs stands in ``<data class="nclib-x">`` (HTML) or behind ≈ (plain
text); nbval's rules know both, and a reader of the page never sees a mark.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from numbers import Integral, Real

from ._tex import tex_to_html, tex_to_text

MARK = {"reproduced": "✓", "not reproduced": "✗", "not run": "–", "in part": "◐",
        "not tested": "–"}
OPS = {"below": "≤", "above": "≥", "equals": "="}
COLOR = {
    "reproduced": "var(--nclib-good,#168a60)",
    "not reproduced": "var(--nclib-bad,#cc5a1e)",
    "in part": "var(--nclib-part,#a87b00)",
}
NONE = "var(--nclib-none,#7a8290)"
SCOPE = {"exact": "in the work's own setting", "stand-in": "on a stand-in",
         "reconstruction": "as reconstructed"}
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(v) -> str:
    """A number for people: three digits, ``−1.2·10⁻⁵`` where very small or large.

    >>> number(-0.0000123), number(0.25), number(7), number(12345.6)
    ('−1.23·10⁻⁵', '0.25', '7', '12,300')
    """
    if isinstance(v, bool) or not isinstance(v, Real):
        return str(v)
    if isinstance(v, Integral):
        return f"{int(v):,}".replace("-", "−")
    v = float(v)
    if not math.isfinite(v):
        return {math.inf: "∞", -math.inf: "−∞"}.get(v, "NaN")
    if v == 0:
        return "0"
    if 1e-3 <= abs(v) < 1e5:
        digits = max(0, 2 - math.floor(math.log10(abs(v)))) if abs(v) < 100 else 0
        rounded = float(f"{v:.3g}")
        text = f"{rounded:,.{digits}f}"
        if "." in text:
            text = text.rstrip("0").rstrip(".")
        return text.replace("-", "−")
    digits, exponent = f"{v:.2e}".split("e")
    digits = digits.rstrip("0").rstrip(".")
    power = f"10{str(int(exponent)).translate(_SUPERSCRIPT)}"
    text = power if digits == "1" else f"{digits}·{power}"
    return text.replace("-", "−")


def _bare(text: str) -> str:
    """Without square brackets, which end nbval's ≈[…]."""
    return text.replace("[", "(").replace("]", ")")


def varying(text: str) -> str:
    """HTML of a value that nbval must not compare."""
    return f'<data class="nclib-x">{html.escape(text)}</data>'


def bound_text(claim: dict) -> str:
    """``≤ 0.1``, ``0.8 … 1.2``; ``–`` without a bound."""
    if claim["bound"] is None:
        return "–"
    op, value = claim["bound"]["op"], claim["bound"]["value"]
    if op == "between":
        return f"{number(value[0])} … {number(value[1])}"
    return f"{OPS[op]} {number(value)}"


def measured_text(claim: dict) -> str:
    """The deciding value, with the range where several were measured."""
    if claim["measured"] is None:
        return "–"
    text = number(claim["measured"])
    if claim.get("spread"):
        text += f" ({number(claim['spread'][0])} … {number(claim['spread'][2])})"
    return text


def about(claim: dict) -> str:
    """Who says it, where, which kind and scope, as plain words."""
    if claim["kind"] == "control":
        who = f"control of {claim['controls']}"
    elif claim["says"] == "work":
        who = claim["source"]
    else:
        who = "erratum: " + claim["source"] if claim["kind"] == "erratum" else "this book"
    parts = [who, claim["kind"] if claim["kind"] != "control" else None, claim["scope"]]
    if claim["says"] == "book":
        parts.pop()
    return " · ".join(p for p in parts if p)


def show(text: str, html: str, metadata: dict) -> None:
    """Display as text and HTML; without a notebook print the text."""
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        print(text)
        return
    if get_ipython() is None:
        print(text)
        return
    display({"text/plain": text, "text/html": html}, raw=True, metadata=metadata)


# --- the number line ------------------------------------------------------------------------------

WIDTH, PAD = 340, 8
DOTS = 12  # of more values the record keeps the range and the median


def _finite(values) -> list[float]:
    return [float(v) for v in values
            if isinstance(v, Real) and not isinstance(v, bool) and math.isfinite(v)]


def _scale(points: list[float]):
    """Map values to pixels: logarithmic where all are ≥ 0 and span more than a factor of 20."""
    positive = [p for p in points if p > 0]
    if positive and min(points) >= 0 and max(positive) > 20 * min(positive):
        floor = min(positive) / (10 if 0.0 in points else 1)

        def value(v):
            return math.log(max(v, floor))
    else:

        def value(v):
            return v
    low, high = value(min(points)), value(max(points))
    room = 0.06 * (high - low) or max(abs(high), 1.0) * 0.1
    low, high = low - room, high + room

    def place(v) -> float:
        return round(PAD + (value(v) - low) / (high - low) * (WIDTH - 2 * PAD), 1)

    return place


def line_svg(claim: dict, seeds: Sequence[dict] | None = None) -> str:
    """The measured values against the bound, the work's value and the rival; empty without one."""
    bound = claim["bound"]
    if bound is None or bound["op"] == "equals":
        return ""
    edges = _finite(bound["value"] if bound["op"] == "between" else [bound["value"]])
    values = _finite(claim.get("values") or claim.get("spread") or [claim["measured"]])
    if not values or not edges:
        return ""
    paper = _finite([claim.get("paper_value")])
    rival = _finite((claim.get("rival") or {}).get("value", []))
    ticks = _finite(s.get("value") for s in seeds or ())
    place = _scale([*edges, *values, *paper, *rival, *ticks])
    start = place(edges[0]) if bound["op"] != "below" else PAD
    end = place(edges[-1]) if bound["op"] != "above" else WIDTH - PAD
    color = COLOR.get(claim["verdict"], NONE)
    y = 14
    parts = [
        f'<line x1="{PAD}" x2="{WIDTH - PAD}" y1="{y}" y2="{y}" stroke="currentColor" '
        'stroke-opacity=".35"/>',
        f'<line x1="{start}" x2="{end}" y1="{y}" y2="{y}" stroke="{COLOR["reproduced"]}" '
        'stroke-width="5" stroke-opacity=".35"/>',
    ]
    parts += [f'<line x1="{place(e)}" x2="{place(e)}" y1="5" y2="23" stroke="currentColor" '
              'stroke-width="2"/>' for e in edges]
    if len(values) > 1:
        parts.append(f'<line x1="{place(min(values))}" x2="{place(max(values))}" y1="{y}" '
                     f'y2="{y}" stroke="{color}" stroke-width="3"/>')
    parts += [f'<circle cx="{place(v)}" cy="{y}" r="4" fill="{color}"/>' for v in values]
    parts += [f'<path d="M{place(v)} 8l5 6l-5 6l-5 -6z" fill="none" stroke="currentColor" '
              'stroke-width="1.6"/>' for v in paper]
    parts += [f'<path d="M{place(v) - 4} 10l8 8m0 -8l-8 8" stroke="{NONE}" '
              'stroke-width="2"/>' for v in rival]
    parts += [f'<line x1="{place(v)}" x2="{place(v)}" y1="0" y2="4" stroke="{color}" '
              'stroke-width="1.5"/>' for v in ticks]
    return (f'<svg class="nclib-line" viewBox="0 0 {WIDTH} 28" role="img" aria-label="number line" '
            f'style="display:block;width:100%;max-width:{WIDTH}px;height:auto">'
            f"{''.join(parts)}</svg>")


def legend_html(claim: dict, seeds: Sequence[dict] | None = None) -> str:
    """What the marks of the number line stand for, with their values."""
    parts = []
    if claim["measured"] is not None:
        parts = [f"● measured {varying(measured_text(claim))}",
                 f"bound {html.escape(bound_text(claim))}"]
    if claim.get("paper") is not None:
        shown = number(claim["paper_value"]) if claim.get("paper_value") is not None else None
        parts.append(f"◇ the work: {tex_to_html(shown or claim['paper'])}")
    if claim.get("rival"):
        values = claim["rival"]["value"]
        shown = " … ".join(number(v) for v in ([min(values), max(values)]
                                               if len(values) > 1 else values))
        parts.append(f"✕ {tex_to_html(claim['rival']['name'])}: {varying(shown)}")
    if seeds:
        held = sum(s["verdict"] == "reproduced" for s in seeds)
        parts.append(f"{held} of {len(seeds)} seeds")
    return " · ".join(parts)


def card_html(
    claim: dict, slug: str = "", *, seeds: Sequence[dict] | None = None, ledger: str | None = None
) -> str:
    """The card of one claim.

    Args:
        claim: a claim of the record (``dataclasses.asdict``).
        seeds: ``[{"value": …, "verdict": …}]``, one a seed: ticks above the line, "10 of 10 seeds".
        ledger: address of the ledger page; the id then links to the claim's row there.
    """
    id, verdict = claim["id"], claim["verdict"]
    color = COLOR.get(verdict, NONE)
    link = f'<a class="nclib-id" href="#claim-{id}"><code>{id}</code></a>'
    if ledger is not None:
        link += f' <a class="nclib-ledger" href="{ledger}#{slug}--{id}">ledger</a>'
    note = f'<div class="nclib-note">{tex_to_html(claim["note"])}</div>' if claim["note"] else ""
    return (
        f'<div class="nclib-card" id="claim-{id}" data-verdict="{verdict}" style="border-left:4px '
        f'solid {color};padding:.3em 0 .3em .8em;margin:.5em 0;max-width:46rem;line-height:1.45">'
        f'<div class="nclib-head"><b style="color:{color}">{MARK[verdict]} {verdict}</b> '
        f'<small>{tex_to_html(about(claim))}</small> {link}</div>'
        f'<div class="nclib-statement">{tex_to_html(claim["statement"])}</div>'
        f"{line_svg(claim, seeds)}"
        f'<div class="nclib-values"><small>{legend_html(claim, seeds)}</small></div>{note}</div>'
    )


def card_text(claim: dict) -> str:
    """The card in plain text: verdict and id bare, the value behind ≈."""
    value = f"≈[{_bare(measured_text(claim))}]" if claim["measured"] is not None else claim["note"]
    if isinstance(claim["measured"], str) and claim["verdict"] == "reproduced":
        value = ""  # it equals its bound, which follows
    head = f"{MARK[claim['verdict']]} {claim['verdict']}: {claim['id']}"
    return "  ".join(part for part in (head, value, bound_text(claim)) if part)


# --- the report -----------------------------------------------------------------------------------


def score(record: dict) -> dict:
    """Three counts that are never added up, each ``{"reproduced": n, "total": n}``.

    ``work`` (statements of the work, by scope in ``by_scope``), ``controls``, ``book`` (our
    findings), and ``abstract`` (assertions by verdict).
    """
    claims = record["claims"]

    def count(chosen):
        return {"reproduced": sum(c["verdict"] == "reproduced" for c in chosen),
                "total": len(chosen)}

    work = [c for c in claims if c["kind"] != "control" and c["says"] == "work"]
    result = {
        "work": count(work),
        "controls": count([c for c in claims if c["kind"] == "control"]),
        "book": count([c for c in claims if c["kind"] != "control" and c["says"] == "book"]),
        "abstract": {},
    }
    result["work"]["by_scope"] = {
        scope: count([c for c in work if c["scope"] == scope])
        for scope in SCOPE if any(c["scope"] == scope for c in work)
    }
    for assertion in record.get("abstract", ()):
        verdict = assertion["verdict"]
        result["abstract"][verdict] = result["abstract"].get(verdict, 0) + 1
    return result


def score_text(record: dict) -> str:
    """The three counts, each a sentence; a chapter without a work of its own has two."""
    s = score(record)
    scopes = ", ".join(f"{c['reproduced']} of {c['total']} {SCOPE[scope]}"
                       for scope, c in s["work"]["by_scope"].items())
    parts = [
        f"Controls that hold: {s['controls']['reproduced']} of {s['controls']['total']}.",
        f"Findings of this book: {s['book']['reproduced']} of {s['book']['total']}.",
    ]
    if s["work"]["total"]:
        work = f"{s['work']['reproduced']} of {s['work']['total']} reproduced"
        parts.insert(0, f"Statements of the work: {work}{f' ({scopes})' if scopes else ''}.")
    return " ".join(parts)


def _order(claims: list[dict]) -> list[dict]:
    rank = {"not reproduced": 0, "not run": 1, "reproduced": 2}
    return sorted(claims, key=lambda c: rank[c["verdict"]])


def _run_text(run: dict) -> str:
    return f"{run['preset']} preset, seed {run['seed']}, {run['device']}, {run['seconds']:.0f} s"


def report_text(record: dict) -> str:
    """Counts, assertions and one line a claim, failures first."""
    lines = [f"{score_text(record)} ≈[{_run_text(record['run'])}]"]
    for a in record["abstract"]:
        by = ", ".join(a["claims"]) if a["claims"] else a["reason"]
        lines.append(f"{MARK[a['verdict']]} {a['verdict']:<14}  {a['id']}  ({by})")
    lines += [card_text(c) for c in _order(record["claims"])]
    return "\n".join(lines)


def abstract_html(record: dict) -> str:
    """The assertions of the abstract with their verdicts, as a table."""
    rows = []
    for a in record["abstract"]:
        color = COLOR.get(a["verdict"], NONE)
        if a["claims"]:
            by = " ".join(f'<a href="#claim-{i}"><code>{i}</code></a>' for i in a["claims"])
        else:
            by = tex_to_html(a["reason"])
        scope = f"<br><small>{a['scope']}</small>" if a["scope"] else ""
        rows.append(
            f'<tr><td style="color:{color};text-align:left"><b>{MARK[a["verdict"]]}&nbsp;'
            f'{a["verdict"]}</b>{scope}</td><td style="text-align:left">'
            f'{tex_to_html(a["text"])} <small>{by}</small></td></tr>'
        )
    return f'<table class="nclib-abstract"><tbody>{"".join(rows)}</tbody></table>' if rows else ""


def report_html(record: dict) -> str:
    """The closing report: assertions, then one line a claim, failures first."""
    rows = []
    for c in _order(record["claims"]):
        color = COLOR.get(c["verdict"], NONE)
        rows.append(
            f'<li data-verdict="{c["verdict"]}"><b style="color:{color}">{MARK[c["verdict"]]}</b> '
            f'<a href="#claim-{c["id"]}"><code>{c["id"]}</code></a> '
            f'<span class="nclib-values">{varying(measured_text(c))} '
            f"<small>({html.escape(bound_text(c))})</small></span></li>"
        )
    return (
        f'<div class="nclib-report"><p><b>{html.escape(score_text(record))}</b> '
        f"<small>{varying(_run_text(record['run']))}</small></p>{abstract_html(record)}"
        f'<ul style="list-style:none;padding-left:0">{"".join(rows)}</ul></div>'
    )


# --- tables ---------------------------------------------------------------------------------------


def table_html(head: Sequence[str], rows: Sequence[Sequence]) -> str:
    """Cells that are floats are shown rounded and not compared; text may hold ``$…$``."""

    def cell(v):
        if isinstance(v, Real) and not isinstance(v, Integral):
            return varying(number(v))
        return tex_to_html(number(v))

    heads = "".join(f"<th>{tex_to_html(str(h))}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{cell(v)}</td>" for v in row) + "</tr>" for row in rows)
    return (f'<table class="nclib-table"><thead><tr>{heads}</tr></thead>'
            f"<tbody>{body}</tbody></table>")


def table_text(head: Sequence[str], rows: Sequence[Sequence]) -> str:
    """The same table as aligned plain text, floats behind ≈."""

    def cell(v):
        if isinstance(v, Real) and not isinstance(v, Integral):
            return f"≈[{number(v)}]"
        return tex_to_text(number(v))

    lines = [[tex_to_text(str(h)) for h in head], *[[cell(v) for v in row] for row in rows]]
    return "\n".join(" | ".join(line) for line in lines)
