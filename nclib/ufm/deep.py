"""Deep ReLU models with squared loss: losses, descent with recorded steps, levels."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .common import Decay, normal, per_problem, together

__all__ = [
    "DeepPath",
    "deep_descend",
    "deep_init",
    "deep_layers",
    "deep_loss",
    "dnc_level",
    "dnc_threshold",
    "rigid_level",
]


def deep_init(
    batch: int, num_classes: int, per_class: int, width: int | Sequence[int], depth: int, *,
    scale: float | Tensor = 1.0, generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Gaussian start of a deep model in float64, entries of standard deviation scale/√d_l.

    Returns ``{"H": (B,N,d_1), "W1": (B,d_2,d_1), …, "WL": (B,K,d_L)}`` with L = ``depth``.

    Args:
        batch, num_classes, per_class, depth: B, K, n and L.
        width: d_1 = … = d_L, or a list of these L widths.
        scale: a float or a ``(B,)`` tensor.
        generator: one on the CPU gives the same numbers on every ``device``.

    Raises:
        ValueError: a size below 1, or not L widths.
    """
    widths = [width] * depth if isinstance(width, int) else list(width)
    if len(widths) != depth:
        raise ValueError(f"width has {len(widths)} entries for {depth} layers")
    if min(batch, num_classes, per_class, depth, *widths) < 1:
        raise ValueError(
            f"sizes must be ≥ 1, got batch {batch}, K={num_classes}, n={per_class}, "
            f"widths {widths}"
        )
    outs = [num_classes * per_class, *widths[1:], num_classes]
    ins = [widths[0], *widths]
    size = torch.as_tensor(scale, dtype=torch.float64, device=device).reshape(-1, 1, 1)
    start = {}
    for name, rows, columns in zip(("H", *(f"W{i + 1}" for i in range(depth))), outs, ins,
                                   strict=True):
        draw = normal(batch, rows, columns, generator=generator)
        start[name] = draw.to(device) * (size / math.sqrt(columns))
    return start


def deep_layers(H: Tensor, *, relu_features: bool = False, **weights: Tensor) -> list[Tensor]:
    """Pre-activations of every layer, ``[H_1, H_2, …, H_L, output]``, each ``(B, N, d_l)``.

    H_1 = H and H_{l+1} = σ(H_l) W_lᵀ with σ = ReLU, except that H_1 itself passes unchanged
    unless ``relu_features``. The weights are W1 … WL, each ``(B, d_{l+1}, d_l)``.

    Raises:
        ValueError: a weight is missing or a shape does not fit.
    """
    chain = _chain(H, weights)
    layers = [H]
    for i, W in enumerate(chain):
        x = layers[-1]
        if i or relu_features:
            x = x.relu()
        layers.append(x @ W.mT)
    return layers


def deep_loss(
    H: Tensor, *, lam_w: Decay | Sequence[Decay], lam_h: Decay, relu_features: bool = False,
    **weights: Tensor,
) -> Tensor:
    """Loss of the deep ReLU unconstrained-features model (Súkeník et al. 2024), bias-free, MSE.

    1/(2N) ‖W_L σ(… σ(W_1 H)) − Y‖² + Σ_l λ_{W_l}/2 ‖W_l‖² + λ_H/2 ‖H‖², Y = I_K ⊗ 1_nᵀ.

    Args:
        H: ``(B, N, d_1)`` features, ordered as :func:`labels`.
        weights: ``W1 … WL``, each ``(B, d_{l+1}, d_l)``; the last has K rows.
        lam_w: a float or ``(B,)`` tensor for every layer, or a list of L of them.
        lam_h: a float or ``(B,)`` tensor.
        relu_features: apply the ReLU to H as well.

    Returns:
        ``(B,)`` losses. Cost O(B·N·Σ d_l·d_{l+1}).

    Raises:
        ValueError: shapes do not fit, N is no multiple of K, or ``lam_w`` has another length.
    """
    output = deep_layers(H, relu_features=relu_features, **weights)[-1]
    N, K = output.shape[1:]
    chain = _chain(H, weights)
    fit = (output - _targets(N, K, output)).square().flatten(1).sum(1) / (2 * N)
    decays = [*_per_layer(lam_w, len(chain)), lam_h]
    decays = [per_problem("lam", lam, H) for lam in decays]
    squares = [x.square().flatten(1).sum(1) for x in (*chain, H)]
    return fit + sum(0.5 * lam * s for lam, s in zip(decays, squares, strict=True))


@dataclass(frozen=True)
class DeepPath:
    """Result of :func:`deep_descend`: the last variables, and what was recorded on the way.

    ``steps`` are the recorded step numbers (T of them), ``loss`` is ``(T, B)``; ``kept`` holds a
    copy of the variables for each step asked for.
    """

    x: dict[str, Tensor]
    steps: list[int]
    loss: Tensor
    kept: dict[int, dict[str, Tensor]]


def deep_descend(
    start: dict[str, Tensor], *, rate: float, steps: int, lam_w: Decay | Sequence[Decay],
    lam_h: Decay, momentum: float = 0.0,
    relu_features: bool = False, record: Collection[int] = (), keep: Collection[int] = (),
) -> DeepPath:
    """Plain gradient descent on ``B`` deep models at once, with hand-written gradients.

    Args:
        start: as from :func:`deep_init`; not modified.
        rate: step length, the same for all.
        steps: number of steps.
        lam_w, lam_h, relu_features: as in :func:`deep_loss`.
        momentum: of the heavy ball, v ← momentum·v + gradient, x ← x − rate·v; 0 is plain descent.
        record: steps at which the loss is recorded; the first (0) and the last are always.
        keep: steps whose variables are copied.

    A step costs 6·Σ d_l·d_{l+1}·N operations a problem and makes no new tensor. A single small
    problem is dominated by the calls themselves; see ``benchmarks/deep_ufm.py``.

    Raises:
        ValueError: as :func:`deep_loss`, or ``steps`` < 0.
        FloatingPointError: the recorded losses of all problems are infinite (the rate is too
            large). A problem that diverges alone is recorded as infinite, and the others go on.
    """
    if steps < 0:
        raise ValueError(f"steps must be ≥ 0, got {steps}")
    problem = {"lam_w": lam_w, "lam_h": lam_h, "relu_features": relu_features}
    x = {name: v.detach().clone(memory_format=torch.contiguous_format) for name, v in start.items()}
    losses, kept = {}, {}
    stops = sorted({0, steps, *record, *keep})
    with torch.inference_mode():
        walk = _Walk(x, rate, momentum, **problem)
        done = 0
        for stop in (s for s in stops if 0 <= s <= steps):
            walk.advance(stop - done)
            done = stop
            if stop in (0, steps) or stop in record:
                losses[stop] = deep_loss(**x, **problem).nan_to_num(nan=math.inf)
                if losses[stop].isinf().all():
                    raise FloatingPointError(f"no loss is finite at step {stop}")
            if stop in keep:
                kept[stop] = {name: v.clone() for name, v in x.items()}
    plain = [{k: v.clone() for k, v in part.items()} for part in (x, *kept.values())]
    return DeepPath(
        plain[0], list(losses), torch.stack(list(losses.values())).clone(),
        dict(zip(kept, plain[1:], strict=True)),
    )


class _Walk:
    """Gradient steps in place on the variables ``x``, with buffers made once."""

    def __init__(self, x, rate, momentum, *, lam_w, lam_h, relu_features):
        H = x["H"]
        self.H, self.W = H, _chain(H, {k: v for k, v in x.items() if k != "H"})
        self.rate, self.momentum, self.relu_features = rate, momentum, relu_features
        B, N = H.shape[:2]
        self.Y = _targets(N, self.W[-1].shape[1], H)
        self.decay_w = [_column(lam, H) for lam in _per_layer(lam_w, len(self.W))]
        self.decay_h = _column(lam_h, H)
        self.X = [torch.empty_like(H) if relu_features else H]
        self.X += [H.new_empty(B, N, W.shape[1]) for W in self.W]
        self.E = [torch.empty_like(v) for v in self.X]
        if momentum:
            self.V = [torch.zeros_like(v) for v in (H, *self.W)]

    def advance(self, steps: int) -> None:
        X, E, last = self.X, self.E, len(self.W) - 1
        slope = 1 / X[0].shape[1]
        forward = [(X[i], W.mT, X[i + 1]) for i, W in enumerate(self.W)]
        backward = [
            (i, W, E[i + 1], E[i + 1].mT, E[i], X[i], i > 0 or self.relu_features)
            for i, W in reversed(list(enumerate(self.W)))
        ]
        mask = torch.ops.aten.threshold_backward.grad_input
        for _ in range(steps):
            if self.relu_features:
                torch.clamp(self.H, min=0, out=X[0])
            for i, (x, w, y) in enumerate(forward):
                torch.bmm(x, w, out=y)
                if i < last:
                    y.clamp_(min=0)
            torch.sub(X[-1], self.Y, out=E[-1])
            for i, W, e, e_t, e_in, x, active in backward:
                torch.bmm(e, W, out=e_in)
                self._step(W, self.decay_w[i], i + 1, e_t, x, slope)
                if active:
                    mask(e_in, x, 0, grad_input=e_in)
            self._step(self.H, self.decay_h, 0, E[0], None, slope)

    def _step(self, w, decay, index, e, x, slope):
        """One update of ``w``, whose gradient is slope·e@x + decay·w (slope·e without an x)."""
        if self.momentum:
            v = self.V[index]
            if x is None:
                v.mul_(self.momentum).add_(e, alpha=slope)
            else:
                v.baddbmm_(e, x, beta=self.momentum, alpha=slope)
            if torch.is_tensor(decay):
                v.addcmul_(w, decay)
            else:
                v.add_(w, alpha=decay)
            w.sub_(v, alpha=self.rate)
            return
        shrink = 1 - self.rate * decay
        if x is None:
            w.mul_(shrink).add_(e, alpha=-self.rate * slope)
        elif torch.is_tensor(decay):
            w.mul_(shrink).baddbmm_(e, x, alpha=-self.rate * slope)
        else:
            w.baddbmm_(e, x, beta=shrink, alpha=-self.rate * slope)


def rigid_level(product, decay, depth: int) -> tuple[Tensor, Tensor]:
    """Best loss of a configuration of fixed shape whose output is c·Y, and its c.

    f(c) = (1−c)²/2 + (L+1)/2 · (Λ P²)^{1/(L+1)} · c^{2/(L+1)}, minimized over c ≥ 0.

    Args:
        product: P, the product of the L+1 Frobenius norms at unit output (of one feature a
            class), a float or tensor.
        decay: Λ = n λ_H Π_l λ_{W_l}, float or tensor.
        depth: L, the number of weight matrices.

    Returns:
        The loss and the c that attains it, float64 tensors; (1/2, 0) where zero is better.

    Raises:
        ValueError: L < 1, or a product or decay that is not positive.
    """
    product, decay = together(product, decay)
    if depth < 1 or not (product > 0).all() or not (decay > 0).all():
        raise ValueError(f"need L ≥ 1, P > 0 and Λ > 0; got L={depth}")
    L = depth
    a = (decay * product.square()) ** (1 / (L + 1))
    # f'(c) = 0 is (1−c) c^{(L−1)/(L+1)} = a; the left side falls from its maximum at (L−1)/2L to 0.
    low = torch.full_like(a, (L - 1) / (2 * L))
    high = torch.ones_like(a)
    for _ in range(60):
        middle = (low + high) / 2
        left = (1 - middle) * middle ** ((L - 1) / (L + 1)) > a
        low, high = torch.where(left, middle, low), torch.where(left, high, middle)
    c = (low + high) / 2
    loss = (1 - c).square() / 2 + (L + 1) / 2 * a * c ** (2 / (L + 1))
    zero = loss >= 0.5
    return torch.where(zero, 0.5, loss), torch.where(zero, 0.0, c)


def dnc_level(num_classes: int, depth: int, decay) -> Tensor:
    """Loss of deep neural collapse, an orthogonal frame in every layer: P = K^{(L+1)/2}.

    The value is 1/2, that of the zero solution, from ``K Λ^{1/(L+1)} =`` :func:`dnc_threshold` on.

    Args:
        num_classes, depth: K and L.
        decay: Λ = n λ_H Π_l λ_{W_l}, a float or tensor.
    """
    return rigid_level(num_classes ** ((depth + 1) / 2), decay, depth)[0]


def dnc_threshold(depth: int) -> float:
    """Critical K Λ^{1/(L+1)} = (1/L) ((L−1)/L)^{(L−1)/(L+1)}, from which on zero is better.

    Args:
        depth: L, at least 1.

    Raises:
        ValueError: L < 1.
    """
    L = depth
    if L < 1:
        raise ValueError(f"need L ≥ 1, got {L}")
    return ((L - 1) / L) ** ((L - 1) / (L + 1)) / L


def _chain(H: Tensor, weights: dict[str, Tensor]) -> list[Tensor]:
    """W1 … WL in order, checked against each other and against H."""
    L = len(weights)
    if L == 0 or set(weights) != {f"W{i}" for i in range(1, L + 1)}:
        raise ValueError(f"expected weights W1 … WL, got {sorted(weights)}")
    chain = [weights[f"W{i}"] for i in range(1, L + 1)]
    inputs = [H.shape[-1], *(W.shape[-2] for W in chain)]
    if H.dim() != 3 or any(
        W.dim() != 3 or len(W) != len(H) or W.shape[-1] != d
        for W, d in zip(chain, inputs, strict=False)
    ):
        raise ValueError(
            f"expected H (B,N,d_1) and W_l (B,d_(l+1),d_l); got {tuple(H.shape)}, "
            f"{', '.join(str(tuple(W.shape)) for W in chain)}"
        )
    if H.shape[1] % inputs[-1]:
        raise ValueError(f"N={H.shape[1]} samples cannot be balanced over K={inputs[-1]} classes")
    return chain


def _targets(N: int, K: int, like: Tensor) -> Tensor:
    """``(N, K)`` one-hot rows in class order."""
    return torch.eye(K, dtype=like.dtype, device=like.device).repeat_interleave(N // K, 0)


def _column(lam, like: Tensor):
    """A float, or one value a problem as ``(B, 1, 1)``."""
    if not torch.is_tensor(lam) or lam.dim() == 0:
        return float(lam)
    return per_problem("lam", lam, like).reshape(-1, 1, 1)


def _per_layer(lam, L: int) -> list:
    """One weight decay a layer."""
    if not isinstance(lam, list | tuple):
        return [lam] * L
    if len(lam) != L:
        raise ValueError(f"lam_w has {len(lam)} entries for {L} layers")
    return list(lam)
