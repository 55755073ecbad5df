"""One job: a notebook in, an executed notebook out.

Stands alone, so that a Dask worker needs nclib and papermill but neither this package nor a shared
disk: the function travels by value, the notebook as text.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import yaml

PREFIX = "reproduce-"
OWNER = "owner"  # in a scratch folder: the runner's process, then papermill's
GRACE = 2.0  # seconds that notebooks get to end by themselves

_running: set[subprocess.Popen] = set()


def unmet(needs: list[str], download: bool) -> str | None:
    """Why this machine cannot run a variant with these needs; ``None`` where it can."""
    for need in needs:
        kind, _, name = need.partition(":")
        try:
            reason = _unmet(kind, name, download)
        except Exception as error:  # an unknown data set, a broken driver: a reason, no crash
            reason = f"needs {name or kind}: {type(error).__name__}: {error}"
        if reason:
            return reason.splitlines()[0]
    return None


def _unmet(kind: str, name: str, download: bool) -> str | None:
    if kind == "gpu":
        import torch

        return None if torch.cuda.is_available() else "needs a CUDA device"
    if kind == "network":
        return None if download else "needs the network (--download allows it)"
    if kind != "data":
        return f"needs {kind}, which is unknown here"
    from nclib import data

    if name in getattr(data, "REGRESSION", ()):
        data.load_regression(name)
        return None
    if name not in data.SOURCES:
        return f"needs the data set {name}, which nclib cannot load"
    if not download:
        try:
            for split in data.SPLITS:
                data.load(name, split, download=False)
        except data.DataError:
            return f"needs the data set {name} (--download fetches it)"
    return None


def execute(job: dict) -> dict:
    """Run one notebook with papermill, in an empty folder and in processes of its own.

    Args:
        job: ``notebook`` (text), ``parameters``, ``needs``, ``download``, ``threads`` (``None``:
            leave as is), ``timeout`` in seconds, ``stamp``: the metadata to leave in the executed
            notebook under ``nclib``, and optionally ``env``: further environment variables,
            ``python``: another interpreter that has papermill, and ``library``: the digest that
            this machine's nclib must have.

    Returns:
        ``status`` (``"done"``, ``"failed"`` or ``"not run"``), ``notebook`` (text or ``None``),
        ``seconds`` and ``message``.
    """
    if job.get("library") and library() != job["library"]:
        message = "this worker has another nclib: install the same commit there"
        return {"status": "failed", "notebook": None, "seconds": 0.0, "message": message}
    reason = unmet(job["needs"], job["download"])
    if reason:
        return {"status": "not run", "notebook": None, "seconds": 0.0, "message": reason}
    env = dict(os.environ) | job.get("env", {})
    if job["threads"]:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            env[name] = str(job["threads"])
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        if not os.access(os.path.expanduser("~"), os.W_OK):  # Jupyter and matplotlib write there
            for name in ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "MPLCONFIGDIR", "XDG_CACHE_HOME"):
                env.setdefault(name, str(folder / name.lower()))
                Path(env[name]).mkdir(parents=True, exist_ok=True)
        (folder / OWNER).write_text(str(os.getpid()), encoding="utf-8")
        source, target = folder / "in.ipynb", folder / "out.ipynb"
        source.write_text(job["notebook"], encoding="utf-8")
        # Not JSON: YAML would read its 1e-05 as text.
        (folder / "parameters.yml").write_text(yaml.safe_dump(job["parameters"]), encoding="utf-8")
        (folder / "empty").mkdir()
        command = [
            job.get("python") or sys.executable, "-m", "papermill", str(source), str(target),
            "--kernel", "python3", "--cwd", str(folder / "empty"),
            "--no-progress-bar", "--log-level", "ERROR",
            "--parameters_file", str(folder / "parameters.yml"),
        ]
        with open(folder / "log", "w+", encoding="utf-8") as log:
            code = _run(command, env, log, job["timeout"])
            log.seek(0)
            tail = "\n".join(log.read().splitlines()[-25:])
        notebook = json.loads(target.read_text(encoding="utf-8")) if target.exists() else None
    seconds = time.perf_counter() - started
    if code is None:
        tail = f"stopped after {job['timeout']} s"
    if code != 0:
        tail += _where(notebook)
    if notebook is not None:
        _stamp(notebook, job["stamp"])
        if code == 0 and not _has_record(notebook):
            code, tail = 1, "no claims report in the notebook"
        notebook = json.dumps(notebook)
    status = "done" if code == 0 else "failed"
    return {"status": status, "notebook": notebook, "seconds": seconds, "message": tail}


def _where(notebook: dict | None) -> str:
    """Which cell was at work when the notebook ended: the last that papermill saw start."""
    begun = [
        (index, cell) for index, cell in enumerate(notebook["cells"] if notebook else ())
        if cell["metadata"].get("papermill", {}).get("start_time")
    ]
    if not begun:
        return ""
    index, cell = begun[-1]
    first = next(iter("".join(cell["source"]).splitlines()), "")
    return f"\nin cell {index} ({cell.get('id', 'no id')}): {first[:80]}"


def library() -> str | None:
    """A digest of the nclib that this Python imports: name and bytes of each of its modules."""
    spec = importlib.util.find_spec("nclib")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations)))
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _run(command: list[str], env: dict, log, timeout: float) -> int | None:
    """Exit status of a command in a process group of its own; ``None`` when out of time."""
    process = subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )
    _running.add(process)
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        stop(process, grace=10.0)  # papermill keeps what it has
        return None
    finally:
        _running.discard(process)


def _tree(pid: int) -> list:
    """A process and all below it, kernels included: they have process groups of their own."""
    try:
        import psutil
    except ImportError:
        return []
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def stop(*processes: subprocess.Popen, grace: float = GRACE) -> None:
    """End papermill and its kernels, all at once. What does not heed is killed."""
    running = [p for p in processes if p.poll() is None]
    below = [q for p in running for q in _tree(p.pid)]
    for process in running:
        with suppress(OSError):
            process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + grace
    while any(p.poll() is None for p in running) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in running:
        if process.poll() is None:
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
    for process in below:
        with suppress(Exception):  # gone already
            process.kill()
    for process in running:
        process.wait()


def _scratch() -> list[Path]:
    """Scratch folders of all runners on this machine; none where there is no temporary folder."""
    try:
        return sorted(Path(tempfile.gettempdir()).glob(f"{PREFIX}*"))
    except OSError:
        return []


def stop_all() -> None:
    """End every notebook that this process runs.

    On a Dask worker this function is a copy that shares no list with the copy at work: there the
    scratch folders say what is this process's own.
    """
    stop(*list(_running))
    for folder in _scratch():
        with suppress(OSError, ValueError):
            if int((folder / OWNER).read_text(encoding="utf-8")) == os.getpid():
                _end_inside(folder)


def sweep() -> list[Path]:
    """Remove what killed runners left: their scratch folders, and kernels still at work in them."""
    removed = []
    for folder in _scratch():
        try:
            owner = int((folder / OWNER).read_text(encoding="utf-8"))
            if _alive(owner):
                continue
        except (OSError, ValueError):
            continue
        _end_inside(folder)
        shutil.rmtree(folder, ignore_errors=True)
        removed.append(folder)
    return removed


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _end_inside(folder: Path) -> None:
    """End what works in a folder: papermill by its arguments, kernels by where they are."""
    try:
        import psutil
    except ImportError:
        return
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            here = process.cwd()
            if Path(here).is_relative_to(folder) or str(folder) in " ".join(process.cmdline()):
                process.kill()


def _reports(notebook: dict):
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            record = output.get("metadata", {}).get("nclib")
            if isinstance(record, dict) and "claims" in record:
                yield record


def _has_record(notebook: dict) -> bool:
    return any(True for _ in _reports(notebook))


def _stamp(notebook: dict, stamp: dict) -> None:
    """Name the variant in its record and the inputs in the notebook's metadata."""
    for record in _reports(notebook):
        record["run"]["variant"] = stamp["variant"]
        if stamp.get("changed") and record["run"].get("commit"):
            record["run"]["commit"] += "+changes"  # the commit alone does not make this run again
    for cell in notebook["cells"]:
        if "injected-parameters" in cell["metadata"].get("tags", []):
            cell["id"] = "injected-parameters"
    notebook["metadata"]["nclib"] = {
        "variant": stamp["variant"], "parameters": stamp["parameters"], "hash": stamp["hash"],
    }
