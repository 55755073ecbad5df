"""Executes variants in parallel, keeps what finished, and compares it with what is stored."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from tqdm import tqdm

from . import hashes, job, records
from .layout import DEFAULT, BookError, Layout, dumps, read_notebook, write
from .plan import Variant

TIMEOUT = 3600.0
CONNECT = 15.0  # seconds that a Dask scheduler gets to answer


@dataclass
class Row:
    """One line of the table at the end."""

    label: str
    status: str
    seconds: float | None = None
    ok: bool = True
    details: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Options:
    jobs: int | None = None
    threads: int | None = None
    scheduler: str | None = None
    force: bool = False
    timeout: float = TIMEOUT
    download: bool = False


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def hash_of(chapter: NotebookNode, parameters: dict) -> dict:
    """What a run of this chapter depends on: cells and parameters, what it imports, torch."""
    return code_hash(chapter, parameters) | {"torch": hashes.torch_version()}


def code_hash(chapter: NotebookNode, parameters: dict) -> dict:
    """The part of :func:`hash_of` that does not depend on torch."""
    return {
        "cells": hashes.cells_hash(chapter, parameters),
        "library": hashes.chapter_library_hash(chapter),
    }


def up_to_date(layout: Layout, variant: Variant, expected: dict) -> bool:
    """Did this variant finish here with the same cells, parameters, nclib and torch?"""
    path = layout.fresh(variant.slug, variant.name)
    if not path.exists():
        return False
    try:
        return read_notebook(path).metadata.get("nclib", {}).get("hash") == expected
    except BookError:
        return False


def run(layout: Layout, variants: list[Variant], options: Options) -> list[Row]:
    """Run what is not up to date; write each finished notebook at once; return one row each."""
    chapters = {v.slug: read_notebook(layout.chapter(v.slug)) for v in variants}
    expected = {v.label: hash_of(chapters[v.slug], v.parameters) for v in variants}
    rows: dict[str, Row] = {}
    todo: list[Variant] = []
    with locked(layout.runs):
        for variant in variants:
            if not options.force and up_to_date(layout, variant, expected[variant.label]):
                rows[variant.label] = guarded(variant.label, judge_file, layout, variant.slug,
                                              variant.name)
                rows[variant.label].status += ", up to date"
            else:
                todo.append(variant)
        changed = changed_since_commit(layout.root)
        payloads = [
            payload_of(v, chapters[v.slug], expected[v.label], options, changed) for v in todo
        ]

        def keep(index: int, result: dict) -> Row:
            variant = todo[index]
            row = guarded(variant.label, _keep, layout, variant, result)
            rows[variant.label] = row
            return row

        work(payloads, options, keep, [expected_seconds(layout, v) for v in todo])
    return [rows[v.label] for v in variants]


def guarded(label: str, function: Callable[..., Row], *arguments) -> Row:
    """The row that a function makes; a fault of one result fails its row and nothing else."""
    try:
        return function(*arguments)
    except Exception as error:
        reason = str(error) if isinstance(error, BookError) else f"{type(error).__name__}: {error}"
        return Row(label, "failed", ok=False, details=[reason])


@contextmanager
def locked(folder) -> Iterator[None]:
    """Hold a folder of results: one runner at a time, and one that can write there.

    Raises:
        BookError: another runner is at work there, or nothing can be written.
    """
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = open(path, "a+", encoding="utf-8")
    except OSError as error:
        raise BookError(f"cannot write to {folder}: {error.strerror}") from None
    with stream:
        try:
            import fcntl

            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # Windows: no lock
            pass
        except OSError:
            stream.seek(0)
            owner = stream.read().strip() or "unknown"
            raise BookError(f"another runner (process {owner}) is at work in {folder}") from None
        try:
            stream.truncate(0)
            stream.write(str(os.getpid()))
            stream.flush()
        except OSError as error:
            raise BookError(f"cannot write to {folder}: {error.strerror}") from None
        yield


def expected_seconds(layout: Layout, variant: Variant) -> float | None:
    """How long a run may take, from what is stored; ``None`` where nothing is."""
    for name in (variant.name, DEFAULT):
        with suppress(BookError):
            record = records.of_file(layout.stored(variant.slug, name))
            if record:
                return record["run"].get("seconds")
    return None


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def lanes(options: Options) -> tuple[int, int | None]:
    """Notebooks at a time, and threads of each: one job a core with one thread."""
    jobs = max(1, options.jobs or cores())
    threads = options.threads
    if threads is None and not options.scheduler:
        threads = max(1, cores() // jobs)
    return jobs, threads


def work(
    payloads: list[dict], options: Options, keep: Callable[[int, dict], Row],
    times: list[float | None],
) -> None:
    """Run the jobs here or on a cluster, longest first; hand over each result as it comes.

    ``keep`` gets a job's place in ``payloads``, whose expected seconds are ``times``.
    """
    jobs, threads = lanes(options)
    for payload in payloads:
        payload["threads"] = payload["threads"] or threads
    if not payloads:
        return
    job.sweep()
    known = [t for t in times if t]
    if known and len(payloads) > 1:
        mean = sum(known) / len(known)
        total = sum(t or mean for t in times) / min(jobs, len(payloads))
        say(f"{len(payloads)} runs, {jobs} at a time: about {duration(max(total, *known))}")
    order = sorted(range(len(payloads)), key=lambda i: -(times[i] or 0.0))
    queue = [payloads[i] for i in order]
    results = _on_cluster(queue, options) if options.scheduler else _here(queue, jobs)
    # closing(): an interrupt anywhere in the loop ends the running notebooks at once.
    with closing(results), tqdm(total=len(payloads), disable=None, unit="run", leave=False) as bar:
        for index, result in results:
            row = keep(order[index], result)
            bar.update()
            if bar.disable:
                seconds = "" if row.seconds is None else f" ({row.seconds:.0f} s)"
                say(f"{row.label}: {row.status}{seconds}")


def say(line: str, stream=None) -> None:
    """Print a line; a closed pipe or an encoding without ✓ ends nothing."""
    stream = stream or sys.stdout
    with suppress(BrokenPipeError, ValueError):
        try:
            print(line, file=stream, flush=True)
        except UnicodeEncodeError:
            encoding = getattr(stream, "encoding", None) or "ascii"
            print(line.encode(encoding, "replace").decode(encoding), file=stream, flush=True)


def changed_since_commit(root: Path) -> bool:
    """Does a tracked file that decides a run differ from the commit? False without git."""
    command = ["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no", "--",
               "nclib", "chapters/*.ipynb"]
    try:
        found = subprocess.run(command, capture_output=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return False
    return bool(found.stdout.strip())


def provenance(root: Path) -> dict:
    """Commit (``+changes`` where a file that decides a run differs from it) and torch."""
    commit = None
    with suppress(OSError, subprocess.SubprocessError):
        found = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True,
                               text=True, check=True, timeout=30)
        commit = found.stdout.strip() + ("+changes" if changed_since_commit(root) else "")
    return {"commit": commit, "torch": hashes.torch_version()}


def raised(nb: NotebookNode | None) -> str | None:
    """The name of the error that ended a notebook; ``None`` where no cell raised."""
    outputs = (o for c in (nb.cells if nb else ()) for o in c.get("outputs", ()))
    return next((o.ename for o in outputs if o.output_type == "error"), None)


def search_path(folder: Path | str) -> str:
    """``PYTHONPATH`` with this folder in front."""
    return os.pathsep.join(p for p in (str(folder), os.environ.get("PYTHONPATH")) if p)


def payload_of(variant: Variant, chapter: NotebookNode, expected: dict, options: Options,
               changed: bool = False) -> dict:
    """What ``job.execute`` needs to run a variant of a chapter."""
    stamp = {"variant": variant.name, "parameters": variant.parameters, "hash": expected,
             "changed": changed}
    return {
        "notebook": dumps(chapter), "parameters": variant.parameters, "needs": list(variant.needs),
        "download": options.download, "threads": None, "timeout": options.timeout, "stamp": stamp,
    }


def _here(payloads: list[dict], jobs: int) -> Iterator[tuple[int, dict]]:
    """Results as they come; each thread only waits for processes of its own."""
    pool = futures.ThreadPoolExecutor(jobs)
    pending: dict[futures.Future, int] = {}
    try:
        for index, payload in enumerate(payloads):
            pending[pool.submit(job.execute, payload)] = index
        for future in futures.as_completed(pending):
            error = future.exception()
            yield pending[future], _lost(error, "job") if error else future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        job.stop_all()
        deadline = time.monotonic() + 5 * job.GRACE
        while not all(f.done() for f in pending) and time.monotonic() < deadline:
            time.sleep(0.05)  # one may have been about to start
            job.stop_all()


def _on_cluster(payloads: list[dict], options: Options) -> Iterator[tuple[int, dict]]:
    """The same function on the workers of a Dask cluster, sent by value."""
    import cloudpickle
    from distributed import Client, as_completed
    from distributed.client import FutureCancelledError

    address = options.scheduler
    own = job.library()
    payloads = [{**payload, "library": own} for payload in payloads]
    cloudpickle.register_pickle_by_value(job)
    # A lost scheduler is reported below in one line; Dask logs the same with its stack.
    log = logging.getLogger("distributed.client")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        asyncio.run(_answers(address))
        with Client(address) as client:
            if not client.scheduler_info()["workers"]:
                try:
                    client.wait_for_workers(1, timeout=min(60.0, options.timeout))
                except TimeoutError:
                    raise BookError(f"the Dask scheduler at {address} has no workers") from None
            pending = {client.submit(job.execute, p, pure=False): i for i, p in enumerate(payloads)}
            try:
                for future in as_completed(pending):
                    error = future.exception()
                    result = _lost(error, "worker") if error else future.result()
                    yield pending[future], result
            finally:
                if client.status == "running":
                    with suppress(Exception):
                        client.cancel(list(pending))
                        client.run(job.stop_all)
    except FutureCancelledError:
        raise BookError(
            f"the Dask scheduler at {address} was lost; what finished is kept, run again to go on"
        ) from None
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BookError(f"no Dask scheduler at {address}: {reason}") from None
    finally:
        log.setLevel(level)
        cloudpickle.unregister_pickle_by_value(job)


async def _answers(address: str) -> None:
    """Wait for a Dask handshake: a client on a port that does not speak Dask waits for ever."""
    from distributed.comm import connect

    async def shake() -> None:
        comm = await connect(address, timeout=CONNECT)
        await comm.close()

    await asyncio.wait_for(shake(), CONNECT)


def _lost(error: BaseException, where: str) -> dict:
    message = f"{where}: {type(error).__name__}: {error}"
    return {"status": "failed", "notebook": None, "seconds": 0.0, "message": message}


def _keep(layout: Layout, variant: Variant, result: dict) -> Row:
    """Write the notebook of a finished job, or the partial one of a failed job beside it."""
    path = layout.fresh(variant.slug, variant.name)
    failed = path.with_name(f"{variant.name}.failed.ipynb")
    if result["status"] == "not run":
        return Row(variant.label, f"not run: {result['message']}", result["seconds"])
    if result["status"] == "failed":
        details = result["message"].splitlines()
        if result["notebook"]:
            write(failed, result["notebook"])
            details.append(f"partial notebook: {failed}")
        return Row(variant.label, "failed", result["seconds"], ok=False, details=details)
    nb = nbformat.from_dict(json.loads(result["notebook"]))
    write(path, dumps(nb))
    failed.unlink(missing_ok=True)
    row = judge_file(layout, variant.slug, variant.name)
    row.seconds = result["seconds"]
    return row


def judge_file(layout: Layout, slug: str, variant: str) -> Row:
    """Compare an executed notebook with its stored record."""
    label = f"{slug}/{variant}"
    fresh = records.of_file(layout.fresh(slug, variant))
    if fresh is None:
        return Row(label, "no record", ok=False)
    stored, values = records.reference(layout, slug, variant, fresh["run"]["preset"])
    seconds = fresh["run"].get("seconds")
    status = records.score_text(fresh)
    if stored is None:
        return Row(label, f"{status}, nothing stored to compare with", seconds)
    differences = records.compare(stored, fresh, verdicts_only=not values)
    if differences:
        return Row(label, f"{status}, {len(differences)} changed", seconds, False, differences)
    return Row(label, status, seconds)


def table(rows: list[Row], stream=None) -> None:
    """Print the rows, then what is behind each one that is not in order."""
    if not rows:
        say("nothing run or stored yet", stream)
    width = max([len(r.label) for r in rows], default=0)
    for row in rows:
        mark = "✓" if row.ok and not row.status.startswith("not run") else "–" if row.ok else "✗"
        seconds = "" if row.seconds is None else f"{row.seconds:.0f} s"
        say(f"{mark} {row.label:<{width}}  {seconds:>7}  {row.status}", stream)
    for row in rows:
        for line in row.details:
            say(f"  {row.label}: {line}", stream)


def exit_code(rows: list[Row]) -> int:
    return 0 if all(r.ok for r in rows) else 1
