"""One training loop: data stay on the device, any torch optimizer, metrics by callback."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor, nn

from . import runtime
from .models import evaluating

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
    penalty: Callable[[nn.Module, Tensor], Tensor] | None = None,
    callback: Callable[[int, nn.Module], dict] | None = None,
    at: Collection[int] | None = None,
    generator: torch.Generator | None = None,
    amp: bool = False,
) -> list[dict]:
    """Train ``model`` in place and return one record for every epoch in ``at``.

    Args:
        x: ``(N, ...)`` inputs, on the model's device; batches are gathered there.
        y: ``(N,)`` integer labels, on the same device.
        epochs: passes over the data; every pass is a fresh permutation, cut in batches of nearly
            equal size, none above ``batch_size``.
        optimizer: makes the optimizer of the trainable parameters. Those that need a closure
            (L-BFGS) get one.
        schedule: makes a scheduler from the optimizer and the total number of steps; it is stepped
            after every batch.
        penalty: added to the loss; called with the model and the features of the batch.
        callback: called as ``callback(epoch, model)`` in evaluation mode, without gradients; its
            dict is merged into that epoch's record. Epoch 0 is the untrained model.
        at: epochs to record (default: 0 and every epoch).
        generator: CPU generator for the permutations; the same batches on every device.
        amp: bfloat16 autocast on CUDA.

    Returns:
        Records ``{"epoch", "loss", "accuracy", **callback}``; loss and accuracy are means over the
        epoch's batches as they were trained on (NaN for epoch 0).

    Raises:
        ValueError: sizes that do not fit.
        FloatingPointError: the loss of an epoch is not finite; the message names the epoch.
    """
    if len(x) != len(y) or y.dim() != 1:
        raise ValueError(f"x has {len(x)} samples, y has shape {tuple(y.shape)}")
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"epochs and batch_size must be ≥ 1, got {epochs} and {batch_size}")
    at = set(range(epochs + 1)) if at is None else set(at)
    opt = optimizer([p for p in model.parameters() if p.requires_grad])
    pieces = -(-len(x) // batch_size)
    scheduler = schedule(opt, epochs * pieces) if schedule else None
    autocast = torch.autocast("cuda", torch.bfloat16) if amp else contextlib.nullcontext()
    records = []

    def record(epoch: int, total: Tensor, correct: Tensor) -> None:
        mean_loss = (total / len(x)).item() if epoch else float("nan")
        if epoch and not mean_loss < float("inf"):
            raise FloatingPointError(f"training loss is {mean_loss} in epoch {epoch}")
        if epoch not in at:
            return
        accuracy = (correct / len(x)).item() if epoch else float("nan")
        with evaluating(model):
            extra = callback(epoch, model) if callback else {}
        records.append({"epoch": epoch, "loss": mean_loss, "accuracy": accuracy, **extra})

    wide = torch.float32 if x.device.type == "mps" else torch.float64
    zero = torch.zeros((), device=x.device, dtype=wide)
    record(0, zero, zero)
    model.train()
    for epoch in range(1, epochs + 1):
        total, correct = zero.clone(), zero.clone()
        order = torch.randperm(len(x), generator=generator).to(x.device)
        for batch in order.tensor_split(pieces):
            xb, yb = x[batch], y[batch]
            first: dict[str, Tensor] = {}

            def closure(xb=xb, yb=yb, first=first):
                opt.zero_grad(set_to_none=True)
                with autocast:
                    logits, features = model(xb, return_features=True)
                if logits.dtype in (torch.float16, torch.bfloat16):
                    logits = logits.float()
                value = loss(logits, yb)
                if not first:  # L-BFGS calls again; the record is of the parameters before the step
                    first.update(loss=value.detach(), logits=logits.detach())
                if penalty is not None:
                    value = value + penalty(model, features)
                value.backward()
                return value

            opt.step(closure)
            total += first["loss"] * len(yb)
            correct += (first["logits"].argmax(1) == yb).sum()
            if scheduler:
                scheduler.step()
        record(epoch, total, correct)
    return records


def outputs(model: nn.Module, x: Tensor, batch_size: int = 1024) -> tuple[Tensor, Tensor]:
    """Logits ``(N, K)`` and features ``(N, d)`` of ``x`` in evaluation mode.

    Memory: the two results and the activations of one batch.
    """
    with evaluating(model):
        pairs = [model(b, return_features=True) for b in x.split(batch_size)]
    logits, features = zip(*pairs, strict=True)
    return torch.cat(logits), torch.cat(features)


def parallel(function: Callable[[T], R], items: Iterable[T], workers: int | None = None) -> list[R]:
    """``[function(item) for item in items]``, several at a time, each on one torch thread.

    For independent trainings of small networks, whose operations are too short to share between
    cores. A result does not depend on ``workers``, as long as ``function`` draws no random numbers
    from torch's global generator: make models before, and pass generators.

    Args:
        workers: by default as many as torch had threads before :func:`nclib.setup` set it to one.

    Raises:
        Exception: the first one that ``function`` raised, after the others have ended.
    """
    with ThreadPoolExecutor(
        workers or runtime.THREADS, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        return list(pool.map(function, items))
