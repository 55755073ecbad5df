"""Plants known faults in nclib one at a time and asks whether the unit tests see them.

    python -m tests.mutate            all of tests/faults/nclib.yml
    python -m tests.mutate 3 17       only these, by number; 0 is the control without a fault
    python -m tests.mutate --force    also those whose outcome is known for this very code

Each fault names a file, a text that occurs in it once, what to put there, and the tests that should
fail. The fault is planted in a copy of the package; the tree is left alone. Outcomes are kept as
they come in ``tests/faults/results/nclib.json``, so that an interrupted run goes on. Prints the
share that is killed, and ends with 1 below 95 %.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from reproduce import hashes
from reproduce.faults import load, merged
from reproduce.run import provenance

ROOT = Path(__file__).resolve().parents[1]
FAULTS = ROOT / "tests" / "faults" / "nclib.yml"
RESULTS = ROOT / "tests" / "faults" / "results" / "nclib.json"
LEAST = 0.95


def faults() -> list[dict]:
    """The faults, each of which can be planted: its text occurs in its file once."""
    found = yaml.safe_load(FAULTS.read_text(encoding="utf-8"))
    for fault in found:
        count = (ROOT / fault["in"]).read_text(encoding="utf-8").count(fault["find"])
        if count != 1:
            raise SystemExit(f"{fault['fault']}: the text occurs {count} times in {fault['in']}")
    return found


def killed(fault: dict) -> bool:
    """Do the tests named fail with the fault planted?"""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "nclib", copy / "nclib", ignore=skip)
        for name in ("tests", "benchmarks", "chapters", "examples", "pages", "pyproject.toml"):
            os.symlink(ROOT / name, copy / name)
        path = copy / fault["in"]
        path.write_text(path.read_text(encoding="utf-8").replace(fault["find"], fault["replace"]))
        tests = [f"tests/{name}" for name in fault["tests"].split()]
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        if "only" in fault:
            command += ["-k", fault["only"]]
        env = os.environ | {"PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            result = subprocess.run(
                command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
        except subprocess.TimeoutExpired:
            return True
        if result.returncode not in (0, 1, 2):
            raise SystemExit(f"{fault['fault']}: no test ran\n{result.stdout[-600:]}")
        return result.returncode != 0


def key_of(fault: dict, library: str) -> str:
    """What the outcome depends on: the fault, the library and the tests named."""
    texts = [(ROOT / "tests" / name).read_text(encoding="utf-8") for name in fault["tests"].split()]
    return hashlib.sha256(json.dumps([fault, library, texts]).encode()).hexdigest()[:16]


def keep(fault: dict, seen: bool, seconds: float, key: str, order: list[str]) -> None:
    """Put an outcome into the record."""
    merged(RESULTS, {"slug": "nclib", **provenance(ROOT)}, order, {
        "fault": fault["fault"], "expected": fault["tests"].split(), "seen": seen, "red": [],
        "raised": None, "seconds": round(seconds, 1), "key": key,
    })


def main(arguments: list[str]) -> int:
    listed = faults()
    order = [f["fault"] for f in listed]
    found = list(enumerate(listed, 1))
    numbers = [a for a in arguments if a != "--force"]
    if set(numbers) - {"0", *(str(n) for n, _ in found)}:
        raise SystemExit(__doc__)
    library = hashes.library_hash(None, ROOT / "nclib")
    known = {e["fault"]: e for e in (load(RESULTS) or {"faults": []})["faults"]}
    current = {
        n: known[f["fault"]]["seen"] for n, f in found
        if f["fault"] in known and known[f["fault"]]["key"] == key_of(f, library)
    } if "--force" not in arguments and not numbers else {}
    if "0" in numbers or (not numbers and len(current) < len(found)):
        suites = {(f["tests"], f.get("only", "")): f for n, f in found if n not in current}
        for suite, fault in suites.items():  # without a fault, nothing may fail
            if killed(fault | {"replace": fault["find"]}):
                raise SystemExit(f"{' '.join(suite)}: the tests fail without a fault")
        print(f"{len(suites)} sets of tests pass without a fault", flush=True)
        if numbers == ["0"]:
            return 0
    if numbers:
        found = [pair for pair in found if str(pair[0]) in numbers]
    survived, start = [], time.perf_counter()
    for number, fault in found:
        begun = time.perf_counter()
        seen = current.get(number)
        if seen is None:
            seen = killed(fault)
            key = key_of(fault, library)
            keep(fault, seen, time.perf_counter() - begun, key, order)
        again = ", up to date" if number in current else ""
        print(f"{number:3} {'killed  ' if seen else 'SURVIVED'} {fault['fault']}{again}",
              flush=True)
        survived += [] if seen else [number]
    share = 1 - len(survived) / len(found)
    print(f"{len(found) - len(survived)} of {len(found)} faults killed ({share:.0%}) in "
          f"{time.perf_counter() - start:.0f} s" + (f"; survived: {survived}" if survived else ""))
    return int(share < LEAST)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
