"""Unconstrained-features models: losses, closed-form optima, one batched solver.

In an unconstrained-features model (UFM) the features are free variables, optimized together with
the last layer. Every function takes a leading batch axis ``B``, which runs seeds and
hyper-parameters side by side. Samples are ordered by class: :func:`labels` gives their classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def labels(num_classes: int, per_class: int, device: torch.device | str = "cpu") -> Tensor:
    """Classes of the samples of a balanced UFM: ``(N,)`` with N = K·n, sorted."""
    return torch.arange(num_classes, device=device).repeat_interleave(per_class)


def ce_loss(W: Tensor, H: Tensor, b: Tensor, lam_w, lam_h, lam_b=0.0) -> Tensor:
    """Regularized cross-entropy UFM on balanced classes (Zhu et al. 2021).

    (1/N) Σ CE(W h + b, y) + λ_W/2 ‖W‖² + λ_H/2 ‖H‖² + λ_b/2 ‖b‖².

    Args:
        W: ``(B, K, d)`` classifier rows.
        H: ``(B, N, d)`` features, one row a sample, ordered as :func:`labels`.
        b: ``(B, K)`` bias.
        lam_w, lam_h, lam_b: floats, or ``(B,)`` tensors.

    Returns:
        ``(B,)`` losses. Cost O(B·N·K·d).

    Raises:
        ValueError: shapes do not fit, or N is no multiple of K.
    """
    K, N = W.shape[-2], H.shape[-2]
    if W.dim() != 3 or H.dim() != 3 or W.shape[-1] != H.shape[-1] or b.shape != W.shape[:2]:
        raise ValueError(
            f"expected W (B,K,d), H (B,N,d), b (B,K); got {tuple(W.shape)}, {tuple(H.shape)}, "
            f"{tuple(b.shape)}"
        )
    if N % K:
        raise ValueError(f"N={N} samples cannot be balanced over K={K} classes")
    logits = H @ W.mT + b.unsqueeze(-2)
    own = logits.unflatten(-2, (K, N // K)).diagonal(dim1=-3, dim2=-1)  # (B, n, K)
    fit = logits.logsumexp(-1).mean(-1) - own.mean((-2, -1))
    squares = [x.square().flatten(1).sum(-1) for x in (W, H, b)]
    return fit + sum(0.5 * lam * s for lam, s in zip((lam_w, lam_h, lam_b), squares, strict=True))


@dataclass(frozen=True)
class CEOptimum:
    """Global optimum of :func:`ce_loss`; every field is a float64 tensor of the λ's shape.

    ``s`` is √(n λ_W λ_H); ``gap`` the logit of the own class minus that of any other;
    ``p_wrong`` the probability of each wrong class; norms are of one row of W and one feature.
    Below s = 1/K the optimum is the collapsed simplex ETF, from there on it is the origin.
    """

    s: Tensor
    loss: Tensor
    gap: Tensor
    p_wrong: Tensor
    weight_norm: Tensor
    feature_norm: Tensor


def ce_optimum(num_classes: int, per_class: int, lam_w, lam_h) -> CEOptimum:
    """Closed form of the global optimum for d ≥ K−1, λ_b ≥ 0 (Zhu et al. 2021, global optimality).

    f* = −log(1 − (K−1)s) + (K−1) s log(1/s − K + 1) where s = √(n λ_W λ_H) < 1/K, else log K.

    Raises:
        ValueError: K < 2, n < 1, or a λ that is not positive.
    """
    K, n = num_classes, per_class
    lam_w = torch.as_tensor(lam_w, dtype=torch.float64)
    lam_h = torch.as_tensor(lam_h, dtype=torch.float64)
    if K < 2 or n < 1:
        raise ValueError(f"need K ≥ 2 and n ≥ 1, got K={K}, n={n}")
    if not (lam_w > 0).all() or not (lam_h > 0).all():
        raise ValueError("λ_W and λ_H must be positive")
    s = (n * lam_w * lam_h).sqrt()
    capped = s.clamp(max=1 / K)  # at s = 1/K the formulas give gap 0 and loss log K
    gap = torch.log1p(1 / capped - K).clamp(min=0)
    w_sq = (n * lam_h / lam_w).sqrt() * gap * (K - 1) / K
    return CEOptimum(
        s=s,
        loss=-torch.log1p(-(K - 1) * capped) + (K - 1) * capped * gap,
        gap=gap,
        p_wrong=capped,
        weight_norm=w_sq.sqrt(),
        feature_norm=(lam_w / (n * lam_h) * w_sq).sqrt(),
    )


def init(
    batch: int, num_classes: int, per_class: int, dim: int, *, scale: float | Tensor = 0.1,
    generator: torch.Generator | None = None, device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Gaussian start ``{"W": (B,K,d), "H": (B,N,d), "b": (B,K)}`` in float64; the bias is zero.

    ``scale`` is the standard deviation of every entry: a float or a ``(B,)`` tensor.
    """
    shapes = {"W": (batch, num_classes, dim), "H": (batch, num_classes * per_class, dim)}
    draws = {
        k: torch.randn(v, dtype=torch.float64, generator=generator).to(device)
        for k, v in shapes.items()
    }
    size = torch.as_tensor(scale, dtype=torch.float64, device=device).reshape(-1, 1, 1)
    out = {k: v * size for k, v in draws.items()}
    return out | {"b": torch.zeros(batch, num_classes, dtype=torch.float64, device=device)}


# --- deep ReLU models ---------------------------------------------------------------------------


def deep_init(
    batch: int, num_classes: int, per_class: int, width: int | Sequence[int], depth: int, *,
    scale: float | Tensor = 1.0, generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Gaussian start of a deep model in float64, entries of standard deviation scale/√d_l.

    Returns ``{"H": (B,N,d_1), "W1": (B,d_2,d_1), …, "WL": (B,K,d_L)}`` with L = ``depth``.

    Args:
        width: d_1 = … = d_L, or a list of these L widths.
        scale: a float or a ``(B,)`` tensor.
        generator: CPU generator; the same numbers on every ``device``.

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
        draw = torch.randn(batch, rows, columns, dtype=torch.float64, generator=generator)
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
    H: Tensor, *, lam_w, lam_h, relu_features: bool = False, **weights: Tensor
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
    start: dict[str, Tensor], *, rate: float, steps: int, lam_w, lam_h, momentum: float = 0.0,
    relu_features: bool = False, record: Collection[int] = (), keep: Collection[int] = (),
) -> DeepPath:
    """Plain gradient descent on ``B`` deep models at once, with hand-written gradients.

    Args:
        start: as from :func:`deep_init`; not modified.
        rate: step length, the same for all.
        steps: number of steps.
        lam_w, lam_h: as in :func:`deep_loss`.
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
    product = torch.as_tensor(product, dtype=torch.float64)
    decay = torch.as_tensor(decay, dtype=torch.float64)
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

    ``decay`` is Λ = n λ_H Π_l λ_{W_l}. The value is 1/2, that of the zero solution, from
    ``K Λ^{1/(L+1)} =`` :func:`dnc_threshold` on.
    """
    return rigid_level(num_classes ** ((depth + 1) / 2), decay, depth)[0]


def dnc_threshold(depth: int) -> float:
    """Critical K Λ^{1/(L+1)} = (1/L) ((L−1)/L)^{(L−1)/(L+1)}, from which on zero is better."""
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
    return lam.to(like).reshape(-1, 1, 1)


def _per_layer(lam, L: int) -> list:
    """One weight decay a layer."""
    if not isinstance(lam, list | tuple):
        return [lam] * L
    if len(lam) != L:
        raise ValueError(f"lam_w has {len(lam)} entries for {L} layers")
    return list(lam)


# --- regression ---------------------------------------------------------------------------------


def regression_loss(W: Tensor, H: Tensor, b: Tensor, targets: Tensor, lam_w, lam_h) -> Tensor:
    """Regression UFM with weight decay on features and head (Andriopoulos et al. 2024, eq. 1).

    1/(2M) Σ_i ‖W h_i + b − y_i‖² + λ_H/(2M) Σ_i ‖h_i‖² + λ_W/2 ‖W‖²; the square is a **sum** over
    the n components. A mean over components gives the same problem with λ replaced by nλ.

    Args:
        W: ``(B, n, d)``.
        H: ``(B, M, d)`` features, one row a sample.
        b: ``(B, n)`` bias.
        targets: ``(M, n)``, or ``(B, M, n)``.
        lam_w, lam_h: floats, or ``(B,)`` tensors.

    Returns:
        ``(B,)`` losses. Cost O(B·M·n·d).

    Raises:
        ValueError: shapes do not fit.
    """
    if (
        W.dim() != 3 or H.dim() != 3 or W.shape[-1] != H.shape[-1] or b.shape != W.shape[:2]
        or targets.shape[-2:] != (H.shape[1], W.shape[1])
    ):
        raise ValueError(
            f"expected W (B,n,d), H (B,M,d), b (B,n), targets (M,n); got {tuple(W.shape)}, "
            f"{tuple(H.shape)}, {tuple(b.shape)}, {tuple(targets.shape)}"
        )
    error, size, norm = (
        x.square().flatten(1).sum(1) for x in (H @ W.mT + b.unsqueeze(1) - targets, H, W)
    )
    return (error + lam_h * size) / (2 * H.shape[1]) + 0.5 * lam_w * norm


@dataclass(frozen=True)
class RegressionOptimum:
    """Global optimum of :func:`regression_loss`, float64, with the batch shape of Σ and the λ's.

    Attributes:
        c: λ_W λ_H, the level below which a direction of the targets is given up.
        loss: the optimal value.
        rank: number of eigenvalues of Σ above c: rank of W and of the features.
        gram: ``(..., n, n)``, W Wᵀ = √(λ_H/λ_W) [Σ^{1/2} − √c I]₊.
        residual: ``(..., n, n)``, covariance of the residuals: eigenvalues min(c, λ_i), those of
            Σ's own eigenvectors; c I while c < λ_min.
        evr: ``(..., n)``, shares of the variance of the features, largest first; NaN at rank 0.
        root: ``(..., n, n)``, [Σ^{1/2} − √c I]₊^{1/2}, the factor of W.
    """

    c: Tensor
    loss: Tensor
    rank: Tensor
    gram: Tensor
    residual: Tensor
    evr: Tensor
    root: Tensor


def regression_optimum(covariance: Tensor, lam_w, lam_h) -> RegressionOptimum:
    """Closed form of the global optimum, for any c = λ_W λ_H > 0 and correlated targets.

    With Σ = U diag(λ) Uᵀ: W = (λ_H/λ_W)^{1/4} U diag((√λ_i − √c)₊^{1/2}) R with R Rᵀ = I. For
    c < λ_min or a diagonal Σ this is Theorem 4.1 of Andriopoulos et al. (2024). Between, for a
    correlated Σ, the theorem as printed (keep the first columns of the symmetric root) depends on
    the basis; this is the form that attains the minimum.

    Args:
        covariance: ``(..., n, n)``, Σ with 1/M.
        lam_w, lam_h: positive floats or tensors that broadcast with the batch.

    Raises:
        ValueError: not symmetric positive semi-definite, or a λ that is not positive.
    """
    covariance = torch.as_tensor(covariance, dtype=torch.float64)
    if covariance.dim() < 2 or covariance.shape[-1] != covariance.shape[-2]:
        raise ValueError(f"covariance must be (..., n, n), got {tuple(covariance.shape)}")
    if not torch.allclose(covariance, covariance.mT, rtol=1e-9, atol=1e-12):
        raise ValueError("covariance is not symmetric")
    lam_w, lam_h = (
        torch.as_tensor(v, dtype=torch.float64, device=covariance.device) for v in (lam_w, lam_h)
    )
    if not (lam_w > 0).all() or not (lam_h > 0).all():
        raise ValueError("λ_W and λ_H must be positive")
    values, U = torch.linalg.eigh(covariance)
    if not (values >= -1e-9 * values.abs().amax(-1, keepdim=True)).all():
        raise ValueError("covariance has a negative eigenvalue")
    values, c = values.clamp(min=0), (lam_w * lam_h).unsqueeze(-1)
    shrunk = (values.sqrt() - c.sqrt()).clamp(min=0)
    loss = torch.where(values > c, (c * values).sqrt() - c / 2, values / 2).sum(-1)
    ratio = (lam_h / lam_w).sqrt()[..., None, None]

    def build(eigenvalues: Tensor) -> Tensor:
        return (U * eigenvalues.unsqueeze(-2)) @ U.mT

    return RegressionOptimum(
        c=c.squeeze(-1),
        loss=loss,
        rank=(values > c).sum(-1),
        gram=ratio * build(shrunk),
        residual=build(torch.minimum(values, c)),
        evr=(shrunk / shrunk.sum(-1, keepdim=True)).flip(-1),
        root=build(shrunk.sqrt()),
    )


def regression_solution(
    targets: Tensor, lam_w: float, lam_h: float, dim: int, *,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """One global minimizer ``{"W": (1,n,d), "H": (1,M,d), "b": (1,n)}`` in float64.

    H = √(λ_W/λ_H) Wᵀ Σ^{-1/2} (Y − ȳ), one row a sample; b = ȳ. The n orthonormal rows R of
    :func:`regression_optimum` are the first coordinates, or random if a generator is given.

    Args:
        targets: ``(M, n)`` with a covariance of full rank.
        dim: d ≥ n.

    Raises:
        ValueError: d < n, or a covariance without full rank.
    """
    targets = torch.as_tensor(targets, dtype=torch.float64)
    M, n = targets.shape
    if dim < n:
        raise ValueError(f"need d ≥ n, got d={dim}, n={n}")
    mean = targets.mean(0)
    values, U = torch.linalg.eigh((targets - mean).T @ (targets - mean) / M)
    if not values[0] > 1e-12 * values[-1]:
        raise ValueError(f"the targets' covariance is singular: eigenvalues {values.tolist()}")
    c = lam_w * lam_h
    rows = torch.eye(n, dim, dtype=torch.float64)
    if generator is not None:
        rows = torch.linalg.qr(torch.randn(dim, n, dtype=torch.float64, generator=generator)).Q.T
    rows = rows.to(targets.device)
    W = (lam_h / lam_w) ** 0.25 * (U * (values.sqrt() - c**0.5).clamp(min=0).sqrt()) @ rows
    white = (targets - mean) @ (U / values.sqrt()) @ U.T
    return {"W": W[None], "H": (lam_w / lam_h) ** 0.5 * (white @ W)[None], "b": mean[None]}


# --- the solver ---------------------------------------------------------------------------------


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
