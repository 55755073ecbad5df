"""Plants known faults one at a time and asks whether the claims see them.

``tests/faults/<slug>.yml`` lists them: ``fault`` (what is wrong), ``in`` (``chapter`` or a file),
``find`` and ``replace`` (exact text that occurs once), ``red`` (claims that must then not be
reproduced; a run that raises counts too) and optionally ``parameters``. A run ends with the last
claim that must turn red: what comes after cannot change the answer.

What was seen is kept as it comes in ``tests/faults/results/<slug>.json``, a line a fault, so that
an interrupted run goes on, and the page on trust can show it::

    {"schema": 1, "slug": "…", "commit": "…", "torch": "…",
     "faults": [{"fault": "…", "expected": ["some-id"], "seen": true, "red": ["some-id"],
                 "raised": null, "seconds": 40.1, "key": "…"}]}
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import shutil
import tempfile
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from . import records
from .hashes import INSTALL, code_of
from .layout import (
    BookError,
    Layout,
    read_notebook,
    read_record,
    read_yaml,
    tags,
    write_record,
)
from .plan import Variant, check_parameters, select, types_of
from .run import (
    Options,
    Row,
    code_hash,
    expected_seconds,
    guarded,
    locked,
    payload_of,
    provenance,
    raised,
    search_path,
    work,
)

KEYS = {"fault", "in", "find", "replace", "red"}
PRESET = "cpu"
COPIED = ("nclib", "reproduce")
SCHEMA = 1


def read(layout: Layout, slug: str) -> list[dict]:
    """The faults of a chapter, checked; empty where it has no file.

    Raises:
        BookError: an unknown key or claim, a text that does not occur exactly once.
    """
    path = layout.faults(slug)
    if not path.exists():
        return []
    entries = read_yaml(path) or []
    if not isinstance(entries, list):
        raise BookError(f"{path}: expected a list of faults")
    chapter = read_notebook(layout.chapter(slug))
    record = records.of_notebook(chapter)
    ids = {c["id"] for c in record["claims"]} if record else None
    for n, entry in enumerate(entries, 1):
        where = f"{path.name}, fault {n}"
        if not isinstance(entry, dict):
            raise BookError(f"{where}: expected a mapping with {', '.join(sorted(KEYS))}")
        missing, unknown = KEYS - set(entry), set(entry) - KEYS - {"parameters"}
        if missing or unknown:
            raise BookError(f"{where}: missing {sorted(missing)}, unknown {sorted(unknown)}")
        if not isinstance(entry["red"], list) or not entry["red"]:
            raise BookError(f"{where}: red is a list of claims, at least one")
        strangers = [i for i in entry["red"] if ids is not None and i not in ids]
        if strangers:
            raise BookError(f"{where}: no claim {', '.join(strangers)} in {slug}")
        check_parameters(f"{where}", types_of(chapter), entry.get("parameters", {}))
        if entry["find"] == entry["replace"]:
            raise BookError(f"{where}: find and replace are the same")
        count = sum(t.count(entry["find"]) for t in _texts(layout, chapter, entry["in"], where))
        if count != 1:
            raise BookError(f"{where}: the text to find occurs {count} times in {entry['in']}: "
                            f"{entry['find'][:60]!r}")
    return entries


def _texts(layout: Layout, chapter: NotebookNode, place: str, where: str) -> list[str]:
    if place == "chapter":
        return [c.source for c in code_of(chapter) if INSTALL not in tags(c)]
    path = (layout.root / place).resolve()
    inside = path.is_relative_to(layout.root) and path.relative_to(layout.root).parts[0] in COPIED
    if not inside or not path.is_file():
        raise BookError(f"{where}: `in` is chapter or a file of nclib, got {place!r}")
    return [path.read_text(encoding="utf-8")]


def plant(layout: Layout, chapter: NotebookNode, entry: dict, folder: Path) -> NotebookNode:
    """The chapter with one fault; a fault of the library goes into a copy in ``folder``."""
    nb = copy.deepcopy(chapter)
    if entry["in"] == "chapter":
        for cell in code_of(nb):
            if INSTALL not in tags(cell):
                cell.source = cell.source.replace(entry["find"], entry["replace"])
        return nb
    ignore = shutil.ignore_patterns("__pycache__")
    for name in COPIED:
        if (layout.root / name).is_dir():
            shutil.copytree(layout.root / name, folder / name, ignore=ignore)
    path = folder / entry["in"]
    text = path.read_text(encoding="utf-8").replace(entry["find"], entry["replace"])
    path.write_text(text, encoding="utf-8")
    return nb


def shortened(nb: NotebookNode, entry: dict) -> NotebookNode:
    """The notebook up to the last claim that must turn red, then its report.

    The whole notebook where a claim's id does not stand in its ``check``.
    """
    places = []
    for id in entry["red"]:
        check = re.compile(rf"\.check\(\s*[\"']{re.escape(id)}[\"']")
        found = [i for i, c in enumerate(nb.cells) if c.cell_type == "code"
                 and check.search(c.source)]
        if not found:
            return nb
        places.append(found[-1])
    last = max(i for i, c in enumerate(nb.cells) if c.cell_type == "code")
    if ".abstract(" in nb.cells[last].source:
        return nb
    nb.cells = [*nb.cells[:max(places) + 1], *([nb.cells[last]] if last > max(places) else [])]
    return nb


def key_of(entry: dict, chapter: NotebookNode) -> str:
    """What the outcome of a fault depends on: the fault, the chapter's code and its library."""
    text = json.dumps([entry, code_hash(chapter, {})], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# --- the record -----------------------------------------------------------------------------------


def load(path: Path) -> dict | None:
    """A record of faults; ``None`` where there is none.

    Raises:
        BookError: a file that is no such record.
    """
    return read_record(path, "planted faults", "faults", schema=SCHEMA)


def merged(path: Path, head: dict, order: list[str], outcome: dict) -> None:
    """Put one outcome into a record, in the order of the list; what is not listed any more goes."""
    known = {e["fault"]: e for e in (load(path) or {"faults": []})["faults"]}
    known[outcome["fault"]] = outcome
    write_record(path, "faults", [known[f] for f in order if f in known], schema=SCHEMA, **head)


def run(layout: Layout, targets: list[str], options: Options) -> list[Row]:
    """Plant every fault of these chapters, run them, and report which claims saw it.

    A fault whose outcome is known for this very code is not run again, unless forced.

    Raises:
        BookError: a faulty list of faults, or none at all.
    """
    slugs = [v.slug for v in select(layout, targets, defaults=True)]
    planted = [(slug, n, e) for slug in slugs for n, e in enumerate(read(layout, slug), 1)]
    if not planted:
        raise BookError(f"no faults are listed for {', '.join(slugs) or 'any chapter'}")
    chapters = {slug: read_notebook(layout.chapter(slug)) for slug in slugs}
    keys = [key_of(entry, chapters[slug]) for slug, _, entry in planted]
    rows: dict[int, Row] = {}
    with (
        locked(layout.build / "faults"),
        tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as scratch,
    ):
        payloads, times, todo = [], [], []
        for index, (slug, n, entry) in enumerate(planted):
            stored = load(layout.fault_results(slug))
            known = {e["fault"]: e for e in stored["faults"]} if stored else {}
            old = known.get(entry["fault"])
            if old and old["key"] == keys[index] and not options.force:
                rows[index] = row_of(slug, old)
                rows[index].status += ", up to date"
                continue
            folder = Path(scratch) / str(index)
            folder.mkdir()
            chapter = shortened(plant(layout, chapters[slug], entry, folder), entry)
            parameters = {"preset": PRESET, **entry.get("parameters", {})}
            variant = Variant(slug, f"fault-{n}", parameters, declared=False)
            payload = payload_of(variant, chapter, {}, options)
            if entry["in"] != "chapter":
                payload["env"] = {"PYTHONPATH": search_path(folder)}
            payloads.append(payload)
            times.append(expected_seconds(layout, variant))
            todo.append(index)

        def keep(position: int, result: dict) -> Row:
            index = todo[position]
            slug, _, entry = planted[index]
            order = [e["fault"] for s, _, e in planted if s == slug]
            rows[index] = guarded(f"{slug}: {entry['fault']}", _keep, layout, slug, entry, order,
                                  keys[index], result)
            return rows[index]

        work(payloads, options, keep, times)
    return [rows[i] for i in sorted(rows)]


def _keep(layout: Layout, slug: str, entry: dict, order: list[str], key: str, result: dict) -> Row:
    """The row of a result; what was decided is recorded."""
    found = outcome(entry, result)
    if isinstance(found, Row):
        found.label = f"{slug}: {entry['fault']}"
        return found
    path = layout.fault_results(slug)
    merged(path, {"slug": slug, **provenance(layout.root)}, order, found | {"key": key})
    return row_of(slug, found)


def outcome(entry: dict, result: dict) -> dict | Row:
    """Was the fault seen, by every claim that must turn red or by the run itself?

    A row where that was not decided: the run ended for another reason.
    """
    seconds = result["seconds"]
    nb = nbformat.from_dict(json.loads(result["notebook"])) if result["notebook"] else None
    found = {"fault": entry["fault"], "expected": entry["red"], "seen": True, "red": [],
             "raised": None, "seconds": round(seconds, 1)}
    if result["status"] == "failed":
        if error := raised(nb):
            return found | {"raised": error}
        return Row("", "not run", seconds, False, result["message"].splitlines()[-3:])
    if result["status"] != "done":
        return Row("", result["status"], seconds, False, [result["message"]])
    record = records.of_notebook(nb)
    red = [c["id"] for c in record["claims"] if c["verdict"] == "not reproduced"]
    return found | {"seen": set(entry["red"]) <= set(red), "red": red}


def row_of(slug: str, found: dict) -> Row:
    label, seconds = f"{slug}: {found['fault']}", found["seconds"]
    if found["raised"]:
        return Row(label, f"seen: the run raises {found['raised']}", seconds)
    red, expected = found["red"], found["expected"]
    if not found["seen"]:
        others = f"; red: {', '.join(red)}" if red else "; nothing is red"
        green = ", ".join(i for i in expected if i not in red)
        return Row(label, "NOT SEEN", seconds, False, [f"still green: {green}{others}"])
    more = len(red) - len(set(expected))
    return Row(label, f"seen by {', '.join(expected)}" + (f" and {more} more" if more else ""),
               seconds)
