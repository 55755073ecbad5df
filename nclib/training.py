"""One training loop: data stay on the device, any torch optimizer, metrics by callback."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from . import runtime
from .losses import Batch
from .models import evaluating, learning

T = TypeVar("T")
R = TypeVar("R")


def train(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epochs: int,
    batch_size: int,
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    schedule: Callable[[torch.optim.Optimizer, int], torch.optim.lr_scheduler.LRScheduler]
    | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
    objective: Callable[[Batch], Tensor] | None = None,
    penalty: Callable[[nn.Module, Tensor], Tensor] | None = None,
    after_backward: Callable[[Batch], None] | None = None,
    after_step: Callable[[Batch], None] | None = None,
    input_gradients: bool = False,
    batches: Callable[[int], Iterable[Tensor]] | None = None,
    callback: Callable[[int, nn.Module], dict] | None = None,
    at: Collection[int] | None = None,
    generator: torch.Generator | None = None,
    amp: bool = False,
    resume: str | Path | None = None,
) -> list[dict]:
    """Train ``model`` in place and return one record for every epoch in ``at``.

    Args:
        x: ``(N, ...)`` inputs; moved to the model's device once, batches are gathered there.
        y: ``(N,)`` integer labels, or ``(N, m)`` targets with a ``loss`` or ``objective`` for them.
        epochs: passes over the data; every pass is a fresh permutation, cut in batches of nearly
            equal size, none above ``batch_size``.
        optimizer: makes the optimizer of the trainable parameters. Those that need a closure
            (L-BFGS) get one.
        schedule: makes a scheduler from the optimizer and the total number of steps; it is stepped
            after every batch.
        loss: of logits and labels, averaged over the batch.
        objective: takes the place of ``loss`` where more must be seen: from a
            :class:`~nclib.losses.Batch` with inputs, features and labels to a scalar, or to one
            value for each sample, whose mean counts.
        penalty: added to the loss; called with the model and the features of the batch.
        after_backward: called with the batch between backward and step, for example to change
            gradients (for L-BFGS after every evaluation).
        after_step: called with the batch after the step, without gradients.
        input_gradients: let ``batch.inputs`` require gradients.
        batches: index tensors of the epoch that is given, in place of the permutation.
        callback: called as ``callback(epoch, model)`` in evaluation mode, without gradients; its
            dict is merged into that epoch's record. Epoch 0 is the untrained model.
        at: epochs to record (default: 0 and every epoch).
        generator: generator for the permutations; one on the CPU gives the same batches on every
            device.
        amp: bfloat16 autocast on CUDA.
        resume: a file that is written after every epoch, and from which training goes on if it is
            there: an interrupted run that is started again ends as if it had not been interrupted.
            It holds the model, optimizer, scheduler, generators, epoch and records; the callback's
            values must be numbers, strings, tensors or lists of them.

    Submodules that are in evaluation mode while the model is in training mode (a frozen
    normalization) stay so; afterwards every submodule has the mode that it had before.

    Returns:
        Records ``{"epoch", "loss", "accuracy", **callback}``; loss (without penalty) and accuracy
        are means over the epoch's samples as they were trained on; NaN for epoch 0, and accuracy
        for targets.

    Raises:
        ValueError: sizes that do not fit; a file of another run in ``resume``.
        FloatingPointError: the loss of an epoch is not finite; the message names the epoch.
    """
    targets = y.dim() == 2 and y.is_floating_point()
    if len(x) != len(y) or not (y.dim() == 1 or targets):
        raise ValueError(f"x has {len(x)} samples, y has shape {tuple(y.shape)}")
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"epochs and batch_size must be ≥ 1, got {epochs} and {batch_size}")
    device = next(model.parameters()).device
    x, y = x.to(device), y.to(device)
    at = set(range(epochs + 1)) if at is None else set(at)
    opt = optimizer([p for p in model.parameters() if p.requires_grad])

    def permuted(_: int) -> Iterable[Tensor]:
        on = "cpu" if generator is None else generator.device
        order = torch.randperm(len(x), generator=generator, device=on)
        return order.to(device).tensor_split(-(-len(x) // batch_size))

    draw = batches or permuted
    autocast = contextlib.nullcontext()
    if amp and device.type == "cuda":
        autocast = torch.autocast("cuda", torch.bfloat16)
    wide = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64

    def record(epoch: int, total: Tensor, correct: Tensor, seen: int) -> None:
        mean_loss = (total / seen).item() if epoch else float("nan")
        if epoch and not abs(mean_loss) < float("inf"):
            raise FloatingPointError(f"training loss is {mean_loss} in epoch {epoch}")
        if epoch not in at:
            return
        known = epoch and not targets
        accuracy = (correct / seen).item() if known else float("nan")
        with evaluating(model):
            extra = callback(epoch, model) if callback else {}
        records.append({"epoch": epoch, "loss": mean_loss, "accuracy": accuracy, **extra})

    def step(number: int, index: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and number of right outputs before the step."""
        index = index.to(device)
        first: list[Batch] = []

        def closure():
            opt.zero_grad(set_to_none=True)
            inputs = x[index].requires_grad_() if input_gradients else x[index]
            with autocast:
                logits, features = (_widened(v) for v in model(inputs, return_features=True))
            batch = Batch(number, model, index, inputs, y[index], logits, features)
            value = objective(batch).mean() if objective else loss(logits, batch.labels)
            batch.loss = value.detach()
            if not first:  # L-BFGS calls again; the record is of the parameters before the step
                first.append(batch)
            if penalty is not None:
                value = value + penalty(model, features)
            value.backward()
            if after_backward:
                after_backward(batch)
            return value.detach()

        opt.step(closure)
        batch = first[0]
        if after_step:
            with torch.no_grad():
                after_step(batch)
        if targets:
            return batch.loss, torch.zeros((), device=device)
        return batch.loss, (batch.outputs.detach().argmax(1) == batch.labels).sum()

    run = {"epochs": epochs, "batch_size": batch_size, "samples": len(x)}
    saved = _load(resume, run)
    records: list[dict] = saved["records"] if saved else []
    done = saved["epoch"] if saved else 0
    if saved:
        _set_random(saved["random"], generator, device)
    pending = list(draw(done + 1)) if done < epochs else []
    scheduler = schedule(opt, epochs * len(pending)) if schedule and pending else None
    if saved:
        model.load_state_dict(saved["model"])
        if pending:
            opt.load_state_dict(saved["optimizer"])
        if scheduler:
            scheduler.load_state_dict(saved["scheduler"])
    else:
        zero = torch.zeros((), device=device)
        record(0, zero, zero, len(x))
    steps = done * len(pending)
    with learning(model):
        while done < epochs:
            done += 1
            total, correct = (torch.zeros((), device=device, dtype=wide) for _ in range(2))
            seen = 0
            for index in pending:
                value, right = step(steps, index)
                total += value * len(index)
                correct += right
                seen += len(index)
                steps += 1
                if scheduler:
                    scheduler.step()
            record(done, total, correct, seen)
            if resume:
                state = {"run": run, "epoch": done, "records": records, "model": model.state_dict(),
                         "optimizer": opt.state_dict(), "random": _random(generator, device),
                         "scheduler": scheduler.state_dict() if scheduler else None}
                _save(Path(resume), state)
            pending = list(draw(done + 1)) if done < epochs else []
    return records


def _widened(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _save(path: Path, state: dict) -> None:
    """Write the file as a whole or not at all, with every tensor on the CPU."""
    def on_cpu(value):
        if isinstance(value, dict):
            return {key: on_cpu(v) for key, v in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(on_cpu, value))
        return value.cpu() if isinstance(value, Tensor) else value

    partial = path.with_name(path.name + ".partial")
    torch.save(on_cpu(state), partial)
    os.replace(partial, path)


def _load(path: str | Path | None, run: dict) -> dict | None:
    if path is None or not Path(path).exists():
        return None
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["run"] != run:
        raise ValueError(f"{path} is of another run: {state['run']}, not {run}")
    return state


def _random(generator: torch.Generator | None, device: torch.device) -> dict:
    """States of all generators that training may draw from."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    own = None if generator is None else generator.get_state()
    return {"own": own, "cpu": torch.get_rng_state(), "cuda": cuda}


def _set_random(state: dict, generator: torch.Generator | None, device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    if state["own"] is not None and generator is not None:
        generator.set_state(state["own"])


def outputs(model: nn.Module, x: Tensor, batch_size: int = 1024) -> tuple[Tensor, Tensor]:
    """Logits ``(N, K)`` and features ``(N, d)`` of ``x`` in evaluation mode, on the model's device.

    Memory: the two results and the activations of one batch.
    """
    device = next(model.parameters()).device
    with evaluating(model):
        pairs = [model(b.to(device), return_features=True) for b in x.split(batch_size)]
    logits, features = zip(*pairs, strict=True)
    return torch.cat(logits), torch.cat(features)


def parallel(function: Callable[[T], R], items: Iterable[T], workers: int | None = None) -> list[R]:
    """``[function(item) for item in items]``, several at a time, each on one torch thread.

    For independent trainings of small networks, whose operations are too short to share between
    cores. A result does not depend on ``workers``, as long as ``function`` draws no random numbers
    from torch's global generator: make models before, and pass generators.

    Args:
        workers: by default one if the run is on a GPU, which one training fills or whose memory it
            needs; otherwise as many as torch had threads before :func:`nclib.setup` set it to one.

    Raises:
        Exception: the first one that ``function`` raised, after the others have ended.
    """
    with ThreadPoolExecutor(
        workers or runtime.workers(), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        return list(pool.map(function, items))
