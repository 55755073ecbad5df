"""Rehearse the ``gpu`` preset of chapters on the pretend CUDA device, at small sizes.

    python tests/rehearse.py [SLUG…] [--limit SECONDS]

``run.pick(cpu=…, gpu=…, rehearse=…)`` takes its ``rehearse`` value (by default the ``cpu`` one), so
every branch for a GPU runs on a machine without one, and a tensor left on another device is found.
What a chapter measures at such sizes means nothing: verdicts are not looked at. Each chapter runs
in a process of its own; the exit status is 0 if all of them reached their end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


def code_cells(path: Path) -> list[tuple[int, str, list[str]]]:
    """Position, source and tags of the cells that run; the one that installs nclib does not."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    found = [(i, "".join(c["source"]), c["metadata"].get("tags", []))
             for i, c in enumerate(cells) if c["cell_type"] == "code"]
    return [c for c in found if "nbval-skip" not in c[2]]


def perform(path: Path) -> dict:
    """Run the notebook in this process; say how far it came and what stopped it."""
    import matplotlib
    from fakecuda import fake_cuda
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    matplotlib.use("agg")
    shell, cells, remarks = InteractiveShell.instance(), code_cells(path), set()
    os.chdir(tempfile.mkdtemp())  # a chapter needs nothing beside it

    def notice(message, category, filename, lineno, file=None, line=None):
        if "deterministic" in str(message):
            remarks.add(str(message).split(" does not")[0])

    with fake_cuda(), warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = notice
        for done, (number, source, tags) in enumerate(cells):
            print(json.dumps({"done": done, "of": len(cells), "cell": number}), flush=True)
            with capture_output():
                result = shell.run_cell(source, store_history=False)
                if "parameters" in tags:
                    shell.user_ns["preset"] = "gpu"
            error = result.error_before_exec or result.error_in_exec
            if error is not None:
                return {"done": done, "of": len(cells), "cell": number, "remarks": sorted(remarks),
                        "error": f"{type(error).__name__}: {str(error).strip()[:400]}",
                        "at": places(error)}
    return {"done": len(cells), "of": len(cells), "remarks": sorted(remarks), "error": None}


def places(error: BaseException) -> list[str]:
    """Lines of the chapter and of nclib that led to the error, the innermost last."""
    found, trace = [], error.__traceback__
    while trace is not None:
        name, line = trace.tb_frame.f_code.co_filename, trace.tb_lineno
        if f"{os.sep}nclib{os.sep}" in name:
            found.append(f"nclib/{name.rsplit(f'{os.sep}nclib{os.sep}', 1)[1]}:{line}")
        elif "ipython-input" in name or "ipykernel" in name:
            found.append(f"line {line} of the cell")
        trace = trace.tb_next
    return found[-4:]


def rehearse(path: Path, limit: float) -> dict:
    """:func:`perform` in a process of its own, with a time limit."""
    paths = [str(ROOT), str(HERE), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "NCLIB_REHEARSE": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "MPLBACKEND": "agg",
    }
    with tempfile.TemporaryDirectory() as scratch:
        environment |= {"IPYTHONDIR": scratch, "TMPDIR": scratch}
        command = [sys.executable, str(HERE / "rehearse.py"), "--perform", str(path)]
        try:
            process = subprocess.run(
                command, capture_output=True, text=True, timeout=limit, env=environment,
            )
            out, end = process.stdout, process.stderr.strip()[-400:]
        except subprocess.TimeoutExpired as error:
            out = error.stdout or ""
            out, end = out.decode() if isinstance(out, bytes) else out, f"over {limit:.0f} s"
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    last = lines[-1] if lines else {"done": 0, "of": 0}
    return last if "error" in last else last | {"error": end or "ended early", "remarks": []}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slugs", nargs="*", metavar="SLUG", help="default: all chapters")
    parser.add_argument("--limit", type=float, default=1800, help="seconds for each chapter")
    parser.add_argument("--chapters", type=Path, default=ROOT / "chapters", help=argparse.SUPPRESS)
    parser.add_argument("--perform", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.perform:
        print(json.dumps(perform(given.perform)), flush=True)
        return 0
    slugs = given.slugs or sorted(p.stem for p in given.chapters.glob("*.ipynb"))
    missing = [slug for slug in slugs if not (given.chapters / f"{slug}.ipynb").exists()]
    if missing:
        parser.error(f"no chapter {', '.join(missing)}")
    failed = 0
    for slug in slugs:
        begun = time.perf_counter()
        found = rehearse(given.chapters / f"{slug}.ipynb", given.limit)
        failed += found["error"] is not None
        word = "ok" if found["error"] is None else f"FAILED in cell {found.get('cell')}"
        print(f"{slug:22} {found['done']:3} of {found['of']} cells, "
              f"{time.perf_counter() - begun:4.0f} s  {word}")
        if found["error"]:
            print(f"    {found['error']}\n    {' → '.join(found.get('at', []))}")
        for remark in found["remarks"]:
            print(f"    no deterministic kernel: {remark}")
        sys.stdout.flush()
    print(f"{len(slugs) - failed} of {len(slugs)} chapters reached their end")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
