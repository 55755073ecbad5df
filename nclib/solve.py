"""Batched minimizers: many independent smooth problems at once.

Every problem is one slice of a leading axis ``B``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Path", "Solution", "descend", "minimize"]


@dataclass(frozen=True)
class Solution:
    """Result of :func:`minimize`: tensors of the start's shapes, and ``(B,)`` diagnostics."""

    x: dict[str, Tensor]
    loss: Tensor
    grad_norm: Tensor
    iterations: int
    converged: Tensor


def minimize(
    loss: Callable[..., Tensor], start: dict[str, Tensor], *, tol: float = 1e-10,
    max_iter: int = 2000, history: int = 8,
) -> Solution:
    """Minimize ``B`` independent smooth problems at once with batched L-BFGS.

    Args:
        loss: called with the entries of ``start`` as keywords; returns ``(B,)``, where problem
            ``i`` depends only on slice ``i``.
        start: tensors ``(B, ...)`` of one float dtype; not modified.
        tol: a problem is done when the 2-norm of its gradient is below ``tol``.
        max_iter: iterations for the whole batch; problems that are done stand still.
        history: pairs kept; memory is 2·history·B·P floats for P variables a problem.

    The step is halved until the loss decreases sufficiently or, where rounding hides the
    decrease, the slope does (the approximate Wolfe test of Hager and Zhang, 2005). A problem for
    which no step helps stops early and counts as not converged unless its gradient is small.

    Raises:
        ValueError: ``loss`` does not return one finite value a problem at the start.
    """
    names, shapes = list(start), [v.shape for v in start.values()]
    B = shapes[0][0]
    if any(s[0] != B for s in shapes):
        raise ValueError(f"leading axes must agree, got {[tuple(s) for s in shapes]}")
    sizes = [math.prod(s[1:]) for s in shapes]

    def unpack(x: Tensor) -> dict[str, Tensor]:
        parts = x.split(sizes, dim=1)
        return {k: p.reshape(s) for k, p, s in zip(names, parts, shapes, strict=True)}

    def evaluate(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            f = loss(**unpack(x))
            if f.shape != (B,):
                raise ValueError(f"loss must have shape ({B},), got {tuple(f.shape)}")
            (g,) = torch.autograd.grad(f.sum(), x)
        return f.detach(), g

    with torch.no_grad():
        x = torch.cat([v.reshape(B, -1) for v in start.values()], dim=1)
        f, g = evaluate(x)
        if not f.isfinite().all():
            raise ValueError("the loss is not finite at the start")
        memory = _History(history, g)
        iteration, stuck = 0, torch.zeros_like(f, dtype=torch.bool)
        while iteration < max_iter:
            g_sq = _norm(g) ** 2
            active = (g_sq >= tol**2) & ~stuck
            if not active.any():
                break
            iteration += 1
            direction, slope = memory.direction(g, g_sq)
            step = torch.where(active, 1.0, 0.0).to(f)
            if not memory.count:
                step /= g_sq.sqrt().clamp(min=1.0)
            s, f, g_new, failed = _line_search(evaluate, x, f, g, direction, slope, step)
            stuck |= failed
            memory.push(s, g_new, g)
            x, g = x + s, g_new
        norm = _norm(g)
    return Solution(unpack(x), f, norm, iteration, norm < tol)


def _line_search(evaluate, x, f, g, direction, slope, step):
    """Halve the step of the problems that have not yet decreased; the others keep theirs.

    A step of zero marks a problem that is done; one that cannot decrease stays where it is and is
    returned as failed.
    """
    active = step > 0
    noise = 500 * torch.finfo(f.dtype).eps * f.abs().clamp(min=1)
    for _ in range(40):
        s = step[:, None] * direction
        f_new, g_new = evaluate(x + s)
        todo = active & ~(f_new <= f + 1e-4 * step * slope)
        if todo.any():
            slope_new = _dot(g_new, direction)
            todo &= ~((f_new <= f + noise) & (slope_new.abs() <= 0.9 * slope.abs()))
        if not todo.any():
            return s, f_new, g_new, todo
        step = torch.where(todo, step * 0.5, step)
    stay = todo[:, None]
    return s * ~stay, torch.where(todo, f, f_new), torch.where(stay, g, g_new), todo


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Products of the rows of two ``(B, P)`` tensors, without a temporary of that size."""
    return (a.unsqueeze(1) @ b.unsqueeze(2)).flatten()


def _norm(a: Tensor) -> Tensor:
    return torch.linalg.vector_norm(a, dim=1)


class _History:
    """Inverse-Hessian estimate of every problem, in the compact form of Byrd, Nocedal and Schnabel
    (1994). Only the products of the stored pairs with the current gradient are computed; those
    among the pairs follow by subtraction, so an iteration reads the pairs twice. A pair without
    curvature counts as absent.
    """

    def __init__(self, size: int, g: Tensor):
        B, P = g.shape
        self.size, self.count = size, 0
        self.pairs = g.new_zeros(B, 2 * size, P)  # s in the first half, y in the second, as a ring
        self.with_g = g.new_zeros(B, 2 * size)  # their products with the current gradient
        self.sy = g.new_zeros(B, size, size)  # sᵢ·yⱼ, valid where i is not newer than j
        self.yy = g.new_zeros(B, size, size)
        self.gamma = g.new_ones(B)

    def push(self, s: Tensor, g: Tensor, g_old: Tensor) -> None:
        m, slot = self.size, self.count % self.size
        y = torch.sub(g, g_old, out=self.pairs[:, m + slot])
        self.pairs[:, slot] = s
        sy, yy = _dot(s, y), _norm(y) ** 2
        good = sy > 1e-10 * _norm(s) * yy.sqrt()
        if not good.all():
            self.pairs[:, slot :: m] *= good[:, None, None]
        self.gamma = torch.where(good, sy / yy.clamp(min=torch.finfo(s.dtype).tiny), self.gamma)
        with_g = (g.unsqueeze(1) @ self.pairs.mT).squeeze(1)
        with_y = (with_g - self.with_g) * good[:, None]
        with_y[:, slot], with_y[:, m + slot] = sy * good, yy * good
        self.sy[:, :, slot] = with_y[:, :m]
        self.yy[:, :, slot] = self.yy[:, slot] = with_y[:, m:]
        self.with_g, self.count = with_g, self.count + 1

    def direction(self, g: Tensor, g_sq: Tensor) -> tuple[Tensor, Tensor]:
        """Minus the estimate times ``g``, the gradient last pushed, and its product with ``g``.

        Where rounding has made that an ascent direction, the negative gradient is taken.
        """
        if not self.count:
            return -g, -g_sq
        m, kept = self.size, min(self.count, self.size)
        order = [(self.count - kept + i) % m for i in range(kept)]  # oldest first
        order_y = [m + i for i in order]
        gamma = self.gamma[:, None, None]
        sg, yg = self.with_g[:, order, None], self.with_g[:, order_y, None]
        R = self.sy[:, order][:, :, order].triu()
        D = R.diagonal(dim1=-2, dim2=-1)
        R = R + torch.diag_embed((D == 0).to(R))
        u = torch.linalg.solve_triangular(R, sg, upper=True)
        rhs = D.unsqueeze(-1) * u + gamma * (self.yy[:, order][:, :, order] @ u - yg)
        v = torch.linalg.solve_triangular(R.mT, rhs, upper=False)
        weights = torch.zeros_like(self.with_g)
        weights[:, order], weights[:, order_y] = -v.squeeze(-1), (gamma * u).squeeze(-1)
        slope = (weights * self.with_g).sum(1) - self.gamma * g_sq
        uphill = ~(slope < 0)
        weights *= ~uphill[:, None]
        scale = torch.where(uphill, 1.0, self.gamma)
        direction = torch.baddbmm(
            -scale[:, None, None] * g.unsqueeze(1), weights.unsqueeze(1), self.pairs
        ).squeeze(1)
        return direction, torch.where(uphill, -g_sq, slope)


@dataclass(frozen=True)
class Path:
    """Result of :func:`descend`: the last variables, and what was recorded on the way.

    ``steps`` are the recorded step numbers (T of them), ``loss`` is ``(T, B)``; ``kept`` holds a
    copy of the variables for each step asked for.
    """

    x: dict[str, Tensor]
    steps: list[int]
    loss: Tensor
    kept: dict[int, dict[str, Tensor]]


def descend(
    loss: Callable[..., Tensor], start: dict[str, Tensor], *, rate: float | Tensor, steps: int,
    momentum: float = 0.0, record: Collection[int] = (), keep: Collection[int] = (),
) -> Path:
    """Plain gradient descent on ``B`` independent problems, with recorded steps.

    Args:
        loss, start: as in :func:`minimize`.
        rate: step length, for all or ``(B,)``.
        steps: number of steps.
        momentum: of the heavy ball, v ← momentum·v + gradient, x ← x − rate·v.
        record: steps at which the loss is recorded; the first (0) and the last are always.
        keep: steps whose variables are copied.

    Raises:
        ValueError: ``steps`` < 0, or ``loss`` does not return one value a problem.
        FloatingPointError: no problem has a finite loss at a recorded step.
    """
    if steps < 0:
        raise ValueError(f"steps must be ≥ 0, got {steps}")
    x = {name: v.detach().clone() for name, v in start.items()}
    B = len(next(iter(x.values())))
    rate = torch.as_tensor(rate)
    speed, losses, kept = {k: torch.zeros_like(v) for k, v in x.items()}, {}, {}
    for step in range(steps + 1):
        with torch.enable_grad():
            for v in x.values():
                v.requires_grad_()
            f = loss(**x)
            if f.shape != (B,):
                raise ValueError(f"loss must have shape ({B},), got {tuple(f.shape)}")
            gradients = torch.autograd.grad(f.sum(), list(x.values())) if step < steps else ()
        if step in (0, steps) or step in record:
            losses[step] = f.detach().nan_to_num(nan=math.inf)
            if losses[step].isinf().all():
                raise FloatingPointError(f"no loss is finite at step {step}")
        x = {name: v.detach() for name, v in x.items()}
        if step in keep:
            kept[step] = {name: v.clone() for name, v in x.items()}
        for (name, v), g in zip(x.items(), gradients, strict=step < steps):
            speed[name] = momentum * speed[name] + g
            x[name] = v - rate.to(v).reshape(-1, *[1] * (v.dim() - 1)) * speed[name]
    return Path(x, list(losses), torch.stack(list(losses.values())), kept)
