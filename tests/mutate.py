"""Plants known faults in nclib one at a time and asks whether the unit tests see them.

    python -m tests.mutate            all of tests/faults/nclib.yml
    python -m tests.mutate 3 17       only these, by number; 0 is the control without a fault

Each fault names a file, a text that occurs in it once, what to put there, and the tests that should
fail. The fault is planted in a copy of the package; the tree is left alone. Prints the share that
is killed, and ends with 1 below 95 %.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
FAULTS = ROOT / "tests" / "faults" / "nclib.yml"
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


def main(numbers: list[str]) -> int:
    found = list(enumerate(faults(), 1))
    if not numbers or "0" in numbers:  # without a fault, nothing may fail
        suites = {(f["tests"], f.get("only", "")): f for _, f in found}
        for suite, fault in suites.items():
            if killed(fault | {"replace": fault["find"]}):
                raise SystemExit(f"{' '.join(suite)}: the tests fail without a fault")
        print(f"{len(suites)} sets of tests pass without a fault", flush=True)
        numbers = [n for n in numbers if n != "0"]
        if not numbers and "0" in sys.argv[1:]:
            return 0
    if numbers:
        found = [pair for pair in found if str(pair[0]) in numbers]
    survived, start = [], time.perf_counter()
    for number, fault in found:
        seen = killed(fault)
        print(f"{number:3} {'killed  ' if seen else 'SURVIVED'} {fault['fault']}", flush=True)
        survived += [] if seen else [number]
    share = 1 - len(survived) / len(found)
    print(f"{len(found) - len(survived)} of {len(found)} faults killed ({share:.0%}) in "
          f"{time.perf_counter() - start:.0f} s" + (f"; survived: {survived}" if survived else ""))
    return int(share < LEAST)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
