"""setup: seeds, presets, provenance."""

import random
import re
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import nclib
from nclib import runtime


def draws():
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


def test_same_seed_same_draws():
    nclib.setup(seed=5, preset="cpu")
    first = draws()
    nclib.setup(seed=5, preset="cpu")
    assert draws() == first
    nclib.setup(seed=6, preset="cpu")
    assert draws() != first


def test_auto_follows_the_device():
    run = nclib.setup()
    assert run.preset == ("gpu" if torch.cuda.is_available() else "cpu")
    assert run.pick(cpu=1, gpu=2) == (2 if run.preset == "gpu" else 1)
    assert runtime.current() is run


@pytest.mark.parametrize(
    "arguments", [{"preset": "tpu"}, {"seed": -1}, {"seed": 1.0}, {"seed": True}]
)
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match="must be"):
        nclib.setup(**arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_gpu_preset_needs_a_gpu():
    with pytest.raises(RuntimeError, match="needs a CUDA device"):
        nclib.setup(preset="gpu")


def test_runs_share_no_seed_and_no_stream():
    a, b = nclib.setup(seed=0, preset="cpu"), nclib.setup(seed=1, preset="cpu")
    assert not set(a.seeds(1000)) & set(b.seeds(1000))
    first = torch.rand(4, generator=a.generator(2))
    assert torch.equal(first, torch.rand(4, generator=a.generator(2)))
    assert not torch.equal(first, torch.rand(4, generator=a.generator(3)))
    assert not torch.equal(first, torch.rand(4, generator=b.generator(2)))
    with pytest.raises(ValueError, match="stream"):
        a.generator(1000)


def precisions():
    """Every setting that lets float32 products be computed in less, as torch reports it."""
    b = torch.backends
    found = [torch.get_float32_matmul_precision(), b.cuda.matmul.allow_tf32, b.cudnn.allow_tf32]
    if hasattr(b, "fp32_precision"):
        nodes = [b, b.cuda.matmul, b.cudnn.conv, b.cudnn.rnn, b.mkldnn.matmul, b.mkldnn.conv]
        found += [node.fp32_precision for node in nodes]
    return found


def new_setting(*path):
    def set_it():
        node = torch.backends
        for name in path:
            node = getattr(node, name)
        node.fp32_precision = "tf32"
    return set_it


NEW = [new_setting(), new_setting("cuda", "matmul"), new_setting("cudnn", "conv"),
       new_setting("mkldnn", "matmul")] if hasattr(torch.backends, "fp32_precision") else []
WAYS = [
    lambda: None,
    lambda: torch.set_float32_matmul_precision("high"),
    lambda: torch.set_float32_matmul_precision("medium"),
    lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    lambda: setattr(torch.backends.cudnn, "allow_tf32", True),
    *NEW,
]


@pytest.mark.parametrize("way", range(len(WAYS)))
def test_full_float32_whatever_was_set(way):
    WAYS[way]()
    nclib.setup(preset="cpu")
    assert precisions() == ["highest", False, False, *["ieee"] * 6][: len(precisions())]


def test_full_float32_without_the_new_settings(monkeypatch):
    """torch before 2.9 has the old settings alone."""
    monkeypatch.setattr(torch, "backends", SimpleNamespace(cudnn=torch.backends.cudnn))
    torch.set_float32_matmul_precision("high")
    runtime._full_float32()
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.allow_tf32


def test_numerics():
    nclib.setup(preset="cpu")
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == 1


def test_trainings_side_by_side(monkeypatch):
    monkeypatch.setattr(runtime, "THREADS", 5)
    cpu = runtime.setup(preset="cpu")
    assert runtime.workers() == 5
    gpu = runtime.Run(preset="gpu", seed=0, device=torch.device("cuda"))
    monkeypatch.setattr(runtime, "_current", gpu)
    assert runtime.workers() == 1 and cpu is not gpu


def test_provenance():
    record = nclib.setup(seed=2, preset="cpu").provenance()
    assert record["device"] == "cpu" and record["seed"] == 2 and record["seconds"] >= 0
    assert record["commit"] is None or re.fullmatch(r"[0-9a-f]{40}", record["commit"])


def test_current_needs_setup(monkeypatch):
    monkeypatch.setattr(runtime, "_current", None)
    with pytest.raises(RuntimeError, match="setup"):
        runtime.current()


def test_seconds_are_those_of_a_core():
    run = nclib.setup(0, "cpu")
    time.sleep(0.5)
    assert run.seconds < 0.4  # waiting is no work
