"""Losses of one sample each, with any leading axes, and the batch that an objective sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

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
    """Cross-entropy of every sample of the batch, ``(..., n)``.

    Args:
        smoothing: share of the label that is spread evenly over all classes.
    """
    logits, labels = batch.outputs, batch.labels
    value = nn.functional.cross_entropy(
        logits.flatten(0, -2), labels.flatten(), reduction="none", label_smoothing=smoothing
    )
    return value.view(labels.shape)


def logit_adjusted(
    counts: Tensor, tau: float | Tensor = 1.0
) -> Callable[[Batch], Tensor]:
    """Objective: cross-entropy of the outputs plus τ log π, π the classes' shares of the samples.

    Menon et al. 2021; at τ = 1 also called balanced softmax (Ren et al. 2020).

    Args:
        counts: samples of each class, ``(K,)``, or ``(B, K)`` for the members of an ensemble.
        tau: a number, or ``(B,)``; 0 is plain cross-entropy.

    Raises:
        ValueError: a class without samples.
    """
    counts = torch.as_tensor(counts)
    counts = counts if counts.is_floating_point() else counts.float()
    if not bool((counts > 0).all()):
        raise ValueError("logit adjustment needs at least one sample of every class")
    tau = torch.as_tensor(tau, dtype=counts.dtype, device=counts.device)
    shift = tau[..., None] * (counts / counts.sum(-1, keepdim=True)).log()

    def objective(batch: Batch) -> Tensor:
        outputs = batch.outputs
        return cross_entropy(replace(batch, outputs=outputs + shift.to(outputs)[..., None, :]))

    return objective


def dot_regression(frame: Tensor) -> Callable[[Batch], Tensor]:
    """Objective for a fixed classifier: half the square of cos(h, w_y) − 1, h the features.

    Yang et al. 2022, at unit lengths of features and classifier.

    Args:
        frame: rows w of length one, ``(K, d)``, or ``(B, K, d)`` for the members of an ensemble.

    Raises:
        ValueError: rows that are not of length one.
    """
    if not torch.allclose(frame.norm(dim=-1), frame.new_ones(()), atol=1e-4):
        raise ValueError("the rows of the frame must have length one")

    def objective(batch: Batch) -> Tensor:
        h = nn.functional.normalize(batch.features, dim=-1)
        cosines = h @ frame.to(h).mT
        return (cosines.gather(-1, batch.labels[..., None])[..., 0] - 1).square() / 2

    return objective


def squared_error(batch: Batch) -> Tensor:
    """Squared distance of every output of the batch to its target, ``(..., n)``.

    Integer labels are one-hot.
    """
    wanted = batch.labels
    if not wanted.is_floating_point():
        wanted = nn.functional.one_hot(wanted, batch.outputs.shape[-1]).to(batch.outputs)
    return (batch.outputs - wanted).square().sum(-1)


def half_squared_error(batch: Batch) -> Tensor:
    """Half of :func:`squared_error` of the batch, as the regression models have it."""
    return squared_error(batch) / 2


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Mean of values v over the last axis, ``Σ w v / Σ w`` with weights w; 0 where all are 0."""
    if weights is None:
        return values.mean(-1)
    values = torch.where(weights > 0, values, torch.zeros_like(values))  # 0 · inf is not 0
    total = weights.sum(-1)
    return (weights * values).sum(-1) / torch.where(total > 0, total, torch.ones_like(total))
