"""One report of all measures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .measures import (
    check_targets,
    checked,
    covariance_root,
    nrc2,
    nrc3_fit,
    principal,
    resolution_of,
    same_dim,
    scaled,
    share_outside,
)

__all__ = ["NRCReport", "measure_regression"]


@dataclass(frozen=True)
class NRCReport:
    """Regression collapse of one or many networks; tensors of the batch's shape.

    Read ``r2`` and ``feature_norm`` first: where the network has not learned the targets, or weight
    decay has switched it off, the other numbers are noise of any size.

    Attributes:
        nrc1, nrc1_centered: see :func:`nrc1`.
        nrc2, nrc2_centered: see :func:`nrc2`; NaN for a zero weight.
        nrc3: at its best gamma, see :func:`nrc3_fit`; NaN for a zero weight.
        gamma_ratio: that gamma over the smallest eigenvalue of Sigma.
        gamma_inside: whether it lies inside its interval.
        evr: ``(..., k)``, see :func:`explained_variance`.
        rank: number of principal components with more than 0.1 % of the variance; 0 for constant
            features.
        mse: mean over samples and components.
        r2: ``1 - SS_res / SS_tot``, over all components together.
        feature_norm: root of the mean ``‖h‖²``.
        weight_norm: ``‖W‖_F``.
    """

    nrc1: Tensor
    nrc1_centered: Tensor
    nrc2: Tensor
    nrc2_centered: Tensor
    nrc3: Tensor
    gamma_ratio: Tensor
    gamma_inside: Tensor
    evr: Tensor
    rank: Tensor
    mse: Tensor
    r2: Tensor
    feature_norm: Tensor
    weight_norm: Tensor


def measure_regression(
    features: Tensor, targets: Tensor, weight: Tensor, bias: Tensor | None = None, *, k: int = 5
) -> NRCReport:
    """Measure the regression collapse of one network or of a batch of them.

    Args:
        features: ``(..., N, d)``, the input of the last linear layer.
        targets: ``(N, n)`` or ``(..., N, n)``.
        weight: ``(..., n, d)``.
        bias: ``(..., n)``, or ``(n,)`` for every network of a batch; by default zero.
        k: explained-variance ratios to report, at most d.

    Raises:
        ValueError: shapes that do not fit, or not finite.
    """
    given = torch.as_tensor(weight).detach()  # its dtype decides which directions are switched off
    resolution = resolution_of(features)
    features, weight = checked("features", features), checked("weight", weight, rows=1)
    weight = weight.to(features.device)
    targets = checked("targets", targets).to(features.device)
    same_dim(features, weight)
    if targets.shape[-2:] != (features.shape[-2], weight.shape[-2]):
        raise ValueError(
            f"targets are {tuple(targets.shape)}, features {tuple(features.shape)}, weight "
            f"{tuple(weight.shape)}: expected targets (..., N, n)"
        )
    output = features @ weight.mT
    if bias is not None:
        bias = torch.as_tensor(bias).detach()
        if bias.shape not in (weight.shape[:-1], weight.shape[-2:-1]):
            raise ValueError(f"bias must be {tuple(weight.shape[:-1])}, got {tuple(bias.shape)}")
        if not bias.isfinite().all():
            raise ValueError("bias holds a NaN or an infinite value")
        output = output + bias.to(output).unsqueeze(-2)
    mse = (output - targets).square().mean((-2, -1))
    spread = (targets - targets.mean(-2, keepdim=True)).square().mean((-2, -1))
    root = covariance_root(targets)
    batch = features.dim() > 2
    f, w, given = (x if batch else x[None] for x in (features, weight, given))
    n = weight.shape[-2]
    check_targets(n, f)
    unit_f, size = scaled(f)
    found, fit = principal(unit_f), nrc3_fit(w, root)
    share = found[0] / found[0].sum(-1, keepdim=True)
    report = {
        "nrc1": share_outside(unit_f, found, n, False, resolution),
        "nrc1_centered": share_outside(unit_f, found, n, True, resolution),
        "nrc2": nrc2(f, given),
        "nrc2_centered": nrc2(f, given, centered=True),
        "nrc3": fit.value,
        "gamma_ratio": fit.ratio,
        "gamma_inside": fit.inside,
        "evr": share[..., : min(k, features.shape[-1])],
        "rank": (share > 1e-3).sum(-1),
        "mse": mse,
        "r2": 1 - mse / spread,
        "feature_norm": unit_f.square().sum(-1).mean(-1).sqrt() * size[..., 0, 0],
        "weight_norm": torch.linalg.vector_norm(w, dim=(-2, -1)),
    }
    if not batch:
        report = {k: v if k in ("mse", "r2") else v[0] for k, v in report.items()}
    return NRCReport(**report)
