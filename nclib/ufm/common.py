"""What the models share: weight decays, one a problem."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Decay = float | Tensor  # one for all problems, or ``(B,)``


def per_problem(name: str, lam: Decay, like: Tensor) -> Decay:
    """A float, or ``(B,)`` on the device and of the type of ``like`` ``(B, ...)``.

    Raises:
        ValueError: a tensor of another shape.
    """
    if not torch.is_tensor(lam):
        return lam
    if lam.shape not in ((), (len(like),)):
        raise ValueError(f"{name} must be a number or ({len(like)},), got {tuple(lam.shape)}")
    return lam.to(like)


def together(*values) -> list[Tensor]:
    """Numbers and tensors as float64 tensors on one device: that of the first not on the CPU."""
    found = [torch.as_tensor(v, dtype=torch.float64) for v in values]
    device = next((v.device for v in found if v.device.type != "cpu"), found[0].device)
    return [v.to(device) for v in found]


def normal(*shape: int, generator: torch.Generator | None) -> Tensor:
    """Standard normal float64 values, drawn on the generator's own device (without one: the CPU).

    The numbers of a CPU generator are the same whatever the device of the problem.
    """
    on = generator.device if generator is not None else "cpu"
    return torch.randn(*shape, dtype=torch.float64, device=on, generator=generator)


def class_sizes(num_classes: int, per_class: int | Sequence[int]) -> list[int]:
    """Samples of each class.

    Raises:
        ValueError: a size below 1, or not K of them.
    """
    sizes = [per_class] * num_classes if isinstance(per_class, int) else [int(n) for n in per_class]
    if len(sizes) != num_classes or min(sizes, default=0) < 1:
        raise ValueError(f"need K={num_classes} class sizes of at least 1, got {sizes}")
    return sizes
