"""Data held out against the class means of other data, usually of the training set."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..stats import Batches, ClassStats, check_matrix, walk
from ..stats.sums import check_batch, check_labels, full_precision

__all__ = ["Decisions", "decide"]


@dataclass(frozen=True)
class Decisions:
    """What two rules decide on samples.

    Attributes:
        nc4: fraction on which nearest class center and classifier differ; None without a
            classifier.
        center_accuracy: fraction nearest to the center of their own class.
        linear_accuracy: fraction that the classifier gives their own label; None without one.
        num_samples: how many samples were decided.
    """

    nc4: float | None
    center_accuracy: float
    linear_accuracy: float | None
    num_samples: int


@torch.no_grad()
def decide(
    batches: Batches, means_of: ClassStats, weight: Tensor | None = None,
    bias: Tensor | None = None,
) -> Decisions:
    """NC4 and accuracies of test data against the class means of the training data.

    Args:
        batches: ``(features (B, d), labels (B,))``, walked once; one pair of tensors may be given
            as ``[(features, labels)]``. Classes may be missing.
        means_of: statistics of the training data. If they hold a subset of the classes, samples of
            other classes are left out.
        weight: ``(C, d)``, all rows of the head. ``bias``: ``(C,)``.

    Raises:
        ValueError: shapes that do not fit, a label out of range, NaN, or no sample.

    Source: Papyan, Han & Donoho (2020), NC4, which they measure on training data.
    """
    means, classes = means_of.means, means_of.classes
    rows = None if classes is not None else means_of.num_classes
    if weight is not None:
        rows = len(weight)
        weight = check_matrix("weight", weight, (rows, means_of.dim)).to(means.device)
        bias = None if bias is None else check_matrix("bias", bias, (rows,)).to(means.device)
        if classes is None and rows != means_of.num_classes:
            raise ValueError(f"weight has {rows} rows for C={means_of.num_classes} classes")
        if classes is not None:
            kept = classes.to(means.device)
            weight, bias = weight[kept], None if bias is None else bias[kept]
    elif bias is not None:
        raise ValueError("a bias was given without a weight")
    origin = means_of.global_mean
    centers = means - origin
    half = centers.square().sum(1) / 2
    total = differ = center_hits = linear_hits = 0
    step = max(1, (1 << 22) // max(means.shape))
    for features, labels in walk(batches):
        check_batch(features, labels)
        labels = labels.to(means.device, torch.int64)
        check_labels(labels, rows)
        for x, y in zip(features.split(step), labels.split(step), strict=True):
            x = x.to(means.device).to(means.dtype)
            if classes is not None:
                ids = classes.to(y.device)
                at = torch.searchsorted(ids, y).clamp(max=len(ids) - 1)
                x, y = x[ids[at] == y], at[ids[at] == y]
            if not x.isfinite().all():
                raise ValueError("features have NaN or infinity")
            with full_precision():
                nearest = ((x - origin) @ centers.T - half).argmax(1)
                linear = nearest if weight is None else _linear(x, weight, bias)
            total += len(y)
            differ += int((nearest != linear).sum())
            center_hits += int((nearest == y).sum())
            linear_hits += int((linear == y).sum())
    if not total:
        raise ValueError("no sample to decide")
    if weight is None:
        return Decisions(None, center_hits / total, None, total)
    return Decisions(differ / total, center_hits / total, linear_hits / total, total)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    logits = x @ weight.T
    return (logits if bias is None else logits + bias).argmax(1)
