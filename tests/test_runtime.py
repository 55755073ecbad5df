"""setup: seeds, presets, provenance."""

import random
import re

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


def test_numerics():
    nclib.setup(preset="cpu")
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.get_num_threads() == 1


def test_provenance():
    record = nclib.setup(seed=2, preset="cpu").provenance()
    assert record["device"] == "cpu" and record["seed"] == 2 and record["seconds"] >= 0
    assert record["commit"] is None or re.fullmatch(r"[0-9a-f]{40}", record["commit"])


def test_current_needs_setup(monkeypatch):
    monkeypatch.setattr(runtime, "_current", None)
    with pytest.raises(RuntimeError, match="setup"):
        runtime.current()
