"""Runs chapters with another torch, threads, hash seeds, kernels: no verdict may change.

Four runs a chapter: each torch with one and with two threads, hash seeds 0, 1 and 2 among them, and
the runs with two threads on the numerical kernels of an older processor (AVX2), whose rounding is
another. Without a second interpreter three runs, all with the torch that is installed here. What
each run found is kept as it comes in ``chapters/platforms/<slug>.json``, a line a run, so that
after an interruption the same command goes on::

    {"schema": 1, "slug": "…", "preset": "cpu",
     "runs": [{"torch": "2.13.0", "threads": 1, "hashseed": 0, "kernels": "own",
               "raised": null, "moved": [], "verdicts": {"some-id": "reproduced"},
               "seconds": 61.2, "hash": {}, …}]}

``moved`` names claims whose value left its tolerance around the stored one; ``raised`` the error of
a run that did not end.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import nbformat

from . import hashes, records
from .layout import BookError, Layout, read_notebook, read_record, write_record
from .plan import Variant, check_parameters, select, types_of
from .run import (
    Options,
    Row,
    changed_since_commit,
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

SCHEMA = 1
PRESET = "cpu"
ONE = ((0, 1, 0, "own"), (0, 2, 1, "avx2"), (0, 1, 2, "own"))
TWO = ((0, 1, 0, "own"), (0, 2, 1, "avx2"), (1, 1, 2, "own"), (1, 2, 0, "avx2"))
# Interpreter, threads, PYTHONHASHSEED, kernels. Each library has its own name for the latter.
KERNELS = {"own": {}, "avx2": {
    "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2", "OPENBLAS_CORETYPE": "Haswell",
}}
PROBE = "import importlib.metadata as m; print(m.version('torch')); import papermill, ipykernel"


@dataclass(frozen=True)
class Platform:
    """One way to run a chapter; ``python`` is None for the interpreter at work."""

    torch: str
    threads: int
    hashseed: int
    kernels: str = "own"
    python: str | None = None

    @property
    def name(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        more = "" if self.kernels == "own" else f", {self.kernels} kernels"
        return f"torch {self.torch}, {threads}, hash seed {self.hashseed}{more}"

    @property
    def place(self) -> tuple:
        """What tells this run from the chapter's others."""
        return self.torch, self.threads, self.hashseed, self.kernels


def torch_of(python: str) -> str:
    """The version of torch that another interpreter has.

    Raises:
        BookError: it does not start, or lacks torch, papermill or ipykernel.
    """
    try:
        found = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        raise BookError(f"--python {python}: {error}") from None
    if found.returncode:
        raise BookError(f"--python {python}: {found.stderr.strip().splitlines()[-1]}")
    return found.stdout.split()[0]


def platforms(other: str | None = None) -> list[Platform]:
    """The runs of a chapter, with a second interpreter or without."""
    here = (hashes.torch_version() or "none", None)
    pythons = [here] if other is None else [here, (torch_of(other), other)]
    return [Platform(pythons[i][0], threads, seed, kernels, pythons[i][1])
            for i, threads, seed, kernels in (ONE if other is None else TWO)]


def load(layout: Layout, slug: str) -> dict | None:
    """The stored record of a chapter; ``None`` where there is none.

    Raises:
        BookError: a file that is no such record.
    """
    return read_record(layout.platforms(slug), "platforms", "runs", schema=SCHEMA, slug=slug)


def place(run: dict) -> tuple:
    """Torch, threads, hash seed and kernels of a run: :attr:`Platform.place`."""
    return run["torch"], run["threads"], run["hashseed"], run["kernels"]


def by_place(record: dict | None) -> dict[tuple, dict]:
    """The runs of a record by :func:`place`."""
    return {place(r): r for r in record["runs"]} if record else {}


def _merge(layout: Layout, slug: str, run: dict) -> None:
    """Put one run in the place of the earlier one on the same platform."""
    runs = by_place(load(layout, slug)) | {place(run): run}
    write_record(layout.platforms(slug), "runs", [runs[k] for k in sorted(runs)],
                 schema=SCHEMA, slug=slug, preset=PRESET)


def changed(stored: dict | None, run: dict) -> list[str]:
    """Claims whose verdict differs from the stored one, or that one of both lacks."""
    if stored is None:
        return []
    old = {c["id"]: c["verdict"] for c in stored["claims"]}
    return sorted(i for i in old | run["verdicts"] if old.get(i) != run["verdicts"].get(i))


def run(
    layout: Layout, targets: list[str], options: Options, other: str | None = None
) -> list[Row]:
    """Run these chapters on every platform where that was not done with this very code.

    Args:
        other: an interpreter with another torch, and papermill.

    Raises:
        BookError: an unknown chapter, one without the parameter ``preset``, a bad interpreter.
    """
    if any("/" in t for t in targets):
        raise BookError("platforms are tried with whole chapters: SLUG")
    slugs = [v.slug for v in select(layout, targets, defaults=True)]
    ways = platforms(other)
    library = hashes.library_folder()
    home = library.parent if library else layout.root
    rows: dict[tuple[str, Platform], Row] = {}
    todo: list[tuple[str, Platform]] = []
    payloads, times, code = [], [], {}
    with locked(layout.build / "platforms"):
        dirty = changed_since_commit(layout.root)
        for slug in slugs:
            chapter = read_notebook(layout.chapter(slug))
            check_parameters(slug, types_of(chapter), {"preset": PRESET})
            code[slug] = code_hash(chapter, {})
            known = by_place(load(layout, slug))
            for way in ways:
                old = known.get(way.place)
                if old and old["hash"] == code[slug] and not options.force:
                    rows[slug, way] = _row(layout, slug, way, old)
                    rows[slug, way].status += ", up to date"
                    continue
                variant = Variant(slug, "platform", {"preset": PRESET}, declared=False)
                payload = payload_of(variant, chapter, {}, options, dirty)
                env = {"PYTHONHASHSEED": str(way.hashseed)} | KERNELS[way.kernels]
                if way.python:
                    env["PYTHONPATH"] = search_path(home)
                python = way.python and _absolute(way.python)
                payloads.append(payload | {"threads": way.threads, "env": env, "python": python})
                times.append(expected_seconds(layout, Variant(slug)))
                todo.append((slug, way))

        def keep(index: int, result: dict) -> Row:
            slug, way = todo[index]
            label = f"{slug}, {way.name}"
            rows[todo[index]] = guarded(label, _keep, layout, slug, way, code[slug], result)
            return rows[todo[index]]

        work(payloads, options, keep, times)
    return [rows[slug, way] for slug in slugs for way in ways]


def _absolute(python: str) -> str:
    """Not resolved: the link in a virtual environment is what makes it one."""
    return str(Path(python).absolute())


def _keep(layout: Layout, slug: str, way: Platform, code: dict, result: dict) -> Row:
    label, seconds = f"{slug}, {way.name}", result["seconds"]
    nb = nbformat.from_dict(json.loads(result["notebook"])) if result["notebook"] else None
    found = {
        "torch": way.torch, "threads": way.threads, "hashseed": way.hashseed,
        "kernels": way.kernels, "raised": None, "moved": [], "verdicts": {},
        "seconds": round(seconds, 1), "hash": code,
        "commit": provenance(layout.root)["commit"],
    }
    if result["status"] == "done":
        record = records.of_notebook(nb)
        stored = records.of_preset(layout, slug, PRESET)
        found["verdicts"] = {c["id"]: c["verdict"] for c in record["claims"]}
        versions = record["run"].get("versions", {})
        found |= {key: versions.get(key) for key in ("python", "numpy")}
        old = {c["id"]: c for c in stored["claims"]} if stored else {}
        found["moved"] = [
            c["id"] for c in record["claims"] if c["id"] in old
            and not records.agrees(old[c["id"]], c["measured"], old[c["id"]]["verdict"])
        ]
    else:
        found["raised"] = raised(nb)
        if not found["raised"]:  # out of time, killed: nothing was found out
            return Row(label, result["status"], seconds, False, result["message"].splitlines()[-3:])
    _merge(layout, slug, found)
    return _row(layout, slug, way, found)


def _row(layout: Layout, slug: str, way: Platform, found: dict) -> Row:
    label, seconds = f"{slug}, {way.name}", found["seconds"]
    if found["raised"]:
        return Row(label, f"the run raises {found['raised']}", seconds, False)
    stored = records.of_preset(layout, slug, PRESET)
    if stored is None:
        return Row(label, "nothing stored to compare with", seconds)
    differ = changed(stored, found)
    moved = f", {len(found['moved'])} values outside their tolerance" if found["moved"] else ""
    if differ:
        return Row(label, f"{len(differ)} verdicts changed{moved}", seconds, False,
                   [f"changed: {', '.join(differ)}"])
    return Row(label, f"all {len(found['verdicts'])} verdicts as stored{moved}", seconds)
