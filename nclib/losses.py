"""Losses of one sample each, with any leading axes, and the batch that an objective sees."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class Batch:
    """What an objective and the hooks of a training loop see of one step.

    In :func:`nclib.training.train` the shapes are those of one network; in
    :func:`nclib.ensembles.train` everything but ``inputs`` has a leading axis of B members, and
    ``inputs`` one of B, or of 1 where all members see the same batch.
    """

    step: int  #: steps done before this one
    model: nn.Module  #: the network, or the ensemble; gradients are at its parameters
    index: Tensor  #: positions of the samples in the data
    inputs: Tensor  #: ``(n, ...)``
    labels: Tensor  #: ``(n,)`` integers or ``(n, m)`` targets
    outputs: Tensor  #: ``(n, K)``
    features: Tensor  #: ``(n, d)``
    loss: Tensor | None = None  #: of this batch; set before the first hook


def cross_entropy(batch: Batch, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of every sample, ``(..., n)``."""
    logits, labels = batch.outputs, batch.labels
    value = nn.functional.cross_entropy(
        logits.flatten(0, -2), labels.flatten(), reduction="none", label_smoothing=smoothing
    )
    return value.view(labels.shape)


def squared_error(batch: Batch) -> Tensor:
    """Squared distance of every output to its target, ``(..., n)``; integer labels are one-hot."""
    wanted = batch.labels
    if not wanted.is_floating_point():
        wanted = nn.functional.one_hot(wanted, batch.outputs.shape[-1]).to(batch.outputs)
    return (batch.outputs - wanted).square().sum(-1)


def half_squared_error(batch: Batch) -> Tensor:
    """Half of :func:`squared_error`, as the regression and squared-loss models have it."""
    return squared_error(batch) / 2


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Mean over the last axis, ``Σ w v / Σ w`` with weights; 0 where all weights are 0."""
    if weights is None:
        return values.mean(-1)
    values = torch.where(weights > 0, values, torch.zeros_like(values))  # 0 · inf is not 0
    total = weights.sum(-1)
    return (weights * values).sum(-1) / torch.where(total > 0, total, torch.ones_like(total))
