"""Many small networks trained at once: parameters, gradients and features with a leading axis.

Operations on one small network are too short to keep a processor busy; B networks as one batched
network cost little more. Seeds, hyper-parameters, label sets and data sets share the axis.

>>> import torch
>>> from nclib import ensembles, losses, models
>>> x, y = torch.randn(60, 6), torch.arange(60) % 3
>>> seeds, decays = [0, 1, 0, 1], torch.tensor([0.0, 0.0, 0.01, 0.01])   # settings × seeds
>>> nets = ensembles.seeded(lambda: models.MLP(6, [16, 8], 3), seeds)
>>> nets.head.weight.shape                                               # (B, K, d)
torch.Size([4, 3, 8])
>>> records = ensembles.train(
...     nets, x, y,
...     batches=ensembles.shuffled(60, 20, epochs=5, generators=seeds),  # own order for each seed
...     optimizer=ensembles.SGD(nets, rate=0.1, momentum=0.9, decay=decays),
...     at=[0, 15], measure=lambda step, nets: {"h": ensembles.outputs(nets, x)[1]},
... )
>>> [(r["step"], tuple(r["h"].shape)) for r in records]                  # (B, N, d)
[(0, (4, 60, 8)), (15, (4, 60, 8))]
>>> single = nets.member(2)                                              # an ordinary models.MLP
>>> bool(torch.allclose(single.eval()(x), ensembles.outputs(nets, x)[0][2], atol=1e-5))
True

Every member ends where it would end if it were trained alone, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from .losses import Batch, cross_entropy, weighted_mean
from .models import evaluating, learning
from .stacked import Ensemble


def seeded(make: Callable[[], nn.Module], seeds: Iterable[int]) -> Ensemble:
    """``make()`` once for every seed of torch's global generator, as one ensemble.

    Equal seeds give equal networks. The state of the global generator is left as it was.
    """
    nets = []
    with torch.random.fork_rng(devices=[]):
        for seed in seeds:
            torch.manual_seed(seed)
            nets.append(make())
    return Ensemble(nets)


def outputs(nets: Ensemble, x: Tensor, batch_size: int = 1024) -> tuple[Tensor, Tensor]:
    """Logits ``(B, N, K)`` and features ``(B, N, d)`` of shared inputs in evaluation mode."""
    device = next(nets.parameters()).device
    with evaluating(nets):
        pairs = [nets(b[None].to(device), return_features=True) for b in x.split(batch_size)]
    logits, features = zip(*pairs, strict=True)
    return torch.cat(logits, 1), torch.cat(features, 1)


def shuffled(
    samples: int | Sequence[Tensor], batch_size: int, *, epochs: int,
    generators: torch.Generator | Sequence[torch.Generator | int],
) -> Iterator[Tensor]:
    """Batches of ``epochs`` passes, each in a fresh order, cut as in :func:`nclib.training.train`.

    Args:
        samples: number of samples, or for each member the indices that it trains on (equally many).
        generators: one CPU generator: all members see the same batches, ``(n,)``; or one generator
            or seed for each member: ``(B, n)``.
    """
    own = not isinstance(samples, int)
    size = len(samples[0]) if own else samples
    if own and any(len(s) != size for s in samples):
        raise ValueError(f"members train on {sorted({len(s) for s in samples})} samples")
    draws = _generators(generators)
    for _ in range(epochs):
        orders = [torch.randperm(size, generator=g) for g in draws]
        if own:
            orders = orders * len(samples) if len(orders) == 1 else orders
            orders = [s.cpu()[o] for s, o in zip(samples, orders, strict=True)]
        single = isinstance(generators, torch.Generator) and not own
        order = orders[0] if single else torch.stack(orders)
        yield from order.tensor_split(-(-size // batch_size), -1)


def mixed(
    pools: Sequence[Sequence[Tensor]], batch_size: int, *, steps: int,
    generators: torch.Generator | Sequence[torch.Generator | int],
) -> Iterator[Tensor]:
    """Batches ``(B, batch_size)`` that take an equal share from each pool of a member.

    For replay: the pools of a member are the indices of the present task and of the buffer of each
    earlier one. Draws are with replacement; empty pools take no part; if the shares are not whole,
    the first pools get one more.
    """
    start, size, flat, end = [], [], [], 0
    for member in pools:
        member = [p for p in member if len(p)]
        shares = torch.arange(batch_size).tensor_split(len(member))
        sizes = torch.tensor([len(p) for p in member])
        counts = torch.tensor([len(s) for s in shares])
        start.append((end + sizes.cumsum(0) - sizes).repeat_interleave(counts))
        size.append(sizes.repeat_interleave(counts))
        flat += member
        end += int(sizes.sum())
    start, size, flat = torch.stack(start), torch.stack(size), torch.cat([f.cpu() for f in flat])
    draws = _generators(generators)
    for _ in range(steps):
        u = [torch.rand(batch_size, generator=g, dtype=torch.float64) for g in draws]
        yield flat[start + (torch.stack(u) * size).long()]


class SGD:
    """Stochastic gradient descent with momentum and weight decay, one value for each member.

    Args:
        rate, momentum, decay: a number, or ``(B,)`` values. ``decay`` may be a function from a
            parameter's name to such a value, for example zero for ``"head.bias"``.

    The rule is that of ``torch.optim.SGD``. Parameters that need no gradient stay as they are.
    """

    def __init__(self, nets: Ensemble, rate, momentum=0.0, decay=0.0):
        self.parameters = {n: p for n, p in nets.named_parameters() if p.requires_grad}
        self.rate, self.momentum = self._spread(rate), self._spread(momentum)
        self.decay = {n: self._spread(decay(n) if callable(decay) else decay)[n]
                      for n in self.parameters}
        self.state: dict[str, dict[str, Tensor]] = {n: {} for n in self.parameters}
        self.steps = 0

    def _spread(self, value) -> dict[str, float | Tensor]:
        if not isinstance(value, Tensor) and not isinstance(value, Sequence):
            return dict.fromkeys(self.parameters, float(value))
        value = torch.as_tensor(value)
        if len(set(value.tolist())) == 1:
            return dict.fromkeys(self.parameters, value[0].item())
        return {n: value.to(p).view(-1, *[1] * (p.dim() - 1)) for n, p in self.parameters.items()}

    @torch.no_grad()
    def step(self, scale: float | Tensor = 1.0) -> None:
        """One step with ``scale`` (a number, or one for each member) times the rate."""
        self.steps += 1
        for name, p in self.parameters.items():
            if p.grad is None:
                continue
            gradient, decay, rate = p.grad, self.decay[name], self.rate[name]
            if isinstance(decay, Tensor) or decay:
                gradient = gradient + decay * p
            if isinstance(scale, Tensor):
                rate = rate * scale.to(p).view(-1, *[1] * (p.dim() - 1))
            else:
                rate = rate * scale
            self._move(p, gradient, rate, self.momentum[name], self.state[name])

    def _move(self, p, gradient, rate, momentum, state) -> None:
        if isinstance(momentum, Tensor) or momentum:
            speed = state.get("speed")
            state["speed"] = gradient.clone() if speed is None else speed.mul_(momentum)
            gradient = state["speed"] if speed is None else speed.add_(gradient)
        if isinstance(rate, Tensor):
            p.sub_(gradient * rate)
        else:
            p.sub_(gradient, alpha=rate)


class Adam(SGD):
    """Adam with the same arguments (``momentum`` is β₁), by the rule of ``torch.optim.Adam``."""

    def __init__(self, nets: Ensemble, rate, momentum=0.9, decay=0.0, *, beta=0.999, eps=1e-8):
        super().__init__(nets, rate, momentum, decay)
        self.beta, self.eps = beta, eps

    def _move(self, p, gradient, rate, momentum, state) -> None:
        if not state:
            state.update(mean=torch.zeros_like(p), square=torch.zeros_like(p))
        mean, square = state["mean"], state["square"]
        mean.mul_(momentum).add_(gradient * (1 - momentum))
        square.mul_(self.beta).addcmul_(gradient, gradient, value=1 - self.beta)
        long = (square / (1 - self.beta**self.steps)).sqrt_().add_(self.eps)
        p.sub_(mean / long * (rate / (1 - momentum**self.steps)))


def train(
    nets: Ensemble,
    x: Tensor,
    y: Tensor,
    *,
    batches: Iterable[Tensor],
    optimizer: SGD,
    objective: Callable[[Batch], Tensor] = cross_entropy,
    weight: Tensor | None = None,
    schedule: Callable[[int], float | Tensor] | None = None,
    after_backward: Callable[[Batch], None] | None = None,
    after_step: Callable[[Batch], None] | None = None,
    at: Collection[int] = (),
    measure: Callable[[int, Ensemble], dict] | None = None,
    input_gradients: bool = False,
) -> list[dict]:
    """Train all members in place, one step for each batch; return a record for each step in ``at``.

    Args:
        x: ``(N, ...)`` inputs of all members, moved to their device once; batches are gathered
            there. Members with data of their own have them in here too, and other indices in
            ``batches``.
        y: labels ``(N,)`` or targets ``(N, m)`` (floating point); ``(B, N)`` or ``(B, N, m)`` where
            members have their own.
        batches: index tensors, ``(n,)`` for all members or ``(B, n)``: :func:`shuffled`,
            :func:`mixed`, or any other iterable.
        optimizer: :class:`SGD` or :class:`Adam`; it keeps its state, so that a later call goes on.
        objective: from a :class:`~nclib.losses.Batch` to losses of every sample ``(B, n)``, whose
            mean counts, or of every member ``(B,)``.
        weight: ``(N,)`` or ``(B, N)`` weights or masks of the samples; the mean is then
            ``Σ w loss / Σ w`` over the batch.
        schedule: factor of the rate from the number of steps done in this call.
        after_backward: called between backward and step, for example to change gradients.
        after_step: called after the step; both see the batch, and in ``batch.model`` stacked
            parameters.
        at: steps of this call after which to record; 0 is before the first.
        measure: its dict, from the step and the ensemble in evaluation mode without gradients, is
            merged into the record.
        input_gradients: let ``batch.inputs`` require gradients.

    Returns:
        Records ``{"step", "loss", **measure}``; loss is ``(B,)``, the mean over the steps since the
        last record. A member that diverges shows it there; the others are not touched.
    """
    def record(step: int) -> None:
        with evaluating(nets):
            extra = measure(step, nets) if measure else {}
        records.append({"step": step, "loss": total / max(count, 1), **extra})

    records, at, count, like = [], set(at), 0, next(nets.parameters())
    total = like.new_zeros(nets.members)
    x, y = x.to(like.device), y.to(like.device)
    weight = None if weight is None else weight.to(like.device)
    own_labels = y.dim() == (3 if y.is_floating_point() else 2)
    with learning(nets):
        if 0 in at:
            total += float("nan")
            record(0)
            total.zero_()
        for step, index in enumerate(batches):
            index = index.to(like.device)
            inputs = x[index] if index.dim() == 2 else x[index][None]
            if input_gradients:
                inputs.requires_grad_()
            logits, features = nets(inputs, return_features=True)
            labels = _gather(y, index, own_labels, nets.members)
            batch = Batch(step, nets, index, inputs, labels, logits, features)
            value = objective(batch)
            if value.dim() == 2:
                own = weight is not None and weight.dim() == 2
                w = None if weight is None else _gather(weight, index, own, nets.members)
                value = weighted_mean(value, w)
            elif weight is not None:
                raise ValueError("weights need an objective that returns a loss for every sample")
            batch.loss = value.detach()
            for p in optimizer.parameters.values():
                p.grad = None
            value.sum().backward()
            if after_backward:
                after_backward(batch)
            optimizer.step(schedule(step) if schedule else 1.0)
            if after_step:
                with torch.no_grad():
                    after_step(batch)
            total += batch.loss
            count += 1
            if step + 1 in at:
                record(step + 1)
                total.zero_()
                count = 0
    return records


def _gather(values: Tensor, index: Tensor, own: bool, members: int) -> Tensor:
    """Entries of each member, ``(B, n, ...)``."""
    if not own:
        picked = values[index]
        return picked if index.dim() == 2 else picked.expand(members, *picked.shape)
    if index.dim() == 1:
        return values[:, index]
    return values[torch.arange(members, device=index.device)[:, None], index]


def _generators(generators) -> list[torch.Generator]:
    if isinstance(generators, torch.Generator):
        return [generators]
    return [g if isinstance(g, torch.Generator) else torch.Generator().manual_seed(g)
            for g in generators]
