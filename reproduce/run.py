"""Executes variants in parallel, keeps what finished, and compares it with what is stored."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from concurrent import futures
from contextlib import closing
from dataclasses import dataclass, field

import nbformat
from nbformat import NotebookNode
from tqdm import tqdm

from . import job, records
from .layout import BookError, Layout, dumps, read_notebook, write
from .plan import Variant, cells_hash

TIMEOUT = 3600.0


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


def up_to_date(
    layout: Layout, variant: Variant, chapter: NotebookNode, library: str | None
) -> bool:
    """Did this variant finish here with the same cells, parameters and nclib?"""
    path = layout.fresh(variant.slug, variant.name)
    if not path.exists():
        return False
    try:
        found = read_notebook(path).metadata.get("nclib", {}).get("hash")
    except BookError:
        return False
    return found == {"cells": cells_hash(chapter, variant.parameters), "library": library}


def run(layout: Layout, variants: list[Variant], options: Options) -> list[Row]:
    """Run what is not up to date; write each finished notebook at once; return one row each."""
    chapters = {v.slug: read_notebook(layout.chapter(v.slug)) for v in variants}
    library = job.library_hash()
    rows: dict[str, Row] = {}
    todo: list[Variant] = []
    for variant in variants:
        if not options.force and up_to_date(layout, variant, chapters[variant.slug], library):
            rows[variant.label] = judge_file(layout, variant.slug, variant.name)
            rows[variant.label].status += ", up to date"
        else:
            todo.append(variant)
    jobs = max(1, options.jobs or cores() // 2)
    threads = options.threads
    if threads is None and not options.scheduler:
        threads = max(1, cores() // min(jobs, max(1, len(todo))))
    payloads = [_payload(v, chapters[v.slug], threads, options) for v in todo]
    results = (
        _on_cluster(payloads, options.scheduler) if options.scheduler else _here(payloads, jobs)
    )
    # closing(): an interrupt anywhere in the loop ends the running notebooks at once.
    with closing(results), tqdm(total=len(todo), disable=None, unit="run", leave=False) as bar:
        for index, result in results:
            row = rows[todo[index].label] = _keep(layout, todo[index], result)
            bar.update()
            if bar.disable:
                print(f"{row.label}: {row.status} ({row.seconds:.0f} s)", flush=True)
    return [rows[v.label] for v in variants]


def _payload(variant: Variant, chapter: NotebookNode, threads, options: Options) -> dict:
    stamp = {
        "variant": variant.name,
        "parameters": variant.parameters,
        "cells": cells_hash(chapter, variant.parameters),
    }
    return {
        "notebook": dumps(chapter), "parameters": variant.parameters, "needs": list(variant.needs),
        "download": options.download, "threads": threads, "timeout": options.timeout,
        "stamp": stamp,
    }


def _here(payloads: list[dict], jobs: int) -> Iterator[tuple[int, dict]]:
    """Results as they come; each thread only waits for processes of its own."""
    pool = futures.ThreadPoolExecutor(jobs)
    try:
        pending = {pool.submit(job.execute, p): i for i, p in enumerate(payloads)}
        for future in futures.as_completed(pending):
            yield pending[future], future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        job.stop_all()
        pool.shutdown()


def _on_cluster(payloads: list[dict], address: str) -> Iterator[tuple[int, dict]]:
    """The same function on the workers of a Dask cluster, sent by value."""
    import cloudpickle
    from distributed import Client, as_completed

    cloudpickle.register_pickle_by_value(job)
    try:
        with Client(address) as client:
            pending = {client.submit(job.execute, p, pure=False): i for i, p in enumerate(payloads)}
            for future in as_completed(pending):
                error = future.exception()
                yield pending[future], _lost(error) if error else future.result()
    except OSError as error:
        raise BookError(f"no Dask scheduler at {address}: {error}") from None
    finally:
        cloudpickle.unregister_pickle_by_value(job)


def _lost(error: BaseException) -> dict:
    return {"status": "failed", "notebook": None, "seconds": 0.0, "message": f"worker: {error!r}"}


def _keep(layout: Layout, variant: Variant, result: dict) -> Row:
    """Write the notebook of a finished job, or the partial one of a failed job beside it."""
    path = layout.fresh(variant.slug, variant.name)
    failed = path.with_name(f"{variant.name}.failed.ipynb")
    if result["status"] == "not run":
        return Row(variant.label, f"not run: {result['message']}", result["seconds"])
    if result["status"] == "failed":
        path.unlink(missing_ok=True)  # an earlier result no longer stands
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
    done, total = records.score(fresh)
    status = f"reproduced {done}/{total}"
    if stored is None:
        return Row(label, f"{status}, nothing stored to compare with", seconds)
    differences = records.compare(stored, fresh, verdicts_only=not values)
    if differences:
        return Row(label, f"{status}, {len(differences)} changed", seconds, False, differences)
    return Row(label, status, seconds)


def table(rows: list[Row], stream=None) -> None:
    """Print the rows, then what is behind each one that is not in order."""
    stream = stream or sys.stdout
    if not rows:
        print("nothing run or stored yet", file=stream)
    width = max([len(r.label) for r in rows], default=0)
    for row in rows:
        mark = "✓" if row.ok and not row.status.startswith("not run") else "–" if row.ok else "✗"
        seconds = "" if row.seconds is None else f"{row.seconds:.0f} s"
        print(f"{mark} {row.label:<{width}}  {seconds:>7}  {row.status}", file=stream)
    for row in rows:
        for line in row.details:
            print(f"  {row.label}: {line}", file=stream)


def exit_code(rows: list[Row]) -> int:
    return 0 if all(r.ok for r in rows) else 1
