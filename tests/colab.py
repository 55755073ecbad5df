"""Plays Colab: each notebook alone in an empty folder, nclib installed by its own first cell.

    python tests/colab.py                    every chapter and the notebooks of pages/
    python tests/colab.py hadamard-softmax   only these
    python tests/colab.py --elsewhere SLUG   outside Colab, with torch and Jupyter alone: the first
                                             cell brings what is missing
    python tests/colab.py --commit HEAD      another commit than the one of the stored outputs

A fresh environment in ``_build/colab`` holds Colab's versions of the packages around torch, and a
module ``google.colab`` that is there from the start, as in Colab. nclib is not there. The address
in the first cell is replaced by this repository at the commit that the stored record names, so that
what is installed is what made the outputs. The preset is ``cpu``. Fails when a verdict differs from
the stored one, a notebook raises, or torch or numpy has changed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import papermill

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from reproduce import records  # noqa: E402
from reproduce.hashes import INSTALL  # noqa: E402
from reproduce.layout import BookError, Layout, read_notebook, tags  # noqa: E402
from reproduce.ledger import url_of  # noqa: E402

LAYOUT = Layout(ROOT)
# Around torch, as Colab had them when this was written; torch is the book's own.
COLAB = ("ipython==7.34.0", "ipykernel==6.17.1", "numpy==2.1.*", "scipy==1.16.*",
         "scikit-learn==1.6.*", "matplotlib==3.10.*")
BARE = ("ipykernel",)
KEPT = ("torch", "numpy")
TIMEOUT = 1800


def pinned(name: str) -> str:
    """A requirement as constraints.txt pins it."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith(f"{name}=="))


class Environment:
    """A virtual environment without nclib, as Colab's or as a plain one."""

    def __init__(self, folder: Path, *, colab: bool):
        self.folder, self.colab = folder, colab
        self.python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"

    def make(self) -> None:
        """Make it anew, with torch first: later resolutions keep that build."""
        shutil.rmtree(self.folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(self.folder)], check=True)
        self.pip("install", pinned("torch"))
        self.pip("install", *(COLAB if self.colab else BARE))
        if self.colab:
            module = self.site() / "google" / "colab"
            module.mkdir(parents=True)
            (module / "__init__.py").write_text("")
            (self.site() / "colab.pth").write_text("import google.colab\n")

    def pip(self, *arguments: str) -> None:
        command = [str(self.python), "-m", "pip", "--quiet", "--disable-pip-version-check",
                   "--no-input", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"pip {' '.join(arguments)}: {done.stderr.strip()[-800:]}")

    def says(self, code: str) -> str:
        """What this interpreter prints."""
        return subprocess.run([str(self.python), "-c", code], capture_output=True, text=True,
                              check=True).stdout.strip()

    def site(self) -> Path:
        return Path(self.says("import sysconfig; print(sysconfig.get_path('purelib'))"))

    def without_nclib(self) -> None:
        """Remove what the first cell of an earlier notebook installed."""
        self.pip("uninstall", "--yes", "neural-collapse-reproduced")

    def versions(self) -> dict[str, str]:
        """Version of every package here, by name."""
        return json.loads(self.says(
            "import importlib.metadata as m, json\n"
            "print(json.dumps({d.name.lower(): d.version for d in m.distributions()}))"))

    def kernel(self, folder: Path) -> dict[str, str]:
        """Environment variables under which the kernel ``colab`` is this interpreter's."""
        spec = folder / "kernels" / "colab"
        spec.mkdir(parents=True)
        argv = [str(self.python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        (spec / "kernel.json").write_text(json.dumps(
            {"argv": argv, "display_name": "colab", "language": "python"}))
        return {"JUPYTER_PATH": str(folder), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
                "PYDEVD_DISABLE_FILE_VALIDATION": "1"}


def commit_of(record: dict | None, given: str | None) -> str:
    """The commit to install from.

    Raises:
        BookError: the record names none, or one that this repository does not have.
    """
    name = given or (record["run"]["commit"] if record else "HEAD") or ""
    if name.endswith("+changes"):
        raise BookError(f"the stored outputs were made from uncommitted changes on {name[:12]}: "
                        "store a run of a commit, or give --commit")
    command = ["git", "-C", str(ROOT), "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise BookError(f"this repository has no commit {name or 'in the record'}: give --commit")
    return found.stdout.strip()


def prepared(path: Path, commit: str) -> nbformat.NotebookNode:
    """The notebook with this repository's address in its first cell, outputs cleared.

    Raises:
        BookError: the first cell does not install from the book's address.
    """
    nb = read_notebook(path)
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    cell = next(c for c in nb.cells if INSTALL in tags(c))
    address = re.compile(rf"git\+{re.escape(url_of(LAYOUT))}(?![\w-])")
    if len(address.findall(cell.source)) != 1:
        raise BookError(f"{path.name}: the first cell does not install from {url_of(LAYOUT)}")
    cell.source = address.sub(f"git+file://{ROOT}@{commit}", cell.source)
    return nb


def play(path: Path, environment: Environment, given: str | None) -> list[str]:
    """Run one notebook; what is wrong with it, and nothing where all is well."""
    chapter = path.parent == LAYOUT.chapters
    stored = records.of_preset(LAYOUT, path.stem, "cpu") if chapter else None
    commit = commit_of(stored, given)
    environment.without_nclib()
    before = environment.versions()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="colab-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        empty = folder / "content"
        empty.mkdir()
        source, target = empty / path.name, folder / "out.ipynb"
        nbformat.write(prepared(path, commit), source)
        kept = dict(os.environ)
        os.environ.update(environment.kernel(folder / "jupyter"))
        os.environ.pop("PYTHONPATH", None)
        try:
            papermill.execute_notebook(
                str(source), str(target), {"preset": "cpu"} if chapter else None,
                kernel_name="colab", cwd=str(empty), progress_bar=False,
                execution_timeout=TIMEOUT,
            )
        except papermill.PapermillExecutionError as error:
            return [f"raises {error.ename}: {error.evalue}"]
        finally:
            os.environ.clear()
            os.environ.update(kept)
        nb = nbformat.read(target, as_version=nbformat.NO_CONVERT)
    after, problems = environment.versions(), []
    for name in KEPT if environment.colab else ("torch",):
        if before[name] != after[name]:
            problems.append(f"{name} was {before[name]} and is {after[name]} now")
    if "neural-collapse-reproduced" not in after:
        problems.append("the first cell installed nothing")
    text = f"{time.perf_counter() - started:.0f} s, nclib of {commit[:12]}"
    if chapter:
        fresh = records.of_notebook(nb)
        if stored is None:
            problems.append("nothing is stored to compare with")
        else:
            problems += records.compare(stored, fresh, verdicts_only=True)
        text += f", {len(fresh['claims'])} verdicts, {records.score_text(fresh)}"
    print(f"{'✗' if problems else '✓'} {path.stem}: {text}", flush=True)
    return problems


def notebooks(slugs: list[str]) -> list[Path]:
    """The notebooks meant by these names; none: all."""
    known = {p.stem: p for p in [*map(LAYOUT.chapter, LAYOUT.slugs), *LAYOUT.notebooks]}
    unknown = [s for s in slugs if s not in known]
    if unknown:
        raise BookError(f"no notebook {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[s] for s in slugs] or list(known.values())


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slugs", nargs="*", metavar="SLUG")
    parser.add_argument("--elsewhere", action="store_true", help="a plain environment, no Colab")
    parser.add_argument("--commit", help="install nclib from here (default: the record's commit)")
    parser.add_argument("--keep", action="store_true", help="use the environment that is there")
    args = parser.parse_args(arguments)
    try:
        paths = notebooks(args.slugs)
        name = "elsewhere" if args.elsewhere else "colab"
        environment = Environment(ROOT / "_build" / name, colab=not args.elsewhere)
        if not (args.keep and environment.python.exists()):
            environment.make()
        found = environment.versions()
        asked = ("ipython", "ipykernel", "numpy", "torch")
        print(f"{name}: " + ", ".join(f"{n} {found.get(n, 'absent')}" for n in asked), flush=True)
        failed = 0
        for path in paths:
            try:
                problems = play(path, environment, args.commit)
            except BookError as error:
                problems = [str(error)]
            for problem in problems:
                print(f"  {path.stem}: {problem}", flush=True)
            failed += bool(problems)
    except BookError as error:
        print(f"colab: {error}", file=sys.stderr)
        return 2
    print(f"{len(paths) - failed} of {len(paths)} notebooks pass")
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
