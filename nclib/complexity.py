"""Geometric complexity: how steep a map is at the data, and the collapse that it bounds.

``GC(f, D) = |D|⁻¹ Σ_{x∈D} ‖∂f/∂x‖_F²``, the squared Frobenius norm of the Jacobian with respect to
the *input*, not the weights, and of whatever ``f`` returns: features, or logits.

``f(x) = Ax + b`` has ``‖A‖_F²``; ``αf`` has ``α²`` times that of ``f``; inputs in a unit that makes
them ``s`` times larger have ``1/s²`` of it. So it is not scale-free; :func:`geometric_collapse` is.

Source: Dherin, Munn, Rosca & Barrett (2022), "Why neural networks find simple solutions: the many
regularizers of geometric complexity"; Munn, Dherin & Gonzalvo (2024), "The impact of geometric
complexity on neural collapse in transfer learning".
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .stats import ClassStats

__all__ = ["energies", "geometric_collapse", "geometric_complexity"]

_RANDOM = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


def energies(
    f: Callable[[Tensor], Tensor],
    inputs: Tensor,
    *,
    method: str = "exact",
    samples: int | None = None,
    chunk: int = 256,
    stacked: bool = False,
    differentiable: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Squared Frobenius norm of the Jacobian at every sample, ``‖∂f/∂x‖_F²``.

    Args:
        f: maps ``(N, ...)`` inputs to ``(N, ...)`` outputs, each sample on its own.
        inputs: ``(N, ...)``.
        method: ``"exact"`` sums the gradients of all p outputs; ``"hutchinson"`` averages
            ``‖Jᵀv‖²`` over Gaussian probes v, one backward pass a probe whatever p is;
            ``"coordinates"`` takes some of the outputs and multiplies by p over their number. The
            last two are unbiased.
        samples: number of probes, or of outputs drawn without replacement; by default 1 probe, or a
            quarter of the outputs.
        chunk: gradients computed at once, samples times outputs; it bounds the memory.
        stacked: ``f`` maps ``(B, N, ...)`` to ``(B, N, ...)``, B networks side by side, as an
            :class:`nclib.ensembles.Ensemble` does.
        differentiable: keep the graph, for a penalty on the complexity.
        generator: for probes and drawn outputs, on the CPU; by default torch's own.

    Returns:
        ``(N,)``, or ``(B, N)`` if stacked.

    Raises:
        ValueError: batch normalization or dropout in training mode, in which samples are not on
            their own; an output that does not fit; an unknown method; sizes below 1.
    """
    _refuse_training(f)
    if method not in ("exact", "hutchinson", "coordinates"):
        raise ValueError(f"method must be exact, hutchinson or coordinates, got {method!r}")
    if chunk < 1 or (samples is not None and samples < 1):
        raise ValueError(f"chunk and samples must be at least 1, got {chunk} and {samples}")
    if method == "exact" and samples is not None:
        raise ValueError("the exact method takes no samples")
    lead = 2 if stacked else 1
    if inputs.dim() <= lead - 1 or not inputs.is_floating_point() or not inputs.shape[lead - 1]:
        raise ValueError(f"inputs must be {'(B, N, ...)' if stacked else '(N, ...)'} of a float "
                         f"dtype, got {tuple(inputs.shape)} {inputs.dtype}")
    rows = max(1, chunk // (len(inputs) if stacked else 1))
    parts = [
        _energies(f, x, lead, method, samples, chunk, differentiable, generator)
        for x in inputs.split(rows, dim=lead - 1)
    ]
    return torch.cat(parts, -1)


def geometric_complexity(
    f: Callable[[Tensor], Tensor], inputs: Tensor, **options
) -> Tensor:
    """``GC(f, D)``: the mean of :func:`energies` over the samples.

    Args:
        f, inputs, options: as in :func:`energies`.

    Returns:
        A 0-d tensor, or ``(B,)`` if stacked.

    >>> A = torch.tensor([[1.0, 2.0], [0.0, 2.0]])
    >>> float(geometric_complexity(lambda x: x @ A.T, torch.randn(5, 2)))
    9.0
    """
    return energies(f, inputs, **options).mean(-1)


def geometric_collapse(values: Tensor, labels: Tensor, means: Tensor | ClassStats) -> Tensor:
    """Complexity over class separation.

    Mean over ``i≠j`` of ``(GC_i + GC_j) / (2 ‖mu_i - mu_j‖²)``, ``GC_c`` of the samples of class c.
    It does not depend on the scale of the map. If every class satisfies a Poincaré inequality with
    constant ρ, then CDNV ≤ ρ times this value.

    Args:
        values: ``(N,)`` from :func:`energies`.
        labels: ``(N,)`` integers in ``[0, C)``, every class with a sample.
        means: ``(C, d)`` class means of the same map, or its statistics.

    Returns:
        A 0-d tensor; infinite where two means coincide.

    Raises:
        ValueError: shapes that do not fit, a label out of range, or a class without samples.
    """
    means = means.means if isinstance(means, ClassStats) else means
    C = len(means)
    if values.dim() != 1 or labels.shape != values.shape or means.dim() != 2 or C < 2:
        raise ValueError(
            f"expected values (N,), labels (N,), means (C, d); got {tuple(values.shape)}, "
            f"{tuple(labels.shape)}, {tuple(means.shape)}"
        )
    labels = labels.to(values.device).long()
    if int(labels.min()) < 0 or int(labels.max()) >= C:
        raise ValueError(f"labels must be in [0, {C}), got {int(labels.min())} to "
                         f"{int(labels.max())}")
    counts = torch.bincount(labels, minlength=C)
    if not counts.all():
        raise ValueError(f"no samples of class {int((counts == 0).nonzero()[0])}")
    each = values.new_zeros(C).index_add(0, labels, values) / counts
    means = means.to(values)
    squares = (means[:, None] - means).square().sum(-1)
    ratio = (each[:, None] + each) / (2 * squares + torch.eye(C).to(values))
    return ratio.triu(1).sum() / (C * (C - 1) / 2)


def _energies(f, x, lead, method, samples, chunk, differentiable, generator) -> Tensor:
    with torch.enable_grad():
        if not (differentiable and x.requires_grad):
            x = x.detach().requires_grad_()
        out = f(x)
        if out.shape[:lead] != x.shape[:lead] or out.dim() < lead:
            raise ValueError(f"inputs {tuple(x.shape)} gave outputs {tuple(out.shape)}")
        out = out.flatten(lead) if out.dim() > lead else out.unsqueeze(-1)
        p, total = out.shape[-1], 0.0
        if method == "hutchinson":
            probes, rest, scale = None, samples or 1, 1 / (samples or 1)
        else:
            wanted = p if method == "exact" else (samples or max(1, p // 4))
            if wanted > p:
                raise ValueError(f"{wanted} of {p} outputs cannot be drawn")
            probes = torch.arange(p) if wanted == p else torch.randperm(p, generator=generator)
            probes, rest, scale = probes[:wanted], wanted, p / wanted
        at_once = max(1, chunk // out.shape[:lead].numel())
        for start in range(0, rest, at_once):
            size = min(at_once, rest - start)
            v = torch.zeros(size, *out.shape, dtype=out.dtype, device=out.device)
            if probes is None:
                v.copy_(torch.randn(v.shape, dtype=torch.float64, generator=generator))
            else:
                for i, k in enumerate(probes[start : start + size].tolist()):
                    v[i, ..., k] = 1
            total = total + _squares(out, x, v, lead, differentiable, start + size < rest)
    total = total * scale
    return total if differentiable else total.detach()


def _squares(out, x, v, lead, differentiable, more) -> Tensor:
    """Sum over the probes ``v (k, *lead, p)`` of ``‖Jᵀv‖²``, a number a sample."""
    options = {"create_graph": differentiable, "retain_graph": differentiable or more,
               "allow_unused": True}
    if not out.requires_grad:  # a constant map
        return x.new_zeros(x.shape[:lead])
    if len(v) == 1:
        (g,) = torch.autograd.grad(out, x, v[0], **options)
        g = None if g is None else g[None]
    else:
        (g,) = torch.autograd.grad(out, x, v, is_grads_batched=True, **options)
    if g is None:
        return x.new_zeros(x.shape[:lead])
    return g.square().flatten(lead + 1).sum(-1).sum(0) if g.dim() > lead + 1 else g.square().sum(0)


def _refuse_training(f) -> None:
    owner = f if isinstance(f, nn.Module) else getattr(f, "__self__", None)
    if isinstance(owner, nn.Module):
        for name, module in owner.named_modules():
            random = isinstance(module, _RANDOM) or "BatchNorm" in type(module).__name__
            if random and module.training:
                raise ValueError(
                    f"{name or type(module).__name__} is in training mode, where a sample's output "
                    "is not its own: call eval() first"
                )
