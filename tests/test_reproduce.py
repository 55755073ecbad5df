"""The runner: what it refuses, what it runs, what it compares and what it stores."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import cloudpickle
import nbformat
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tiny import SLUG, chapter, claim, code, display_output, notebook, record

from reproduce import faults, hashes, job, ledger, plan, platforms, project, records, seeds, store
from reproduce import run as runner
from reproduce.__main__ import main
from reproduce.layout import BookError, Layout, dumps, read_notebook, write
from reproduce.run import Options, run

ROOT = Path(__file__).parent.parent


# --- compare --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"verdict": "not reproduced"}, "verdict was reproduced, now not reproduced"),
        ({"kind": "data"}, "kind was theory"),
        ({"bound": {"op": "below", "value": 2.0}}, "bound was below 1.0, now below 2.0"),
        ({"bound": {"op": "above", "value": 1.0}}, "bound was below 1.0, now above 1.0"),
        ({"measured": 0.61}, "measured 0.61, stored 0.5 ± 0.1"),
        ({"measured": "nan"}, "measured 'nan'"),
        ({"measured": None}, "measured None"),
        ({"measured": True}, "measured True"),
    ],
)
def test_compare_finds_each_difference(change, words):
    differences = records.compare(record(claim()), record(claim(**change)))
    assert len(differences) == 1
    assert words in differences[0]


def test_compare_goes_both_ways():
    good, bad = record(claim()), record(claim(verdict="not reproduced"))
    assert records.compare(good, bad) and records.compare(bad, good)


def test_compare_missing_and_new():
    old, new = record(claim("a"), claim("b")), record(claim("b"), claim("c"))
    assert records.compare(old, new) == ["a: claim is missing", "c: claim is new"]


def test_compare_exact_values():
    old = record(claim(measured=3, tolerance=0.0))
    assert not records.compare(old, record(claim(measured=3, tolerance=0.0)))
    assert records.compare(old, record(claim(measured=4, tolerance=0.0)))
    text = record(claim(measured="nan", tolerance=None))
    assert not records.compare(text, text)


@pytest.mark.parametrize(("measured", "bound", "moved", "same"), [
    (1e-14, {"op": "below", "value": 1e-4}, 5e-13, True),  # rounding, far from the bound
    (1e-14, {"op": "below", "value": 1e-4}, 2e-6, False),
    (0.3367783490045325, {"op": "above", "value": 0.0}, 0.3367783490045326, True),
    (0.5, {"op": "between", "value": [0.4, 2.0]}, 0.5009, True),
    (0.5, {"op": "between", "value": [0.4, 2.0]}, 0.5011, False),
    (0.5, {"op": "equals", "value": 0.5}, 0.5000001, False),
    (2, {"op": "below", "value": 1000}, 3, False),  # a count
])
def test_compare_leaves_room_for_rounding_alone(measured, bound, moved, same):
    old = claim(measured=measured, bound=bound, tolerance=0.0)
    assert records.agrees(old, moved, old["verdict"]) is same
    new = record(old | {"measured": moved})
    assert (records.compare(record(old), new) == []) is same


def test_compare_verdicts_only_ignores_values():
    old = record(claim(measured=0.1))
    assert not records.compare(old, record(claim(measured=0.9)), verdicts_only=True)
    assert records.compare(old, record(claim(verdict="not run")), verdicts_only=True)


@given(st.floats(-1e6, 1e6), st.floats(0, 1e3), st.floats(-2, 2))
def test_compare_is_the_distance(value, tolerance, steps):
    moved = value + steps * tolerance
    differences = records.compare(
        record(claim(measured=value, tolerance=tolerance)),
        record(claim(measured=moved, tolerance=tolerance)),
    )
    allowed = max(tolerance, abs(value - 1.0) / 100)  # the bound is 1
    if abs(moved - value) < 0.999 * allowed:
        assert not differences
    if abs(moved - value) > 1.001 * allowed + 1e-9:
        assert differences


def test_like_is_compared_with_like(book):
    def put(variant, preset, **kw):
        out = display_output({"nclib": record(preset=preset, variant=variant, **kw)})
        write(book.stored(SLUG, variant), dumps(notebook(code("1", "a", outputs=[out], count=1))))

    assert records.reference(book, SLUG, "default", "cpu") == (None, False)
    put("default", "gpu")
    found, values = records.reference(book, SLUG, "default", "cpu")
    assert found["run"]["preset"] == "gpu" and not values
    put("cpu", "cpu")
    found, values = records.reference(book, SLUG, "default", "cpu")
    assert found["run"]["variant"] == "cpu" and values
    found, values = records.reference(book, SLUG, "seed=7", "cpu")
    assert found["run"]["variant"] == "cpu" and not values
    put("seed-1", "cpu")
    found, values = records.reference(book, SLUG, "seed-1", "cpu")
    assert found["run"]["variant"] == "seed-1" and values


# --- what is refused before anything runs ---------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "no chapter 'nowhere'"),
        ([f"{SLUG}/nothing"], "no variant 'nothing'"),
        (["-p", "sead=1"], "unknown parameter 'sead'; the chapter has preset: str, seed: int"),
        (["-p", "seed=one"], "'seed' must be int"),
        (["-p", "seed=1.5"], "'seed' must be int"),
        (["-p", "shift=x"], "'shift' must be float"),
        (["-p", "shift=nan"], "'shift' must be finite"),
        (["-p", "shift=0.5,-inf"], "'shift' must be finite"),
        (["-p", "depths=3"], "'depths' must be list[int]"),
        (["-p", "depths=[a]"], "'depths' must be list[int]"),
        (["-p", "seed=9..0"], "'seed' must be int"),
        (["-p", "seed"], "expected name=value"),
    ],
)
def test_misuse_ends_with_2(book, capsys, arguments, words):
    assert main(["--root", str(book.root), "run", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not book.runs.exists()


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"title": "x", "parameters": {"sead": 1}}, "unknown parameter 'sead'"),
        ({"title": "x", "parameters": {"seed": "1"}}, "must be int, got '1' (str)"),
        ({"title": "x", "parameters": {"seed": True}}, "must be int, got True (bool)"),
        ({"title": "x", "parameters": {"shift": False}}, "must be float"),
        ({"title": "x", "parameters": {"shift": "5e-4"}}, "write 5.0e-4"),
        ({"title": "x", "parameters": {"seed": 1}, "need": ["gpu"]}, "unknown keys ['need']"),
        ({"title": "x", "parameters": {"seed": 1}, "needs": ["tpu"]}, "needs is a list of"),
        ({"title": "x", "parameters": {"seed": 1}, "needs": "gpu"}, "needs is a list of"),
        ({"title": "x", "parameters": {"seed": 1}, "needs": ["data:carla"]}, "cannot load carla"),
        ({"title": "x", "parameters": {"seed": 1}, "nearest": "yes"}, "nearest is true or absent"),
        ({"title": "x", "parameters": {"shift": float("nan")}}, "must be finite, got nan"),
        ({"parameters": {"seed": 1}}, "missing ['title']"),
        ({"title": "x", "parameters": {}}, "parameters must be a mapping"),
    ],
)
def test_variants_file_is_checked(book, entry, words):
    write(book.chapters / "variants.yml", yaml.safe_dump({SLUG: {"v": entry}}))
    with pytest.raises(BookError, match=SLUG) as error:
        plan.select(book, [])
    assert words in str(error.value)


@pytest.mark.parametrize(
    "table", [{"unknown": {}}, {SLUG: {"Bad Name": {}}}, {SLUG: {"default": {}}}, {SLUG: []}]
)
def test_variants_file_names(book, table):
    write(book.chapters / "variants.yml", yaml.safe_dump(table))
    with pytest.raises(BookError):
        plan.declared(book)


def test_float_takes_an_int_and_lists_are_typed():
    assert plan.fits(1, "float") and plan.fits([1], "list[int]") and plan.fits([1.0], "list")
    assert not plan.fits(1.0, "int") and not plan.fits([1.0], "list[int]")
    with pytest.raises(BookError):
        plan.fits({}, "dict")


def test_parameters_that_papermill_cannot_read():
    nb = notebook(code("a: int = 1  # b = 2", "p", "parameters"))
    with pytest.raises(BookError, match="papermill cannot read a"):
        plan.types_of(nb)


def test_sweeps(book):
    names = [v.name for v in plan.select(book, [SLUG], ["seed=0..2,7", "shift=0.5"])]
    assert names == [f"seed={s},shift=0.5" for s in (0, 1, 2, 7)]
    one, = plan.select(book, [f"{SLUG}/seed-1"], ["depths=[3]"])
    assert one.parameters == {"seed": 1, "depths": [3]} and not one.declared
    assert one.title == "seed-1+depths=[3]"
    both = plan.select(book, [SLUG], ["seed=1", "seed=2,1"])
    assert [v.parameters["seed"] for v in both] == [1, 2]
    assert len(plan.select(book, [SLUG], ["seed=1,1"])) == 1


def test_file_names_tell_values_apart():
    names = {plan._file_name(f"name={v}") for v in ("a/b", "a b", "a_b", "x" * 300, "x" * 301)}
    assert len(names) == 5 and all(len(n) < 150 and "/" not in n for n in names)


def test_one_variant_is_nearest_and_keys_stand_once(book):
    entry = {"title": "x", "parameters": {"seed": 1}, "nearest": True}
    write(book.chapters / "variants.yml", yaml.safe_dump({SLUG: {"a": entry}}))
    assert plan.nearest(book, SLUG).name == "a"
    write(book.chapters / "variants.yml", yaml.safe_dump({SLUG: {"a": entry, "b": dict(entry)}}))
    with pytest.raises(BookError, match="a and b"):
        plan.declared(book)
    write(book.chapters / "variants.yml", f"{SLUG}:\n  a: {{}}\n  a: {{}}\n")
    with pytest.raises(BookError, match="duplicate key 'a'"):
        plan.declared(book)


def test_every_declared_variant_can_be_planned_on_a_gpu(monkeypatch):
    """With CUDA pretended, each variant of this book has a reason not to run, or none; no error."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setenv("NCLIB_DATA", "/nonexistent")
    for variants in plan.declared(Layout(ROOT)).values():
        for variant in variants.values():
            reason = job.unmet(list(variant.needs), download=False)
            assert reason is None or reason.startswith("needs the data set"), variant.label
    assert "which nclib cannot load" in job.unmet(["data:nothing"], False)
    assert "unknown here" in job.unmet(["tpu"], True)


def test_unmet_never_raises(monkeypatch):
    def broken():
        raise RuntimeError("driver\nis broken")

    monkeypatch.setattr("torch.cuda.is_available", broken)
    assert job.unmet(["gpu"], False) == "needs gpu: RuntimeError: driver"


def test_hash_follows_code_and_parameters():
    base = plan.cells_hash(chapter(), {})
    assert base == plan.cells_hash(chapter(), {})
    assert base != plan.cells_hash(chapter("print(3)"), {})
    assert base != plan.cells_hash(chapter(), {"seed": 1})
    other = chapter()
    other.cells[0].source += " More text."  # text does not count
    other.cells[2].source = "# https://github.com/new/home"  # nor does the install cell
    other.cells[5].source = "#@title Code: two\nprint(\n    2 + seed*0)  # a comment"  # nor layout
    other.cells[5].metadata["tags"] = ["hide-input"]
    assert base == plan.cells_hash(other, {})
    other.cells[5].metadata["tags"] = ["raises-exception"]
    assert base != plan.cells_hash(other, {})


LIBRARY = {
    "__init__": "from . import used, unused\nfrom .named import thing as thing",
    "used": "'Doc.'\nfrom .below import f\ndef g():\n    'Doc.'\n    return f(1)",
    "unused": "x = 1",
    "below": "from . import deep\ndef f(x): return x",
    "deep/__init__": "from .part import y",
    "deep/part": "y = 1",
    "named": "thing = 1",
    "_data/x": "script = 1",
}


@pytest.mark.parametrize(
    ("module", "source", "moves"),
    [
        ("used", "'Other.'\nfrom .below import f\n\ndef g(): return f(1)  # new", False),
        ("used", "from .below import f\ndef g(): return f(2)", True),
        ("below", "def f(x): return 2 * x", True),
        ("deep/part", "y = 2", True),
        ("named", "thing = 2", True),
        ("unused", "x = 2", False),
        ("_data/x", "script = 2", False),
        ("_data/x.npz", "2", True),
    ],
)
def test_library_hash_follows_what_is_imported(tmp_path, module, source, moves):
    folder = tmp_path / "nclib"
    for name, text in LIBRARY.items():
        write(folder / f"{name}.py", text)
    write(folder / "_data" / "x.npz", b"1")
    cells = ["import nclib\nfrom nclib import used", "%pip x\nnclib.thing"]
    first = hashes.library_hash(cells, folder)
    whole = hashes.library_hash(None, folder)
    write(folder / (module if "npz" in module else f"{module}.py"), source)
    assert (hashes.library_hash(cells, folder) != first) == moves
    assert (hashes.library_hash(None, folder) != whole) == (moves or module == "unused")


# --- running --------------------------------------------------------------------------------------


def quiet(*arguments: str) -> tuple[int, str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main(list(arguments))
    return code, out.getvalue()


def test_life_of_a_chapter(book, monkeypatch):
    """Run, skip, store, compare, change: one story, so that few kernels start."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    root = ("--root", str(book.root))
    code_, out = quiet(*root, "run", SLUG, "--jobs", "3", "--threads", "1")
    assert code_ == 0, out
    assert "nothing stored to compare with" in out
    assert f"{SLUG}/gpu" in out and "not run: needs a CUDA device" in out
    assert not book.fresh(SLUG, "gpu").exists()
    assert "work 0/1" in out  # `broken`

    default, seed1 = (read_notebook(book.fresh(SLUG, v)) for v in ("default", "seed-1"))
    assert records.of_notebook(seed1)["run"]["variant"] == "seed-1"
    assert seed1.metadata.nclib.hash.cells == plan.cells_hash(chapter(), {"seed": 1})
    assert not any("injected-parameters" in c.metadata.get("tags", []) for c in default.cells)
    assert list(book.runs.rglob("*.tmp")) == []

    # Up to date: nothing runs again, and the result is still judged.
    before = book.fresh(SLUG, "default").stat().st_mtime_ns
    code_, out = quiet(*root, "run", f"{SLUG}/default", f"{SLUG}/seed-1")
    assert code_ == 0 and out.count("up to date") == 2
    assert book.fresh(SLUG, "default").stat().st_mtime_ns == before

    # Store.
    code_, out = quiet(*root, "store", f"{SLUG}/default", f"{SLUG}/seed-1")
    assert code_ == 0, out
    stored = read_notebook(book.chapter(SLUG))
    assert [c.id for c in stored.cells] == [c.id for c in chapter().cells]
    assert stored.metadata.accelerator == "GPU" and "papermill" not in stored.metadata
    assert all("papermill" not in c.metadata and "execution" not in c.metadata
               for c in stored.cells)
    assert stored.cells[5].execution_count == 3
    text = book.stored(SLUG, "seed-1").read_text()
    page = nbformat.reads(text, 4)
    assert page.cells[0].source.startswith("# Tiny · seed 1\n\nA variant of [A Tiny Work](../../")
    assert "`seed = 1`. Other draws." in page.cells[0].source
    assert "](../../../pages/notation.md)" in page.cells[0].source
    assert "](https://x.org)" in page.cells[0].source
    assert "(label)=" not in text and "(eq-x)" not in text and "fig-one" not in text
    assert not any("badges" in c.metadata.get("tags", []) for c in page.cells)
    assert any(c.id == "injected-parameters" for c in page.cells)
    # `broken` has no stored run of its own, and fails against the default's verdict.
    assert quiet(*root, "check")[0] == 1
    book.fresh(SLUG, "broken").unlink()
    assert quiet(*root, "check")[0] == 0

    # Text may change and is taken over; code may not.
    stored.cells[4].source = "## Other words"
    write(book.chapter(SLUG), dumps(stored))
    code_, out = quiet(*root, "check")
    assert code_ == 1 and "store --text" in out
    assert quiet(*root, "store", "--text")[0] == 0
    assert "Other words" in book.stored(SLUG, "seed-1").read_text()
    assert quiet(*root, "check")[0] == 0
    stored.cells[5].source = "print(4)"
    write(book.chapter(SLUG), dumps(stored))
    code_, out = quiet(*root, "check")
    assert code_ == 1 and "stale" in out
    code_, out = quiet(*root, "store")
    assert code_ == 1 and "refused" in out and "run it again" in out

    # A changed verdict fails, in a sweep by the verdict alone.
    code_, out = quiet(*root, "run", SLUG, "-p", "shift=0.2,0.9", "--jobs", "2")
    assert code_ == 1
    assert "shift=0.2" in out and "gap: verdict was reproduced, now not reproduced" in out
    assert out.count("verdict was") == 1


def test_failure_leaves_no_result_and_keeps_the_others(book):
    nb = chapter("assert seed == 1, 'boom at the end'")
    write(book.chapter(SLUG), dumps(nb))
    write(book.fresh(SLUG, "default"), dumps(nb))  # of an earlier run
    code_, out = quiet(
        "--root", str(book.root), "run", f"{SLUG}/default", f"{SLUG}/seed-1", "--jobs", "2"
    )
    assert code_ == 1 and "boom at the end" in out
    assert [r.status for r in store.check(book)][:1] == ["failed"]
    assert book.fresh(SLUG, "default").exists()  # an earlier good result is not thrown away
    assert (book.runs / SLUG / "default.failed.ipynb").exists()
    assert book.fresh(SLUG, "seed-1").exists()


def test_time_limit_and_missing_report():
    nb = notebook(code("import time; time.sleep(600)", "a"))
    base = {"parameters": {}, "needs": [], "download": False, "threads": 1, "stamp":
            {"variant": "default", "parameters": {}, "hash": {}}}
    start = time.monotonic()
    result = job.execute(base | {"notebook": dumps(nb), "timeout": 8})
    assert result["status"] == "failed" and "stopped after 8 s" in result["message"]
    assert "in cell 0 (a): import time" in result["message"]
    assert time.monotonic() - start < 30
    nb = notebook(
        code("x: float = 0.5", "p", "parameters"),
        code("import os; print(os.environ['OMP_NUM_THREADS'], os.listdir(), type(x), x)", "a"),
    )
    result = job.execute(
        base | {"notebook": dumps(nb), "timeout": 60, "parameters": {"x": 1e-5}}
    )
    assert result["status"] == "failed" and "no claims report" in result["message"]
    assert "1 [] <class 'float'> 1e-05" in result["notebook"]  # threads, empty folder, value


def sleeper(book, marker, *extra, **options):
    """A runner at work on a chapter that sleeps, and the kernel's process."""
    write(book.chapter(SLUG), dumps(chapter(
        f"import os, time; open({str(marker)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    )))
    command = [sys.executable, "-m", "reproduce", "--root", str(book.root), "run",
               f"{SLUG}/default", *extra]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True, **options)
    deadline = time.monotonic() + 60
    while not (marker.exists() and marker.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return process, int(marker.read_text())


def gone(pid, seconds):
    """Has this process ended within so many seconds?"""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_interrupt_ends_the_notebooks(book, name):
    process, kernel = sleeper(book, book.root / "started")
    start = time.monotonic()
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "interrupted" in err
    assert gone(kernel, 5) and time.monotonic() - start < 10  # 5 s on a machine that does no more
    assert not book.fresh(SLUG, "default").exists()


def test_a_second_interrupt_changes_nothing(book):
    """Also where the shell had set SIGINT aside, as it does for what runs in the background."""
    process, kernel = sleeper(book, book.root / "started", preexec_fn=lambda: signal.signal(
        signal.SIGINT, signal.SIG_IGN))
    start = time.monotonic()
    for name in ("SIGTERM", "SIGINT", "SIGINT"):
        process.send_signal(getattr(signal, name))
        time.sleep(0.3)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in err, err
    assert gone(kernel, 5) and time.monotonic() - start < 10


def test_interrupt_ends_the_notebook_on_a_worker(book):
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, processes=True,
                      dashboard_address=None) as cluster:
        process, kernel = sleeper(book, book.root / "started",
                                  "--scheduler", cluster.scheduler_address)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 130 and gone(kernel, 10)


def test_a_lost_scheduler_is_one_line(book, monkeypatch):
    from distributed import LocalCluster

    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "3s")
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=True,
                      dashboard_address=None) as cluster:
        process, _ = sleeper(book, book.root / "started", "--scheduler", cluster.scheduler_address)
        cluster.close()
        _, err = process.communicate(timeout=120)
    lines = [line for line in err.splitlines() if line.startswith("reproduce:")]
    assert process.returncode == 2 and len(lines) == 1 and "was lost" in lines[0], err
    assert "Traceback" not in err, err


def dask(folder, *command):
    """A scheduler or worker of Dask as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", f"distributed.cli.dask_{command[0]}", *command[1:],
         "--scheduler-file", str(folder / "scheduler.json"), "--no-dashboard"],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )


def until(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert condition()


WAITS = """
import os, time
place = FOLDER + f"/{seed}"
open(place + ".pid", "w").write(str(os.getpid()))
while seed in WAITING and not os.path.exists(place + ".go"):
    time.sleep(0.1)
"""


def test_a_killed_worker_and_then_a_killed_scheduler_lose_nothing(book, tmp_path, monkeypatch):
    """As in the weekly run: the work of a dead worker goes to another; after the scheduler's death
    what finished is kept, and the same command goes on."""
    import psutil

    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "3s")
    text = WAITS.replace("FOLDER", repr(str(tmp_path))).replace("WAITING", "(0, 3)")
    write(book.chapter(SLUG), dumps(chapter(text)))
    servers = [dask(tmp_path, "scheduler", "--port", "0")]
    try:
        until((tmp_path / "scheduler.json").exists)
        servers += [dask(tmp_path, "worker", "--nthreads", "1") for _ in range(2)]
        address = json.loads((tmp_path / "scheduler.json").read_text())["address"]

        def start(seeds):
            command = [sys.executable, "-m", "reproduce", "--root", str(book.root), "run",
                       f"{SLUG}/default", "-p", f"seed={seeds}", "--scheduler", address]
            return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE,
                                    stderr=subprocess.PIPE, text=True)

        process = start("0..2")
        until(lambda: (tmp_path / "0.pid").exists() and (tmp_path / "0.pid").read_text())
        kernel = psutil.Process(int((tmp_path / "0.pid").read_text()))
        kernel.parents()[1].kill()  # the first is papermill, then comes the worker
        (tmp_path / "0.go").write_text("")  # the second attempt ends
        out, err = process.communicate(timeout=180)
        assert process.returncode == 0, (out, err)
        assert all(book.fresh(SLUG, f"seed={s}").exists() for s in (0, 1, 2))

        process = start("3..4")
        until(book.fresh(SLUG, "seed=4").exists)
        until((tmp_path / "3.pid").exists)
        servers[0].kill()
        out, err = process.communicate(timeout=180)
        assert process.returncode == 2 and "was lost" in err and "Traceback" not in err, err
        assert not book.fresh(SLUG, "seed=3").exists()
    finally:
        for server in servers:
            with contextlib.suppress(OSError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()
        (tmp_path / "3.go").write_text("")
        job.sweep()
    code_, out = quiet("--root", str(book.root), "run", f"{SLUG}/default", "-p", "seed=0..4")
    assert code_ == 0 and out.count("up to date") == 4, out
    assert book.fresh(SLUG, "seed=3").exists()


def test_without_a_home_and_without_git(book, monkeypatch):
    monkeypatch.setenv("HOME", "/dev/null/home")
    row, = run(book, plan.select(book, [f"{SLUG}/default"]), Options())
    assert row.ok, row.details
    monkeypatch.setenv("PATH", "/dev/null")
    assert book.chapter(SLUG) in project.text_files(book.root)


def test_dask_cluster_of_two_processes(book):
    from distributed import LocalCluster

    variants = plan.select(book, [f"{SLUG}/default", f"{SLUG}/seed-1"])
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        rows = run(book, variants, Options(scheduler=cluster.scheduler_address))
    assert [r.status.split(",")[0] for r in rows] == ["work 1/1 · controls 0/0 · book 1/1"] * 2
    assert book.fresh(SLUG, "seed-1").exists()


def test_a_cluster_without_workers_is_one_line(book):
    from distributed import LocalCluster

    with (LocalCluster(n_workers=0, dashboard_address=None) as cluster,
          pytest.raises(BookError, match="has no workers")):
        run(book, plan.select(book, [f"{SLUG}/default"]),
            Options(scheduler=cluster.scheduler_address, timeout=1.0))


def test_a_worker_needs_no_checkout(tmp_path):
    cloudpickle.register_pickle_by_value(job)
    try:
        (tmp_path / "job").write_bytes(cloudpickle.dumps(job.execute))
    finally:
        cloudpickle.unregister_pickle_by_value(job)
    source = (
        "import pickle, sys; sys.modules['reproduce'] = None\n"
        "with open('job', 'rb') as f: print(pickle.load(f).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "execute\n"


def test_no_scheduler(book, monkeypatch):
    variants = plan.select(book, [f"{SLUG}/default"])
    monkeypatch.setattr(runner, "CONNECT", 1.0)
    with pytest.raises(BookError, match="no Dask scheduler"):
        run(book, variants, Options(scheduler="tcp://127.0.0.1:9"))


@pytest.mark.parametrize("address", ["foo", "http://127.0.0.1:9", "tcp://127.0.0.1:{port}"])
def test_what_is_no_scheduler_gives_one_line(book, address, monkeypatch):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:  # listens, and speaks no Dask
        address = address.format(port=server.getsockname()[1])
        monkeypatch.setattr(runner, "CONNECT", 2.0)
        with pytest.raises(BookError) as error:
            run(book, plan.select(book, [f"{SLUG}/default"]), Options(scheduler=address, timeout=5))
    assert address in str(error.value) and "\n" not in str(error.value)


def test_one_runner_at_a_time(book):
    with runner.locked(book.runs):
        with pytest.raises(BookError, match=f"process {os.getpid()}"), runner.locked(book.runs):
            pass
    with runner.locked(book.runs):
        pass


def test_where_nothing_can_be_written(book, tmp_path):
    write(tmp_path / "file", "x")
    with pytest.raises(BookError, match="cannot write"), runner.locked(tmp_path / "file" / "runs"):
        pass


def test_leftovers_of_a_killed_runner_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead, living = tmp_path / f"{job.PREFIX}dead", tmp_path / f"{job.PREFIX}living"
    for folder, owner in ((dead, gone.pid), (living, os.getpid())):
        write(folder / job.OWNER, str(owner))
    kernel = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], cwd=dead)
    time.sleep(0.2)
    assert job.sweep() == [dead]
    assert kernel.wait(5) != 0 and living.exists() and not dead.exists()


def test_a_fault_of_one_result_fails_its_row(book, monkeypatch):
    """A full disk, a broken notebook: the other results are kept, and the table is printed."""
    def fake(task):
        text = task["notebook"] if task["stamp"]["variant"] == "default" else "{"
        return {"status": "done", "notebook": text, "seconds": 1.0, "message": ""}

    monkeypatch.setattr(job, "execute", fake)
    nb = chapter()
    nb.cells[-1].outputs = [display_output({"nclib": record()})]
    write(book.chapter(SLUG), dumps(nb))
    rows = {r.label: r for r in run(book, plan.select(book, [f"{SLUG}/default", f"{SLUG}/seed-1"]),
                                    Options(jobs=1))}
    assert rows[f"{SLUG}/default"].ok and book.fresh(SLUG, "default").exists()
    assert not rows[f"{SLUG}/seed-1"].ok and "JSON" in rows[f"{SLUG}/seed-1"].details[0]

    monkeypatch.setattr(runner, "write", lambda *a: (_ for _ in ()).throw(OSError(28, "disk full")))
    row, = run(book, plan.select(book, [f"{SLUG}/default"]), Options(force=True))
    assert not row.ok and "disk full" in row.details[0]
    monkeypatch.setattr(job, "execute", lambda task: runner._lost(OSError("died"), "job"))
    row, = run(book, plan.select(book, [f"{SLUG}/default"]), Options(force=True))
    assert not row.ok and book.fresh(SLUG, "default").exists()  # the earlier result stays


def test_without_a_temporary_folder(book, monkeypatch):
    """A full disk leaves Python no temporary folder: a row that says so, and no stack."""
    def none_left():
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr("tempfile.gettempdir", none_left)
    row, = run(book, plan.select(book, [f"{SLUG}/default"]), Options())
    assert not row.ok and "no usable temporary directory" in row.details[0]


def test_a_truncated_notebook_is_one_row(book):
    write(book.stored(SLUG, "seed-1"), '{"cells": [')
    rows = {r.label: r for r in store.check(book)}
    assert not rows[f"{SLUG}/seed-1"].ok
    write(book.fresh(SLUG, "seed-1"), '{"cells": [')
    assert any(not r.ok and r.label == f"run {SLUG}/seed-1" for r in store.check(book))


def test_lines_reach_any_stream():
    ascii_ = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    runner.say("✓ done", ascii_)
    ascii_.seek(0)
    assert ascii_.read() == "? done\n"
    reading, writing = os.pipe()
    os.close(reading)
    pipe = open(writing, "w")
    runner.say("nobody reads", pipe)
    with contextlib.suppress(BrokenPipeError):
        pipe.close()


def test_threads_are_shared_out(book, monkeypatch):
    seen = []

    def fake(job_):
        seen.append(job_["threads"])
        return {"status": "not run", "notebook": None, "seconds": 0.0, "message": "test"}

    monkeypatch.setattr(job, "execute", fake)
    monkeypatch.setattr("reproduce.run.cores", lambda: 8)
    variants = plan.select(book, [SLUG])
    for options in (Options(), Options(jobs=2), Options(jobs=16), Options(jobs=2, threads=1)):
        rows = run(book, variants, options)
        assert all(r.ok and r.status == "not run: test" for r in rows)
    assert seen == [1] * 4 + [4] * 4 + [1] * 4 + [1] * 4


def test_the_longest_run_comes_first_and_the_time_is_told(book, monkeypatch, capsys):
    seconds = {"default": 5.0, "seed-1": 400.0, "gpu": 90.0, "broken": None}
    begun = []

    def fake(task):
        begun.append(task["stamp"]["variant"])
        return {"status": "not run", "notebook": None, "seconds": 7.0, "message": "test"}

    monkeypatch.setattr(job, "execute", fake)
    monkeypatch.setattr(runner, "expected_seconds", lambda layout, variant: seconds[variant.name])
    run(book, plan.select(book, [SLUG]), Options(jobs=1))
    assert begun == ["seed-1", "gpu", "default", "broken"]
    out = capsys.readouterr().out
    assert "4 runs, 1 at a time: about 11 min" in out  # what is not known counts as the mean
    assert f"{SLUG}/gpu: not run: test (7 s)" in out


def test_what_counts_is_the_code_before_the_run(book, monkeypatch):
    """An edit while a chapter runs is not taken for what ran; another torch makes it stale."""
    nb = chapter()
    nb.cells[-1].outputs = [display_output({"nclib": record()})]
    write(book.chapter(SLUG), dumps(nb))

    def fake(task):
        ran = json.loads(task["notebook"])
        job._stamp(ran, task["stamp"])
        write(book.chapter(SLUG), dumps(chapter("print(3)")))
        return {"status": "done", "notebook": json.dumps(ran), "seconds": 1.0, "message": ""}

    monkeypatch.setattr(job, "execute", fake)
    variant, = plan.select(book, [f"{SLUG}/default"])
    run(book, [variant], Options())
    before = runner.hash_of(nb, {})
    assert runner.up_to_date(book, variant, before)
    assert not runner.up_to_date(book, variant, runner.hash_of(
        read_notebook(book.chapter(SLUG)), {}))
    monkeypatch.setattr(hashes, "torch_version", lambda: "0.1")
    assert not runner.up_to_date(book, variant, runner.hash_of(nb, {}))


# --- storing --------------------------------------------------------------------------------------


def executed(*outputs, count=1):
    report = display_output({"nclib": record()})
    return notebook(code("1", "a", outputs=outputs, count=count),
                    code("2", "b", outputs=[report], count=2))


def test_faults():
    assert store.faults(executed()) == []
    stderr = nbformat.v4.new_output("stream", name="stderr", text="warning")
    assert "writes to stderr" in store.faults(executed(stderr))[0]
    error = nbformat.v4.new_output("error", ename="KeyError", evalue="", traceback=[])
    assert "failed: KeyError" in store.faults(executed(error))[0]
    assert "was not run" in store.faults(executed(count=None))[0]
    big = display_output(**{"image/png": "A" * 240_000})
    assert "figure of 180000 bytes" in store.faults(executed(big))[0]
    huge = display_output(**{"text/plain": "A" * 1_000_001})
    assert "limit 750000" in store.faults(executed(huge))[0]
    assert store.faults(notebook(code("1", "a", count=1))) == ["no claims report"]


def test_labels_and_links_of_a_variant_page():
    text = "(a-b)=\n# T\n:label: x\n:name: y\n$$ (eq:1)\nwords (kept)= here\n"
    assert store._unlabel(text) == "# T\n$$\nwords (kept)= here\n"
    moved = store._relocate(
        "[a](b.ipynb) ![](../i.png) [w](https://x) [m](mailto:a@b) [h](#top) "
        "{doc}`../pages/notation` {doc}`text <other>`"
    )
    assert moved == (
        "[a](../../b.ipynb) ![](../../../i.png) [w](https://x) [m](mailto:a@b) [h](#top) "
        "{doc}`../../../pages/notation` {doc}`text <../../other>`"
    )


def test_a_folder_that_is_not_there_is_no_success(book, capsys):
    assert main(["--root", str(book.root), "check", str(book.root / "nowhere")]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_undeclared_stored_variant(book):
    write(book.stored(SLUG, "ghost"), dumps(executed()))
    rows = {r.label: r for r in store.check_stored(book)}
    assert rows[f"{SLUG}/ghost"].status == "not in variants.yml"


def test_results_archive(book, tmp_path):
    good, bad = tmp_path / "good.zip", tmp_path / "bad.zip"
    with zipfile.ZipFile(good, "w") as archive:
        archive.writestr(f"{SLUG}/default.ipynb", dumps(executed()))
    assert store.unpack(book, good) == [f"{SLUG}/default"]
    assert records.of_file(book.fresh(SLUG, "default"))
    with zipfile.ZipFile(bad, "w") as archive:
        archive.writestr("../../evil.ipynb", "x")
    with pytest.raises(BookError, match="unexpected member"):
        store.unpack(book, bad)
    with zipfile.ZipFile(bad, "w", zipfile.ZIP_DEFLATED) as archive:  # 20 kB that unfold to 20 MB
        archive.writestr(f"{SLUG}/default.ipynb", " " * (store.ARCHIVE_BYTES + 1))
    with pytest.raises(BookError, match="has over"):
        store.unpack(book, bad)
    with zipfile.ZipFile(bad, "w") as archive:
        for i in range(store.ARCHIVE_MEMBERS + 1):
            archive.writestr(f"{SLUG}/v{i}.ipynb", "x")
    with pytest.raises(BookError, match="limit"):
        store.unpack(book, bad)


def stored_and_fresh(book, **fresh):
    """A stored default run and another one of the same code, both as the runner leaves them."""
    nb = chapter()
    for index, cell in enumerate(c for c in nb.cells if c.cell_type == "code"):
        cell.execution_count = index + 1
    nb.metadata["nclib"] = {
        "variant": "default", "parameters": {}, "hash": {"cells": plan.cells_hash(nb, {})},
    }
    for path, made in ((book.chapter(SLUG), record()), (book.fresh(SLUG, "default"), fresh.pop(
            "record", None) or record(**fresh))):
        shown = [display_output({"nclib_claim": c["id"]}) for c in made["claims"]]
        nb.cells[-1].outputs = [*shown, display_output({"nclib": made})]
        write(path, dumps(store.with_outputs(nb, nb)))


def test_what_changed_is_stored_when_accepted(book):
    changed = record(claim(measured=0.9), claim("rank", measured=3, tolerance=0.0, says="book",
                     scope=None, bound={"op": "equals", "value": 3}))
    stored_and_fresh(book, record=changed)
    before = book.chapter(SLUG).read_text()
    row, = store.store(book, [])
    assert not row.ok and "--accept" in row.status and book.chapter(SLUG).read_text() == before
    row, = store.store(book, [], accept=True)
    assert row.ok and records.of_file(book.chapter(SLUG))["claims"][0]["measured"] == 0.9


def test_a_gpu_record_never_replaces_the_cpu_record(book):
    stored_and_fresh(book, preset="gpu", device="NVIDIA T4")
    for accept in (False, True):
        row, = store.store(book, [], accept=accept)
        assert row.status == "refused" and "cpu preset" in row.details[0]
    assert records.of_file(book.chapter(SLUG))["run"]["preset"] == "cpu"


def test_an_archive_brings_in_what_it_holds_alone(book, tmp_path, capsys):
    stored_and_fresh(book)
    archive = tmp_path / "results.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.write(book.fresh(SLUG, "default"), f"{SLUG}/default.ipynb")
    leftover = book.fresh(SLUG, "seed-1")
    write(leftover, book.fresh(SLUG, "default").read_text())
    assert main(["--root", str(book.root), "store", "--from", str(archive)]) == 0
    assert "seed-1" not in capsys.readouterr().out and not book.stored(SLUG, "seed-1").exists()


# --- address and bundle ---------------------------------------------------------------------------


def test_url(book):
    readme = book.root / "README.md"
    write(readme, "git+https://github.com/o/book https://github.com/o/bookish\n"
                  "https://colab.research.google.com/github/o/book/blob https://o.github.io/book/\n")
    before = plan.cells_hash(read_notebook(book.chapter(SLUG)), {})
    changed = project.set_url(book, "https://github.com/New/home/")
    assert {p.name for p in changed} == {"README.md", "_config.yml", f"{SLUG}.ipynb"}
    assert readme.read_text() == (
        "git+https://github.com/New/home https://github.com/o/bookish\n"
        "https://colab.research.google.com/github/New/home/blob https://new.github.io/home/\n"
    )
    assert plan.cells_hash(read_notebook(book.chapter(SLUG)), {}) == before
    assert project.set_url(book, "https://github.com/New/home") == []
    with pytest.raises(BookError):
        project.set_url(book, "github.com/x")


def test_url_goes_on_where_it_was_stopped(book, monkeypatch):
    def stop(path, content):
        raise KeyboardInterrupt

    for name in ("README.md", "intro.md"):
        write(book.root / name, "https://github.com/o/book")
    written = []
    monkeypatch.setattr(project, "write", lambda path, content: (
        stop(path, content) if written else (written.append(path), write(path, content))))
    with pytest.raises(KeyboardInterrupt):
        project.set_url(book, "https://github.com/n/new")
    monkeypatch.setattr(project, "write", write)
    project.set_url(book, "https://github.com/n/new")
    for name in ("README.md", "intro.md", "_config.yml"):
        assert "github.com/n/new" in (book.root / name).read_text()


def test_no_colab_link_on_another_host(book):
    assert "Colab" in ledger.badges(book, SLUG)
    project.set_url(book, "https://git.example.org/n/new")
    assert "Colab" not in ledger.badges(book, SLUG)


def test_bundle(book, tmp_path, monkeypatch):
    def fake_wheel(root, folder):
        path = folder / "nclib-1-py3-none-any.whl"
        path.write_bytes(b"wheel")
        return path

    monkeypatch.setattr(project, "wheel", fake_wheel)
    data = tmp_path / "data"
    write(data / "cifar10" / "x.bin", "x")
    out = project.bundle(book, tmp_path / "out" / "b.zip", data)
    with zipfile.ZipFile(out) as archive:
        names = set(archive.namelist())
        compile(archive.read("run.py"), "run.py", "exec")
    assert {"run.py", "README.txt", "nclib-1-py3-none-any.whl", "data/cifar10/x.bin",
            f"chapters/{SLUG}.ipynb", "chapters/variants.yml"} <= names


def test_bundle_from_end_to_end(book, tmp_path, monkeypatch):
    """Bundle, run on a machine with a (pretend) GPU, carry the results back, store them."""
    def fake_wheel(root, folder):
        path = folder / "nclib-1-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as wheel:  # on the path of everything that run.py starts
            wheel.writestr("sitecustomize.py", "import torch; "
                                               "torch.cuda.is_available = lambda: True\n")
        return path

    monkeypatch.setattr(project, "wheel", fake_wheel)
    shutil.copytree(ROOT / "reproduce", book.root / "reproduce")
    out = project.bundle(book, tmp_path / "bundle.zip")
    there = tmp_path / "there"
    zipfile.ZipFile(out).extractall(there)
    (there / "older-1-py3-none-any.whl").write_bytes(b"another wheel is no trouble")

    def there_run(*arguments):
        env = dict(os.environ) | {"PYTHONPATH": str(ROOT)}
        return subprocess.run([sys.executable, "run.py", *arguments], cwd=there, env=env,
                              capture_output=True, text=True, check=False)

    done = there_run(f"{SLUG}/gpu")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 notebooks in" in done.stdout
    results = there / "results.zip"
    assert main(["--root", str(book.root), "store", "--from", str(results)]) == 0
    assert records.of_file(book.stored(SLUG, "gpu"))["run"]["preset"] == "gpu"
    shutil.rmtree(there / "_build")
    assert there_run(f"{SLUG}/unknown").returncode not in (0, 3)
    run_py = (there / "run.py").read_text().replace('"torch": "torch"', '"no_torch": "no-torch"')
    write(there / "run.py", run_py)
    assert "lacks no-torch" in there_run().stderr


def test_nothing_run_is_no_success(book, tmp_path, monkeypatch):
    monkeypatch.setattr(project, "wheel", lambda root, folder: _empty_wheel(folder))
    shutil.copytree(ROOT / "reproduce", book.root / "reproduce")
    there = tmp_path / "there"
    zipfile.ZipFile(project.bundle(book, tmp_path / "b.zip")).extractall(there)
    env = dict(os.environ) | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "run.py", f"{SLUG}/gpu"], cwd=there, env=env,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 3 and "0 notebooks" in done.stdout, done.stdout + done.stderr


def test_an_interrupted_bundle_packs_what_finished(book, tmp_path, monkeypatch):
    monkeypatch.setattr(project, "wheel", lambda root, folder: _empty_wheel(folder))
    there = tmp_path / "there"
    zipfile.ZipFile(project.bundle(book, tmp_path / "b.zip")).extractall(there)
    write(there / "reproduce" / "__main__.py", "import time\nfrom pathlib import Path\n"
          "folder = Path('_build/reproduce/a')\nfolder.mkdir(parents=True)\n"
          "for name in ('b', 'c.failed'): (folder / f'{name}.ipynb').write_text('{}')\n"
          "time.sleep(60)\n")
    write(there / "reproduce" / "__init__.py", "")
    env = dict(os.environ) | {"PYTHONPATH": str(ROOT / "nclib")}
    process = subprocess.Popen([sys.executable, "run.py"], cwd=there, env=env, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               start_new_session=True, preexec_fn=lambda: signal.signal(
                                   signal.SIGINT, signal.default_int_handler))
    deadline = time.monotonic() + 30
    while not list(there.rglob("c.failed.ipynb")) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    out, _ = process.communicate(timeout=30)
    assert process.returncode != 0 and "results: 1 notebooks" in out, out
    assert zipfile.ZipFile(there / "results.zip").namelist() == ["a/b.ipynb"]


def _empty_wheel(folder):
    path = folder / "nclib-1-py3-none-any.whl"
    zipfile.ZipFile(path, "w").close()
    return path


def test_a_worker_with_another_nclib_is_refused():
    task = {"needs": [], "download": False, "library": "0" * 64}
    result = job.execute(task)
    assert result["status"] == "failed" and "another nclib" in result["message"]
    assert job.library() and len(job.library()) == 64


def test_a_failure_names_its_cell(book):
    nb = chapter("import os; os._exit(1)")
    write(book.chapter(SLUG), dumps(nb))
    row, = run(book, plan.select(book, [f"{SLUG}/default"]), Options())
    assert not row.ok and any("in cell 5 (exact): import os" in d for d in row.details), row.details


def test_root_is_found():
    assert Layout.find().root == ROOT
    with pytest.raises(BookError):
        Layout.find("/nonexistent")


# --- seeds and faults -----------------------------------------------------------------------------


def test_seeds(book):
    """Ten runs, one record; a run that fails fails its row; the same command goes on."""
    root = ("--root", str(book.root))
    marker = book.root / "once"
    write(book.chapter(SLUG), dumps(chapter(
        f"import os\nassert seed != 7 or os.path.exists({str(marker)!r}), 'not yet'"
    )))
    code_, out = quiet(*root, "seeds", SLUG)
    assert code_ == 1 and "not yet" in out and out.count("✗") == 1
    assert seeds.load(book, SLUG) is None
    code_, out = quiet(*root, "seeds", SLUG, "--collect")  # what has finished, under its number
    assert code_ == 0, out
    found = seeds.load(book, SLUG)
    assert seeds.seeds_of(found) == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    assert len(seeds.of_claim(found, "gap")) == 9
    marker.write_text("")
    code_, out = quiet(*root, "seeds", SLUG)
    assert code_ == 0, out
    assert out.count("up to date") == 9
    found = seeds.load(book, SLUG)
    assert [r["seed"] for r in found["runs"]] == list(range(10))
    gap = seeds.of_claim(found, "gap")
    assert gap[9]["value"] == pytest.approx(0.509) and gap[9]["verdict"] == "reproduced"
    assert seeds.of_claim(found, "nothing") is None
    assert found["hash"]["cells"] == plan.cells_hash(read_notebook(book.chapter(SLUG)), {})
    assert not list((book.chapters / "seeds").glob("*.tmp"))
    assert quiet(*root, "seeds", SLUG)[1].count("up to date") == 10


def stored_with_seeds(book, *claims, **changes):
    nb = chapter()
    nb.cells[-1].outputs = [display_output({"nclib": record(*claims)})]
    write(book.chapter(SLUG), dumps(nb))
    ids = [c["id"] for c in (claims or record()["claims"])]
    values = {"gap": [0.5] * 10, "rank": [3] * 10} | changes.pop("values", {})
    verdicts = {i: ["reproduced"] * 10 for i in ids} | changes.pop("verdicts", {})
    found = {
        "schema": 1, "slug": SLUG, "preset": "cpu",
        "hash": {"cells": plan.cells_hash(nb, {}), "library": "", "torch": ""},
        "runs": [{"seed": s} for s in range(10)],
        "claims": {i: {"values": values[i], "verdicts": verdicts[i]} for i in ids},
    } | changes
    write(book.seeds(SLUG), json.dumps(found))
    return seeds.faults(book, SLUG)


FLIPPED = ["reproduced"] * 9 + ["not reproduced"]


@pytest.mark.parametrize(
    ("claims", "changes", "words"),
    [
        ((), {}, None),
        ((), {"values": {"gap": [0.7] + [0.5] * 9}}, "gap: stored 0.5"),
        ((), {"verdicts": {"gap": ["not reproduced"] * 10}}, "seed 0 gave 0.5, not reproduced"),
        ((), {"verdicts": {"gap": FLIPPED}}, "reproduced with 9 of 10 seeds"),
        ((), {"verdicts": {"rank": FLIPPED}}, None),  # the book's own finding
        ((claim(note="Seed 9 alone differs."), claim("rank", measured=3)),
         {"verdicts": {"gap": FLIPPED}}, None),
        ((), {"hash": {"cells": "x"}}, "ran other code"),
        ((), {"runs": []}, "not a record of seeds"),
        ((), {"claims": {}}, "claims in one record alone: gap, rank"),
    ],
)
def test_faults_of_seed_records(book, claims, changes, words):
    found = stored_with_seeds(book, *claims, **changes)
    if words == "seed 0 gave 0.5, not reproduced":
        assert words in found[0]
    else:
        assert (not found) if words is None else (len(found) == 1 and words in found[0]), found


FAULT = {"fault": "a shift", "in": "chapter", "find": "0.5 + shift", "replace": "0.5 + 1",
         "red": ["gap"]}


def test_planted_faults(book):
    root = ("--root", str(book.root))
    unseen = FAULT | {"fault": "none", "replace": "0.25 + shift"}
    raising = FAULT | {"fault": "raises", "find": "print(2 + seed * 0)", "replace": "1 / 0"}
    write(book.faults(SLUG), yaml.safe_dump([FAULT, raising, unseen]))
    code_, out = quiet(*root, "faults", SLUG)
    assert code_ == 1
    assert "seen by gap" in out and "the run raises ZeroDivisionError" in out
    assert "still green: gap; nothing is red" in out
    assert "0.5 + shift" in book.chapter(SLUG).read_text()  # the chapter itself is untouched
    kept = faults.load(book.fault_results(SLUG))["faults"]
    assert {e["fault"]: (e["seen"], e["red"], e["raised"]) for e in kept} == {
        "a shift": (True, ["gap"], None), "raises": (True, [], "ZeroDivisionError"),
        "none": (False, [], None),
    }
    write(book.faults(SLUG), yaml.safe_dump([FAULT, FAULT | {"fault": "again"}]))
    code_, out = quiet(*root, "faults", SLUG)  # what is known for this code is not run again
    assert code_ == 0 and out.count("up to date") == 1
    assert [e["fault"] for e in faults.load(book.fault_results(SLUG))["faults"]] == [
        "a shift", "again",
    ]


def test_a_run_with_a_fault_ends_with_the_last_claim_that_must_turn_red():
    cells = [code("x = 1", "a"), code('claims.check("one", "x")', "b"),
             code('claims.check(\n    "two", "x")', "c"),
             code('claims.abstract({"k": ["one"]})', "d"), code("claims.report()", "e")]

    def left(*red, source=None):
        nb = notebook(*cells)
        if source:
            nb.cells[-1].source = source
        return [c.id for c in faults.shortened(nb, {"red": list(red)}).cells]

    assert left("one") == ["a", "b", "e"]
    assert left("one", "two") == ["a", "b", "c", "e"]
    assert left("one", "made-in-a-loop") == ["a", "b", "c", "d", "e"]
    assert left("one", source='claims.abstract({}); claims.report()') == ["a", "b", "c", "d", "e"]


def test_a_fault_that_was_not_decided_is_not_recorded(book, monkeypatch):
    write(book.faults(SLUG), yaml.safe_dump([FAULT]))
    monkeypatch.setattr(job, "execute", lambda task: runner._lost(OSError("died"), "job"))
    code_, out = quiet("--root", str(book.root), "faults", SLUG)
    assert code_ == 1 and "not run" in out and not book.fault_results(SLUG).exists()
    write(book.fault_results(SLUG), "{}")
    with pytest.raises(BookError, match="not a record of planted faults"):
        faults.load(book.fault_results(SLUG))


def test_a_fault_in_the_library_is_planted_in_a_copy(book, tmp_path):
    write(book.root / "nclib" / "x.py", "y = 1\n")
    entry = FAULT | {"in": "nclib/x.py", "find": "y = 1", "replace": "y = 2"}
    write(book.faults(SLUG), yaml.safe_dump([entry]))
    assert faults.read(book, SLUG) == [entry]
    faults.plant(book, chapter(), entry, tmp_path / "copy")
    assert (tmp_path / "copy" / "nclib" / "x.py").read_text() == "y = 2\n"
    assert (book.root / "nclib" / "x.py").read_text() == "y = 1\n"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"find": "seed"}, "occurs"),
        ({"find": "nowhere to be found"}, "occurs 0 times"),
        ({"in": "../x.py"}, "`in` is chapter or a file of nclib"),
        ({"red": []}, "at least one"),
        ({"more": 1}, "unknown ['more']"),
        ({"parameters": {"sead": 1}}, "unknown parameter"),
        ({"replace": FAULT["find"]}, "are the same"),
    ],
)
def test_lists_of_faults_are_checked(book, change, words):
    write(book.faults(SLUG), yaml.safe_dump([FAULT | change]))
    with pytest.raises(BookError) as error:
        faults.read(book, SLUG)
    assert words in str(error.value)


def test_the_faults_of_this_book_can_be_planted():
    layout = Layout(ROOT)
    for slug in layout.slugs:
        faults.read(layout, slug)


def test_platforms(book):
    """Runs that differ in threads and hash seed; a changed verdict is an error, and is kept."""
    root = ("--root", str(book.root))
    line = "import os\nshift += 0.6 * (os.environ.get('PYTHONHASHSEED') == TURNS)"
    write(book.chapter(SLUG), dumps(chapter(line.replace("TURNS", "'none'"))))
    assert quiet(*root, "run", f"{SLUG}/default")[0] == 0
    assert quiet(*root, "store", f"{SLUG}/default")[0] == 0
    code_, out = quiet(*root, "platforms", SLUG)
    assert code_ == 0 and out.count("all 2 verdicts as stored") >= 3, out
    kept = platforms.load(book, SLUG)["runs"]
    assert {platforms.place(r)[1:] for r in kept} == {
        (1, 0, "own"), (2, 1, "avx2"), (1, 2, "own")}
    assert quiet(*root, "platforms", SLUG)[1].count("up to date") == 3

    nb = read_notebook(book.chapter(SLUG))
    next(c for c in nb.cells if c.id == "exact").source = line.replace("TURNS", "'1'")
    write(book.chapter(SLUG), dumps(nb))
    code_, out = quiet(*root, "platforms", SLUG)
    assert code_ == 1 and "1 verdicts changed, 1 values outside" in out and "changed: gap" in out
    assert out.count("all 2 verdicts as stored") >= 2 and "up to date" not in out


def test_platforms_with_another_interpreter(book, monkeypatch, tmp_path):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nMARK=1 exec {sys.executable} \"$@\"\n")
    python.chmod(0o755)
    monkeypatch.setattr(platforms, "torch_of", lambda path: "2.4.1")
    write(book.chapter(SLUG), dumps(chapter(
        "import os\nassert 'MARK' not in os.environ or 'OPENBLAS_CORETYPE' not in os.environ")))
    rows = platforms.run(book, [SLUG], Options(), str(python))
    assert [r.ok for r in rows] == [True, True, True, False]
    assert "2.4.1, 2 threads, hash seed 0, avx2 kernels" in rows[3].label
    assert "AssertionError" in rows[3].status
    kept = {(r["torch"], r["threads"], r["hashseed"]): r["raised"]
            for r in platforms.load(book, SLUG)["runs"]}
    assert kept["2.4.1", 2, 0] == "AssertionError" and kept["2.4.1", 1, 2] is None


def test_an_interpreter_without_torch_is_one_line(tmp_path):
    with pytest.raises(BookError, match="--python"):
        platforms.torch_of(str(tmp_path / "none"))
    bare = tmp_path / "bare"
    bare.write_text("#!/bin/sh\necho 'PackageNotFoundError: torch' >&2; exit 1\n")
    bare.chmod(0o755)
    with pytest.raises(BookError, match="PackageNotFoundError: torch"):
        platforms.torch_of(str(bare))


def test_a_run_of_uncommitted_code_says_so(book):
    git = ["git", "-C", str(book.root), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    assert not runner.changed_since_commit(book.root)
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *arguments], check=True)
    assert not runner.changed_since_commit(book.root)
    write(book.chapter(SLUG), dumps(chapter("print(3)")))
    assert runner.changed_since_commit(book.root)
    nb = {"cells": [{"metadata": {}, "outputs": [{"metadata": {"nclib": record()}}]}],
          "metadata": {}}
    job._stamp(nb, {"variant": "v", "parameters": {}, "hash": {}, "changed": True})
    made = nb["cells"][0]["outputs"][0]["metadata"]["nclib"]
    assert made["run"]["commit"] == "0123456789abcdef+changes"
