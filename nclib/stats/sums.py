"""What both passes are made of: pieces of residuals, sums by class, checks, precision."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

_CHUNK_BYTES = {"cpu": 1 << 21}  # a chunk and its residuals stay in the cache
_ACCELERATOR_CHUNK_BYTES = 1 << 26


class Pieces:
    """Collects the residuals of many batches into pieces of a size that suits the device.

    A piece is filled from as many batches as fit, so the cost of a pass hardly depends on their
    size; no batch is kept, or copied. ``use(residuals (b, d), labels (b,))`` is called with each
    full piece, whose memory is then used again.
    """

    def __init__(self, dim: int, dtype: torch.dtype, device: torch.device, use: Callable):
        size = _CHUNK_BYTES.get(device.type, _ACCELERATOR_CHUNK_BYTES)
        self.rows = max(64, min(1 << 14, size // (dim * dtype.itemsize)))
        self._residuals = torch.empty(self.rows, dim, dtype=dtype, device=device)
        self._labels = torch.empty(self.rows, dtype=torch.int64, device=device)
        self._fill, self._use = 0, use

    def add(self, features: Tensor, labels: Tensor, table: Tensor) -> None:
        """Append ``features - table[labels]``."""
        pieces = ((features, labels),)
        if len(labels) > self.rows:
            pieces = zip(features.split(self.rows), labels.split(self.rows), strict=True)
        for x, y in pieces:
            if self._fill + len(y) > self.rows:
                self.flush()
            end = self._fill + len(y)
            r = self._residuals[self._fill : end]
            torch.index_select(table, 0, y, out=r)
            torch.sub(x, r, out=r)
            self._labels[self._fill : end].copy_(y)
            self._fill = end

    def flush(self) -> None:
        """Use what is there."""
        if self._fill:
            fill, self._fill = self._fill, 0
            self._use(self._residuals[:fill], self._labels[:fill])


# Sums by class go through a stable sort and one sum a segment: on every device the same order of
# additions in every run, which atomic scatter-adds do not give, and no (N, C) one-hot matrix.


def sort_labels(labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Order ``(b,)`` by class, start of each class in it ``(C,)``, and its size ``(C,)``."""
    ordered, order = torch.sort(labels, stable=True)
    edges = torch.searchsorted(ordered, torch.arange(num_classes + 1, device=labels.device))
    return order, edges[:-1], edges.diff()


def sum_by_class(values: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    """``(C, k)`` sums of the rows of ``values`` ``(b, k)``."""
    return embedding_bag(order, values, starts, mode="sum")


def home(device: torch.device) -> torch.device:
    """Where float64 accumulators live: with the features, but on the CPU for Apple's GPUs."""
    return torch.device("cpu") if device.type == "mps" else device


def unit(values: Tensor) -> float:
    """The power of two at or below the largest entry in absolute value; 1 if all are zero.

    To divide by it changes no digit, and squares of the result neither overflow nor vanish.
    """
    largest = float(values.abs().max()) if values.numel() else 0.0
    return 2.0 ** (math.frexp(largest)[1] - 1) if 0 < largest < math.inf else 1.0


# --- checks -------------------------------------------------------------------------------------


def check_batch(features: Tensor, labels: Tensor) -> None:
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(f"features must be (N, d) with d >= 1, got {tuple(features.shape)}")
    if not features.is_floating_point():
        raise ValueError(f"features must be of a float dtype, got {features.dtype}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    if labels.shape != features.shape[:1]:
        raise ValueError(
            f"labels must be ({len(features)},) for features {tuple(features.shape)}, "
            f"got {tuple(labels.shape)}"
        )


def check_labels(labels: Tensor, num_classes: int | None) -> None:
    """Every label is in ``[0, C)``; without C, none is negative."""
    if not len(labels):
        return
    low, high = (int(v) for v in labels.aminmax())
    if low < 0 or (num_classes is not None and high >= num_classes):
        bad, top = (low if low < 0 else high), "∞" if num_classes is None else num_classes
        raise ValueError(f"label {bad} is not in [0, {top})")


def check_matrix(name: str, value: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
    """``value`` in float64 and outside the graph.

    Raises:
        ValueError: it is not of ``shape`` (by default: not a matrix), or has NaN or infinity.
    """
    value = torch.as_tensor(value).detach()
    value = value.to(home(value.device)).double()
    if value.ndim != 2 if shape is None else value.shape != shape:
        wanted = "a matrix" if shape is None else tuple(shape)
        raise ValueError(f"{name} must be {wanted}, got {tuple(value.shape)}")
    if not torch.isfinite(value).all():
        raise ValueError(f"{name} has NaN or infinity")
    return value


def check_counts(counts: Tensor, classes: Tensor | None = None) -> None:
    """At least two samples, and one of every class."""
    total = int(counts.sum())
    if total < 2:
        raise ValueError(f"need at least 2 samples, got {total}")
    empty = (counts == 0).nonzero().flatten()
    if len(empty):
        names = (empty if classes is None else classes.to(empty.device)[empty]).tolist()
        some = ", ".join(map(str, names[:10])) + (", …" if len(names) > 10 else "")
        raise ValueError(f"no samples of class {some} (of {len(counts)} classes)")


# --- precision ----------------------------------------------------------------------------------

_lock, _users, _before = threading.Lock(), 0, None


@contextmanager
def full_precision():
    """float32 products in float32, whatever the caller allows elsewhere: no TF32, no bfloat16.

    The switch belongs to the process. It is entered around our own products only, never around a
    caller's code; the first of several threads saves the caller's setting, the last restores it.
    (Autocast leaves alone float64, and in-place and ``out=`` forms, which is all that is used.)
    """
    global _users, _before
    with _lock:
        if not _users:
            _before = _precision()
            _set_precision("strict")
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _set_precision(_before)


def _backends() -> list | None:
    found = (torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None))
    return list(found) if all(hasattr(b, "fp32_precision") for b in found) else None


def _precision():
    backends = _backends()  # None before torch 2.9
    if backends is None:
        return torch.get_float32_matmul_precision()
    return [b.fp32_precision for b in backends]


def _set_precision(value) -> None:
    backends = _backends()
    if backends is None:
        torch.set_float32_matmul_precision("highest" if value == "strict" else value)
    else:
        values = ["ieee"] * len(backends) if value == "strict" else value
        for backend, precision in zip(backends, values, strict=True):
            backend.fp32_precision = precision
