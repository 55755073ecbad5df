"""Plants known faults one at a time and asks whether the claims see them.

``tests/faults/<slug>.yml`` lists them: ``fault`` (what is wrong), ``in`` (``chapter`` or a file),
``find`` and ``replace`` (exact text that occurs once), ``red`` (claims that must then not be
reproduced; a run that raises counts too) and optionally ``parameters``.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from . import records
from .hashes import INSTALL, code_of
from .layout import BookError, Layout, read_notebook, read_yaml, tags
from .plan import Variant, check_parameters, select, types_of
from .run import Options, Row, _payload, expected_seconds, guarded, work

KEYS = {"fault", "in", "find", "replace", "red"}
PRESET = "cpu"
COPIED = ("nclib", "reproduce")


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


def run(layout: Layout, targets: list[str], options: Options) -> list[Row]:
    """Plant every fault of these chapters, run them, and report which claims saw it.

    Raises:
        BookError: a faulty list of faults, or none at all.
    """
    slugs = [v.slug for v in select(layout, targets, defaults=True)]
    planted = [(slug, n, e) for slug in slugs for n, e in enumerate(read(layout, slug), 1)]
    if not planted:
        raise BookError(f"no faults are listed for {', '.join(slugs) or 'any chapter'}")
    with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as scratch:
        payloads, times = [], []
        for index, (slug, n, entry) in enumerate(planted):
            folder = Path(scratch) / str(index)
            folder.mkdir()
            chapter = plant(layout, read_notebook(layout.chapter(slug)), entry, folder)
            parameters = {"preset": PRESET, **entry.get("parameters", {})}
            variant = Variant(slug, f"fault-{n}", parameters, declared=False)
            payload = _payload(variant, chapter, {}, options)
            if entry["in"] != "chapter":
                paths = [str(folder), os.environ.get("PYTHONPATH")]
                payload["env"] = {"PYTHONPATH": os.pathsep.join(p for p in paths if p)}
            payloads.append(payload)
            times.append(expected_seconds(layout, variant))
        rows: dict[int, Row] = {}

        def keep(index: int, result: dict) -> Row:
            slug, _, entry = planted[index]
            rows[index] = guarded(f"{slug}: {entry['fault']}", judge, slug, entry, result)
            return rows[index]

        work(payloads, options, keep, times)
    return [rows[i] for i in sorted(rows)]


def judge(slug: str, entry: dict, result: dict) -> Row:
    """Was the fault seen? By every claim that must turn red, or by the run itself."""
    label = f"{slug}: {entry['fault']}"
    seconds = result["seconds"]
    nb = nbformat.from_dict(json.loads(result["notebook"])) if result["notebook"] else None
    if result["status"] == "failed":
        raised = [o for c in (nb.cells if nb else ()) for o in c.get("outputs", ())
                  if o.output_type == "error"]
        if raised:
            return Row(label, f"seen: the run raises {raised[0].ename}", seconds)
        return Row(label, "not run", seconds, False, result["message"].splitlines()[-3:])
    if result["status"] != "done":
        return Row(label, result["status"], seconds, False, [result["message"]])
    record = records.of_notebook(nb)
    red = [c["id"] for c in record["claims"] if c["verdict"] == "not reproduced"]
    unseen = [i for i in entry["red"] if i not in red]
    if unseen:
        others = f"; red: {', '.join(red)}" if red else "; nothing is red"
        return Row(label, "NOT SEEN", seconds, False, [f"still green: {', '.join(unseen)}{others}"])
    more = len(red) - len(set(entry["red"]))
    return Row(label, f"seen by {', '.join(entry['red'])}" + (f" and {more} more" if more else ""),
               seconds)
