"""Inputs of named layers of any model, and the collapse of each; the model stays as it was.

    with hooks.watch(model, "layer3", "fc") as watched:
        reports = watched.measure(loader)      # {"layer3": NCReport, "fc": NCReport}
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .collapse import NCReport, report
from .stats import Batches, ClassMeans, ClassScatter, walk

__all__ = ["Watch", "watch"]


class Watch:
    """The watched layers; made by :func:`watch`.

    Attributes:
        inputs: what each layer was given in the last forward pass, pooled to ``(B, d)``; for layers
            of a sequence model, ``(B, T, d)`` stays if ``pool`` is None.
    """

    def __init__(self, model: nn.Module, layers: dict[str, nn.Module], pool):
        self.model, self.layers, self.inputs = model, layers, {}
        self._pool = _POOLS[pool] if isinstance(pool, str) else pool

    def _record(self, name: str, given: Tensor) -> None:
        if name in self.inputs:
            raise ValueError(f"layer {name!r} is called more than once in a forward pass")
        x = given.detach()
        self.inputs[name] = self._pool(x) if self._pool and x.dim() != 2 else x

    def measure(
        self, batches: Batches, num_classes: int | None = None, *, weighting: str = "class",
        classes=None, run: Callable | None = None,
    ) -> dict[str, NCReport]:
        """The collapse of every watched layer, in two passes over the batches.

        Args:
            batches: anything that can be walked twice, e.g. a ``DataLoader``, without augmentation.
            num_classes: C; by default the outputs of the last watched layer that is linear.
            weighting, classes: as in :func:`nclib.measure`.
            run: called as ``run(model, batch)``, runs the model and returns the labels: ``(B,)``,
                or ``(B, T)`` for layers with ``(B, T, d)`` inputs, where negative labels are left
                out. By default a batch is ``(inputs, labels)``, or a mapping with ``labels`` whose
                other entries are keywords of the model; tensors go to the model's device.

        A linear layer with C outputs is taken as the classifier of its own inputs, so that NC3 and
        NC4 are measured too.

        Raises:
            ValueError: as :func:`nclib.measure_batches`; a layer that is not reached, or more than
                once in a forward pass; no ``num_classes`` where it is needed.
        """
        heads = {n: m for n, m in self.layers.items() if isinstance(m, nn.Linear)}
        if num_classes is None:
            if not heads:
                raise ValueError("no watched layer is linear: give num_classes")
            num_classes = list(heads.values())[-1].out_features
        heads = {n: m for n, m in heads.items() if m.out_features == num_classes}
        seen = isinstance(classes, str) and classes == "seen"
        passes = {n: ClassMeans(num_classes, None if seen else classes) for n in self.layers}
        self._pass(batches, passes, run or _run)
        if seen:
            passes = {n: first.seen() for n, first in passes.items()}
        of = {n: {"weight": m.weight, "bias": m.bias} for n, m in heads.items()}
        passes = {
            n: ClassScatter(first, weighting=weighting, **of.get(n, {}))
            for n, first in passes.items()
        }
        self._pass(batches, passes, run or _run)
        return {n: report(last.compute(), **of.get(n, {})) for n, last in passes.items()}

    @torch.no_grad()
    def _pass(self, batches, streams, run) -> None:
        for batch in walk(batches):
            self.inputs.clear()
            labels = run(self.model, batch)
            missing = [n for n in self.layers if n not in self.inputs]
            if missing:
                raise ValueError(f"the forward pass does not reach {missing}")
            for name, stream in streams.items():
                x, y = self.inputs[name], labels
                if y.dim() == 2:
                    if x.shape[:2] != y.shape:
                        raise ValueError(
                            f"labels {tuple(y.shape)} for inputs {tuple(x.shape)} of {name!r}: "
                            "labels of every token need watch(..., pool=None)"
                        )
                    x, y = x.flatten(0, 1), y.flatten().to(x.device)
                    x, y = x[y >= 0], y[y >= 0]
                stream.update(x, y)


@contextmanager
def watch(
    model: nn.Module, *names: str, pool: str | Callable[[Tensor], Tensor] | None = "flatten",
    eval: bool = True,
) -> Iterator[Watch]:
    """Record the inputs of named layers while the block runs; then the model is as it was.

    Args:
        model: any module.
        names: as in ``model.named_modules()``.
        pool: how inputs of more than two axes become ``(B, d)``: ``"flatten"``, ``"mean"`` over
            all places (images) or tokens, ``"first"`` or ``"last"`` token, a function, or None.
        eval: put the model in eval mode; each module's own mode is restored at the end, also after
            an error.

    Raises:
        ValueError: an unknown name or ``pool``, or no name.
    """
    modules = dict(model.named_modules())
    unknown = [n for n in names if n not in modules]
    if unknown or not names:
        raise ValueError(f"no layers {unknown}; there are {', '.join(n for n in modules if n)}")
    if isinstance(pool, str) and pool not in _POOLS:
        raise ValueError(f"pool must be one of {', '.join(_POOLS)}, got {pool!r}")
    modes = {m: m.training for m in model.modules()}
    watched = Watch(model, {n: modules[n] for n in names}, pool)
    handles = [model.register_forward_pre_hook(lambda *_: watched.inputs.clear())]
    handles += [
        modules[n].register_forward_pre_hook(
            lambda _, args, kwargs, n=n: watched._record(n, (*args, *kwargs.values())[0]),
            with_kwargs=True,
        ) for n in names
    ]
    try:
        if eval:
            model.eval()
        yield watched
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode


_POOLS = {
    "flatten": lambda x: x.flatten(1),
    "mean": lambda x: x.flatten(2).mean(2) if x.dim() > 3 else x.mean(1),
    "first": lambda x: x[:, 0],
    "last": lambda x: x[:, -1],
}


def _run(model: nn.Module, batch) -> Tensor:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if isinstance(batch, Mapping):
        inputs = {k: v.to(device) if torch.is_tensor(v) else v for k, v in batch.items()}
        labels = inputs.pop("labels")
        model(**inputs)
    else:
        x, labels = batch
        model(x.to(device))
    return labels
