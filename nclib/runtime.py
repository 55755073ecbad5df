"""One call that fixes device, seeds and numerics of a notebook, and remembers what it fixed."""

from __future__ import annotations

import json
import os
import platform
import random
import subprocess
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

T = TypeVar("T")

PRESETS = ("auto", "cpu", "gpu")
DISTRIBUTION = "neural-collapse-reproduced"

#: Threads that torch had when nclib was imported; :func:`nclib.training.parallel` shares them out.
THREADS = torch.get_num_threads()

_current: Run | None = None


@dataclass(frozen=True)
class Run:
    """What a notebook runs with: resolved preset, seed and device. Made by :func:`setup`."""

    preset: str
    seed: int
    device: torch.device
    started: tuple[float, float] = field(
        default_factory=lambda: (time.perf_counter(), time.process_time()), repr=False
    )

    def pick(self, *, cpu: T, gpu: T, rehearse: T | None = None) -> T:
        """The value for this run's preset: ``run.pick(cpu=12, gpu=100)``.

        With the environment variable ``NCLIB_REHEARSE`` set, the ``gpu`` preset takes the
        ``rehearse`` value (by default the ``cpu`` one): its branches run, at small sizes.
        """
        if self.preset == "gpu" and os.environ.get("NCLIB_REHEARSE"):
            return cpu if rehearse is None else rehearse
        return gpu if self.preset == "gpu" else cpu

    def seeds(self, n: int) -> list[int]:
        """``n`` seeds that belong to this run; runs with different ``seed`` share none."""
        return [1000 * self.seed + i for i in range(n)]

    def generator(self, stream: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
        """A fresh generator for draw number ``stream`` of this run (0 ≤ stream < 1000).

        It lives on the CPU unless told otherwise, so that the same numbers are drawn
        whatever the device.
        """
        if not 0 <= stream < 1000:
            raise ValueError(f"stream must be in [0, 1000), got {stream}")
        return torch.Generator(device).manual_seed(1_000_003 * (self.seed + 1) + stream)

    @property
    def seconds(self) -> float:
        """Seconds since :func:`setup`: of one core on the CPU, of the clock on a GPU.

        What else the machine does lengthens the clock's, and not a core's.
        """
        clock, core = self.started
        if self.device.type == "cpu":
            return time.process_time() - core
        return time.perf_counter() - clock

    def provenance(self) -> dict:
        """JSON-ready record of this run: preset, seed, device, seconds, versions, commit."""
        device = "cpu"
        if self.device.type == "cuda":
            device = torch.cuda.get_device_name(self.device)
        return {
            "preset": self.preset,
            "seed": self.seed,
            "device": device,
            "threads": THREADS,
            "seconds": round(self.seconds, 1),
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
                "nclib": version(),
            },
            "commit": commit(),
        }


def setup(seed: int = 0, preset: str = "auto") -> Run:
    """Seed everything, choose the device, make the numerics repeatable; return the :class:`Run`.

    Args:
        seed: non-negative integer; seeds ``random``, NumPy and torch.
        preset: ``"cpu"`` (small, a minute on two cores), ``"gpu"`` (the paper's scale) or
            ``"auto"``: ``"gpu"`` where CUDA is available, otherwise ``"cpu"``.

    TF32 and bfloat16 inside float32 products are switched off, whichever way they were switched on,
    and deterministic algorithms are asked for where torch has them. On the CPU, also of a machine
    with CUDA, every operation runs on one thread: the chapters' tensors are too small to share, and
    results do not depend on the number of cores. Independent trainings use the cores instead,
    through :func:`nclib.training.parallel`.

    Raises:
        ValueError: unknown preset or negative seed.
        RuntimeError: ``preset="gpu"`` without a CUDA device.
    """
    global _current
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {PRESETS}, got {preset!r}")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"seed must be a non-negative integer, got {seed!r}")
    cuda = torch.cuda.is_available()
    if preset == "auto":
        preset = "gpu" if cuda else "cpu"
    elif preset == "gpu" and not cuda:
        raise RuntimeError("preset 'gpu' needs a CUDA device and none is available; use 'cpu'")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs time
    _full_float32()
    torch.backends.cudnn.benchmark = False
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - also seeds libraries that use the global state
    torch.manual_seed(seed)
    device = torch.device("cuda" if preset == "gpu" else "cpu")
    torch.set_num_threads(1)
    _current = Run(preset=preset, seed=seed, device=device)
    return _current


def _full_float32() -> None:
    """float32 products in float32, by the old settings and, where torch has them, the new ones."""
    torch.set_float32_matmul_precision("highest")  # first: others leave its record behind
    torch.backends.cudnn.allow_tf32 = False
    if hasattr(torch.backends, "fp32_precision"):  # torch 2.9
        torch.backends.fp32_precision = "ieee"
        for backend, names in (("cuda", ["matmul"]), ("cudnn", ["conv", "rnn"]),
                               ("mkldnn", ["matmul", "conv", "rnn"])):
            for name in names:
                getattr(getattr(torch.backends, backend), name).fp32_precision = "ieee"


def current() -> Run:
    """The run of the last :func:`setup`.

    Raises:
        RuntimeError: :func:`setup` has not been called.
    """
    if _current is None:
        raise RuntimeError("call nclib.setup(seed, preset) first")
    return _current


def workers() -> int:
    """How many trainings go side by side: one on a GPU, otherwise one for each core."""
    return 1 if _current is not None and _current.device.type == "cuda" else THREADS


def version() -> str:
    """Version of the installed nclib, or ``"unknown"`` where it is only on the path."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "unknown"


def commit() -> str | None:
    """Commit that nclib comes from: of its checkout, or recorded by pip for an install by URL."""
    root = Path(__file__).resolve().parent.parent
    if (root / ".git").exists():
        try:
            out = subprocess.run(
                ["git", "-C", str(root), "rev-parse", "HEAD"],
                capture_output=True, text=True, timeout=10, check=True,
            )
            return out.stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return None
    try:
        text = metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return None
    return json.loads(text or "{}").get("vcs_info", {}).get("commit_id")
