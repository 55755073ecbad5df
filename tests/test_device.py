"""nclib on a pretend CUDA device, in a process of its own (see ``fakecuda.py``)."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from tiny import code, notebook

HERE = Path(__file__).parent


def test_nclib_on_the_pretend_device():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "device_cases.py"],
        cwd=HERE, capture_output=True, text=True, timeout=600,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


SETUP = "import torch, nclib\nrun = nclib.setup(seed=seed, preset=preset)"
GOOD = "x = torch.ones(run.pick(cpu=3, gpu=10**12, rehearse=2), device=run.device)\nx"
MISTAKES = {
    "left on the CPU": "y = x + torch.ones(len(x))",
    "plotted": "import matplotlib.pyplot as plt\nplt.plot(x)",
    "only on a GPU": "if run.preset == 'gpu':\n    y = undefined",
}


def tiny_chapter(folder: Path, *cells: str) -> None:
    book = notebook(
        code("raise SystemExit", "install", "nbval-skip"),
        code("preset: str = 'auto'\nseed: int = 0", "parameters", "parameters"),
        code(SETUP, "setup"), code(GOOD, "good"),
        *(code(c, f"c{i}") for i, c in enumerate(cells)),
    )
    (folder / "tiny.ipynb").write_text(nbformat.writes(book))


def rehearse(folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, HERE / "rehearse.py", "--chapters", folder, "--limit", "300"],
        capture_output=True, text=True, timeout=400,
    )


def test_rehearsal_reaches_the_end(tmp_path):
    tiny_chapter(tmp_path, "assert preset == 'gpu' and x.is_cuda and len(x) == 2",
                 "x.cumsum(0)")
    done = rehearse(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 chapters" in done.stdout and "aten.cumsum" in done.stdout


@pytest.mark.parametrize("name", MISTAKES)
def test_rehearsal_finds(name, tmp_path):
    tiny_chapter(tmp_path, MISTAKES[name])
    done = rehearse(tmp_path)
    assert done.returncode == 1 and "FAILED in cell 4" in done.stdout, done.stdout + done.stderr
