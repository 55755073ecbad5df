"""Runs each chapter with seeds 0 to 9, and keeps the values and verdicts of its claims.

One small file a chapter, ``chapters/seeds/<slug>.json``::

    {"schema": 1, "slug": "…", "preset": "cpu",
     "hash": {"cells": "…", "library": "…", "torch": "…"},
     "runs": [{"seed": 0, "seconds": 61.2, "device": "cpu", "threads": 1, "versions": {}, …}],
     "claims": {"some-id": {"values": [0.1, …], "verdicts": ["reproduced", …]}}}

A value or verdict is ``null`` where that seed has no such claim. No notebook is kept.
"""

from __future__ import annotations

import json
from pathlib import Path

import nbformat

from . import records
from .hashes import cells_hash
from .layout import BookError, Layout, read_notebook, write
from .plan import Variant, check_parameters, select, types_of
from .run import (
    Options,
    Row,
    changed_since_commit,
    expected_seconds,
    guarded,
    hash_of,
    locked,
    payload_of,
    work,
)

SCHEMA = 1
PRESET = "cpu"
SEEDS = range(10)
FEWEST = 3  # of a partial record
RUN_KEYS = ("seed", "seconds", "device", "threads", "versions", "commit")


def variants(slug: str) -> list[Variant]:
    return [
        Variant(slug, f"seed-{s}", {"preset": PRESET, "seed": s}, title=f"seed {s}", declared=False)
        for s in SEEDS
    ]


def _scratch(layout: Layout, slug: str, seed: int) -> Path:
    return layout.build / "seeds" / slug / f"{seed}.json"


def run(layout: Layout, targets: list[str], options: Options) -> list[Row]:
    """Run the seeds that are missing or stale; a chapter's file is written when all ten are there.

    Raises:
        BookError: an unknown chapter, or one without the parameters ``preset`` and ``seed``.
    """
    if any("/" in t for t in targets):
        raise BookError("seeds are run for whole chapters: SLUG")
    slugs = [v.slug for v in select(layout, targets, defaults=True)]
    rows: dict[tuple[str, int], Row] = {}
    todo: list[Variant] = []
    expected: dict[str, dict] = {}
    payloads = []
    changed = changed_since_commit(layout.root)
    with locked(layout.build / "seeds"):
        for slug in slugs:
            chapter = read_notebook(layout.chapter(slug))
            types = types_of(chapter)
            stored = load(layout, slug)
            # One hash for all seeds: the seed is known, the rest decides.
            expected[slug] = hash_of(chapter, {})
            current = stored is not None and stored["hash"] == expected[slug]
            current = current and seeds_of(stored) == list(SEEDS)
            for variant in variants(slug):
                check_parameters(variant.label, types, variant.parameters)
                seed = variant.parameters["seed"]
                known = _read(_scratch(layout, slug, seed))
                if not options.force and (
                    current or (known and known.get("hash") == expected[slug])
                ):
                    rows[slug, seed] = Row(variant.label, "up to date")
                    continue
                todo.append(variant)
                payloads.append(payload_of(variant, chapter, expected[slug], options, changed))
        finished: set[str] = set()

        def keep(index: int, result: dict) -> Row:
            variant = todo[index]
            row = guarded(variant.label, _keep, layout, variant, result, expected[variant.slug])
            rows[variant.slug, variant.parameters["seed"]] = row
            mine = [rows.get((variant.slug, s)) for s in SEEDS]
            if all(r is not None and r.ok for r in mine):
                finished.add(variant.slug)
                collected = guarded(variant.slug, collect, layout, variant.slug)
                if not collected.ok:
                    row.ok, row.details = False, collected.details
            return row

        work(payloads, options, keep, [expected_seconds(layout, v) for v in todo])
        for slug in slugs:
            scratch = all(_scratch(layout, slug, s).exists() for s in SEEDS)
            found = load(layout, slug)
            if slug not in finished and scratch and (
                found is None or seeds_of(found) != list(SEEDS)
            ):
                collect(layout, slug)
    return [rows[slug, seed] for slug in slugs for seed in SEEDS]


def _keep(layout: Layout, variant: Variant, result: dict, expected: dict) -> Row:
    if result["status"] != "done":
        details = result["message"].splitlines()
        return Row(variant.label, result["status"], result["seconds"], False, details)
    record = records.of_notebook(nbformat.from_dict(json.loads(result["notebook"])))
    seed = variant.parameters["seed"]
    if record["run"]["seed"] != seed or record["run"]["preset"] != PRESET:
        raise BookError(f"the run says seed {record['run']['seed']}, preset "
                        f"{record['run']['preset']}; asked for were {seed}, {PRESET}")
    entry = {
        "hash": expected,
        "run": {key: record["run"].get(key) for key in RUN_KEYS},
        "claims": {c["id"]: [c["measured"], c["verdict"]] for c in record["claims"]},
    }
    write(_scratch(layout, variant.slug, seed), json.dumps(entry))
    return Row(variant.label, records.score_text(record), result["seconds"])


def _read(path: Path) -> dict | None:
    """A JSON file; ``None`` where it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def collect(layout: Layout, slug: str, *, partial: bool = False) -> Row:
    """Write a chapter's file from the ten runs.

    Args:
        partial: from those that have finished, at least ``FEWEST`` and seed 0 among them. The
            record, the cards and the ledger then show that number of seeds.
    """
    found = {s: e for s in SEEDS if (e := _read(_scratch(layout, slug, s))) is not None}
    if partial:  # the newest code alone
        newest = hash_of(read_notebook(layout.chapter(slug)), {})
        found = {s: e for s, e in found.items() if e["hash"] == newest}
        if len(found) < FEWEST or 0 not in found:
            raise BookError(f"{slug}: only seeds {sorted(found)} were run with this code")
    entries = list(found.values())
    whole = partial or len(found) == len(SEEDS)
    if not whole or len({json.dumps(e["hash"]) for e in entries}) != 1:
        raise BookError(f"{slug}: not all seeds were run with the same code")
    ids = list(dict.fromkeys(id for e in entries for id in e["claims"]))
    claims = {
        id: {
            "values": [e["claims"].get(id, [None, None])[0] for e in entries],
            "verdicts": [e["claims"].get(id, [None, None])[1] for e in entries],
        }
        for id in ids
    }
    head = {
        "schema": SCHEMA, "slug": slug, "preset": PRESET, "hash": entries[0]["hash"],
        "runs": [e["run"] for e in entries],
    }
    write(layout.seeds(slug), _dumps(head, claims))
    return Row(slug, "written")


def _dumps(head: dict, claims: dict) -> str:
    """JSON with one line a claim, so that a change shows where it is."""
    lines = [f'{json.dumps(id)}: {json.dumps(entry, ensure_ascii=False)}'
             for id, entry in claims.items()]
    text = json.dumps(head, indent=1, ensure_ascii=False)
    return text[:-2] + ',\n "claims": {\n  ' + ",\n  ".join(lines) + "\n }\n}\n"


def load(layout: Layout, slug: str) -> dict | None:
    """The stored record of a chapter's seeds; ``None`` where there is none.

    Raises:
        BookError: a broken file.
    """
    path = layout.seeds(slug)
    if not path.exists():
        return None
    found = _read(path)
    good = isinstance(found, dict) and found.get("schema") == SCHEMA and found.get("slug") == slug
    ran = seeds_of(found) if good else []
    good = (
        good and len(ran) >= FEWEST and ran[0] == 0 and ran == sorted(set(ran) & set(SEEDS))
        and all(len(c["values"]) == len(c["verdicts"]) == len(ran)
                for c in found.get("claims", {}).values())
    )
    if not good:
        raise BookError(
            f"{path} is not a record of seeds 0 to 9: `python -m reproduce seeds {slug}`"
        )
    return found


def seeds_of(found: dict) -> list:
    """The seeds of a record, in their order."""
    return [r.get("seed") for r in found.get("runs", ())]


def of_claim(found: dict | None, id: str) -> list[dict] | None:
    """``[{"seed", "value", "verdict"}]`` of one claim, or ``None``."""
    if not found or id not in found["claims"]:
        return None
    entry = found["claims"][id]
    return [
        {"seed": s, "value": v, "verdict": w}
        for s, v, w in zip(seeds_of(found), entry["values"], entry["verdicts"], strict=True)
    ]


def faults(layout: Layout, slug: str) -> list[str]:
    """What is wrong with a chapter's record of seeds; empty where it is in order."""
    nb = read_notebook(layout.chapter(slug))
    record = records.of_notebook(nb)
    if record is None:
        return []
    try:
        found = load(layout, slug)
    except BookError as error:
        return [str(error)]
    if found is None:  # not run: the ledger says so
        return []
    problems = []
    if found["hash"]["cells"] != cells_hash(nb, {}):
        problems.append(f"the seeds ran other code: `python -m reproduce seeds {slug}`")
    ids = {c["id"] for c in record["claims"]}
    if ids != set(found["claims"]):
        differ = sorted(ids ^ set(found["claims"]))
        problems.append(f"claims in one record alone: {', '.join(differ)}")
    same = record["run"]["preset"] == PRESET and record["run"]["seed"] == 0
    for claim in record["claims"]:
        seeds = of_claim(found, claim["id"])
        if seeds is None:
            continue
        if same and not records.agrees(claim, seeds[0]["value"], seeds[0]["verdict"]):
            problems.append(
                f"{claim['id']}: stored {claim['measured']!r}, {claim['verdict']}; seed 0 gave "
                f"{seeds[0]['value']!r}, {seeds[0]['verdict']}"
            )
        verdicts = {s["verdict"] for s in seeds}
        if claim["says"] == "work" and len(verdicts) > 1 and "seed" not in claim["note"].lower():
            held = sum(s["verdict"] == "reproduced" for s in seeds)
            problems.append(
                f"{claim['id']}: reproduced with {held} of {len(seeds)} seeds, and its note does "
                "not say so"
            )
    return problems
