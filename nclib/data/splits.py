"""Which samples: long tails, orders of classes, tasks, and replay buffers. Indices, no copies."""

from __future__ import annotations

import numpy as np

__all__ = ["class_order", "indices", "long_tail", "replay_buffer", "tasks"]


def long_tail(
    largest: int, num_classes: int, ratio: float, *, kind: str = "exponential"
) -> np.ndarray:
    """Class sizes of a long-tailed training set, largest first.

    Args:
        largest: size of the first class.
        num_classes: K, at least 2.
        ratio: size of the first class over that of the last, at least 1.
        kind: ``"exponential"`` decays by the same factor from class to class, as in Cao et al.
            (2019) and CIFAR-10-LT; ``"step"`` gives the first half (rounded up) the largest size
            and the rest the smallest.

    Returns:
        ``(K,)`` int64, each at least 1, rounded down.

    Raises:
        ValueError: sizes that make no sense, or an unknown kind.

    >>> long_tail(100, 5, 100).tolist()
    [100, 31, 10, 3, 1]
    """
    if largest < 1 or num_classes < 2 or not ratio >= 1:
        raise ValueError(
            f"need largest ≥ 1, K ≥ 2, ratio ≥ 1; got {largest}, {num_classes}, {ratio}"
        )
    if kind == "exponential":
        sizes = largest * ratio ** -(np.arange(num_classes) / (num_classes - 1))
    elif kind == "step":
        sizes = np.where(np.arange(num_classes) < (num_classes + 1) // 2, largest, largest / ratio)
    else:
        raise ValueError(f"kind must be 'exponential' or 'step', got {kind!r}")
    return np.maximum(1, np.floor(sizes + 1e-9)).astype(np.int64)


def class_order(num_classes: int, seed: int) -> np.ndarray:
    """A random order of the classes, ``(K,)``, the same on every machine.

    Args:
        num_classes: K.
        seed: any number that is not negative.
    """
    return np.random.default_rng([seed, num_classes]).permutation(num_classes)


def indices(labels: np.ndarray, sizes, *, seed: int | None = None) -> np.ndarray:
    """Samples of each class, as many as ``sizes`` says, in ascending order.

    Args:
        labels: ``(N,)`` integers in ``[0, K)``.
        sizes: ``(K,)``; 0 leaves a class out.
        seed: by default the first samples of each class are taken, else random ones.

    Returns:
        ``(sum(sizes),)`` int64.

    Raises:
        ValueError: a class that has too few samples, or a label out of range.
    """
    labels, sizes = np.asarray(labels), np.asarray(sizes)
    if labels.size and not 0 <= labels.min() <= labels.max() < len(sizes):
        raise ValueError(f"labels must be in [0, {len(sizes)})")
    counts = np.bincount(labels, minlength=len(sizes))
    if (sizes < 0).any() or (sizes > counts).any():
        bad = int(np.argmax((sizes > counts) | (sizes < 0)))
        raise ValueError(f"class {bad} has {counts[bad]} samples, not {sizes[bad]}")
    order = np.arange(len(labels))
    if seed is not None:
        order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(order[place < np.repeat(sizes, counts)])


def tasks(num_classes: int, num_tasks: int, *, order: np.ndarray | None = None) -> list[np.ndarray]:
    """Classes of each task of class-incremental learning, equally many a task.

    Args:
        num_classes: K.
        num_tasks: must divide K.
        order: of the classes, by default ascending.

    Raises:
        ValueError: tasks of unequal size, or an order that is no permutation.
    """
    order = np.arange(num_classes) if order is None else np.asarray(order)
    if num_tasks < 1 or num_classes % num_tasks:
        raise ValueError(f"{num_classes} classes do not make {num_tasks} equal tasks")
    if sorted(order.tolist()) != list(range(num_classes)):
        raise ValueError(f"order is no permutation of {num_classes} classes")
    return list(order.reshape(num_tasks, -1))


def replay_buffer(labels: np.ndarray, classes, per_class: int, *, seed: int = 0) -> np.ndarray:
    """Random samples to replay, equally many of each of the classes, in ascending order.

    Args:
        labels: ``(N,)`` integers.
        classes: those that the buffer holds.
        per_class: how many of each.
        seed: of the draw.

    Returns:
        ``(len(classes) * per_class,)`` int64.

    Raises:
        ValueError: a class that has fewer than ``per_class`` samples.
    """
    labels = np.asarray(labels)
    sizes = np.zeros(int(labels.max()) + 1, dtype=np.int64)
    sizes[np.asarray(classes)] = per_class
    return indices(labels, sizes, seed=seed)
