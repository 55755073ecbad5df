"""One job: a notebook in, an executed notebook out.

Stands alone, so that a Dask worker needs nclib and papermill but neither this package nor a shared
disk: the function travels by value, the notebook as text.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

_running: set[subprocess.Popen] = set()


def library_hash() -> str | None:
    """SHA-256 of nclib's sources and arrays as installed here; ``None`` where it is not."""
    spec = importlib.util.find_spec("nclib")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".py", ".npz"):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def unmet(needs: list[str], download: bool) -> str | None:
    """Why this machine cannot run a variant with these needs; ``None`` where it can."""
    for need in needs:
        kind, _, name = need.partition(":")
        if kind == "gpu":
            import torch

            if not torch.cuda.is_available():
                return "needs a CUDA device"
        elif kind == "network" and not download:
            return "needs the network (--download allows it)"
        elif kind == "data" and not download:
            from nclib import data

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
            leave as is), ``timeout`` in seconds, and ``stamp``: the metadata to leave in the
            executed notebook under ``nclib``.

    Returns:
        ``status`` (``"done"``, ``"failed"`` or ``"not run"``), ``notebook`` (text or ``None``),
        ``seconds`` and ``message``.
    """
    reason = unmet(job["needs"], job["download"])
    if reason:
        return {"status": "not run", "notebook": None, "seconds": 0.0, "message": reason}
    env = dict(os.environ)
    if job["threads"]:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            env[name] = str(job["threads"])
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="reproduce-") as scratch:
        folder = Path(scratch)
        source, target = folder / "in.ipynb", folder / "out.ipynb"
        source.write_text(job["notebook"], encoding="utf-8")
        # Not JSON: YAML would read its 1e-05 as text.
        (folder / "parameters.yml").write_text(yaml.safe_dump(job["parameters"]), encoding="utf-8")
        (folder / "empty").mkdir()
        command = [
            sys.executable, "-m", "papermill", str(source), str(target),
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
    if notebook is not None:
        _stamp(notebook, job["stamp"])
        if code == 0 and not _has_record(notebook):
            code, tail = 1, "no claims report in the notebook"
        notebook = json.dumps(notebook)
    status = "done" if code == 0 else "failed"
    return {"status": status, "notebook": notebook, "seconds": seconds, "message": tail}


def _run(command: list[str], env: dict, log, timeout: float) -> int | None:
    """Exit status of a command in a process group of its own; ``None`` when out of time."""
    process = subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )
    _running.add(process)
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        stop(process)
        return None
    finally:
        _running.discard(process)


def stop(process: subprocess.Popen, grace: float = 10.0) -> None:
    """End papermill; it takes its kernel along. What does not heed is killed."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def stop_all() -> None:
    """End every notebook that this process runs."""
    for process in list(_running):
        stop(process)


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
    for cell in notebook["cells"]:
        if "injected-parameters" in cell["metadata"].get("tags", []):
            cell["id"] = "injected-parameters"
    hashes = {"cells": stamp["cells"], "library": library_hash()}
    notebook["metadata"]["nclib"] = {
        "variant": stamp["variant"], "parameters": stamp["parameters"], "hash": hashes,
    }
