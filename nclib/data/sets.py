"""Images with labels, and regression problems: loaded, verified, handed out as tensors."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from . import registry
from .fetch import READ_ERRORS, DataError, obtain, reason, shipped
from .registry import SPLITS

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """One split of a dataset, with read-only arrays. Made by :func:`load`.

    Attributes:
        name: the name given to :func:`load`.
        split: ``"train"`` or ``"test"``.
        images: (N, C, H, W) uint8.
        labels: (N,) int64, in ``[0, num_classes)``.
        classes: the class names, one a label.
        mean, std: one value a channel, of the whole *training* split with pixels in [0, 1].
            Both splits carry the same values, and so does every subset.

    To change labels (label noise, say), use ``dataclasses.replace(dataset, labels=new_labels)``.

    Raises:
        ValueError: a shape, a type or a label that does not fit.
    """

    name: str
    split: str
    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self):
        images, labels = np.asarray(self.images).view(), np.asarray(self.labels)
        if images.ndim != 4 or images.dtype != np.uint8:
            raise ValueError(
                f"images must be (N, C, H, W) uint8, got {images.shape} {images.dtype}"
            )
        if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
            raise ValueError(
                f"labels must be ({len(images)},) integers, got {labels.shape} {labels.dtype}"
            )
        if labels.size and not 0 <= labels.min() <= labels.max() < len(self.classes):
            raise ValueError(
                f"labels must be in [0, {len(self.classes)}), "
                f"got {labels.min()} to {labels.max()}"
            )
        labels = labels.astype(np.int64)
        images.flags.writeable = labels.flags.writeable = False
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "labels", labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.images.shape[1:]))
        return (
            f"Dataset({self.name!r}, {self.split!r}: "
            f"{len(self)} images of {shape}, {self.num_classes} classes)"
        )

    @property
    def num_classes(self) -> int:
        """Number of classes, counting any that has no image."""
        return len(self.classes)

    @property
    def counts(self) -> np.ndarray:
        """Images in each class, (num_classes,) int64."""
        return np.bincount(self.labels, minlength=self.num_classes)

    def subset(self, per_class: int) -> Dataset:
        """The first ``per_class`` images of each class; their order stays.

        Raises:
            ValueError: ``per_class`` is not positive or exceeds the smallest class.
        """
        counts = self.counts
        if not 1 <= per_class <= counts.min():
            raise ValueError(
                f"per_class must be in [1, {counts.min()}] for {self!r}, got {per_class}"
            )
        order = np.argsort(self.labels, kind="stable")
        starts = np.repeat(np.cumsum(counts) - counts, counts)
        keep = np.sort(order[np.arange(len(order)) - starts < per_class])
        return Dataset(
            self.name, self.split, self.images[keep], self.labels[keep],
            self.classes, self.mean, self.std,
        )

    def tensors(
        self,
        device: torch.device | str = "cpu",
        *,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Standardized images and their labels as tensors that live on ``device``.

        Args:
            device: where the tensors live. The bytes travel there before they become floats.
            mean, std: one value, or one a channel, for pixels in [0, 1]; by default those of the
                training split. ``mean=0, std=1`` leaves the pixels in [0, 1].
            dtype: float type of the images; by default ``torch.float32``.

        Returns:
            images (N, C, H, W) of ``dtype``, and labels (N,) int64.

        Raises:
            ValueError: ``mean`` or ``std`` of the wrong length, or ``std`` not positive.
        """
        import torch

        dtype = dtype or torch.float32
        channels = self.images.shape[1]
        work = torch.promote_types(dtype, torch.float32)
        scale = {}
        for key, given in (("mean", mean), ("std", std)):
            value = np.asarray(getattr(self, key) if given is None else given, dtype=np.float64)
            if value.shape not in ((), (1,), (channels,)):
                raise ValueError(f"{key} must be one value or {channels}, got {value.shape}")
            if not np.isfinite(value).all() or (key == "std" and not (value > 0).all()):
                raise ValueError(f"{key} must be finite and std positive, got {value.tolist()}")
            scale[key] = torch.tensor(value, dtype=work, device=device).reshape(-1, 1, 1)
        x = torch.tensor(self.images, device=device).to(work)
        x.div_(255).sub_(scale["mean"]).div_(scale["std"])
        return x.to(dtype), torch.tensor(self.labels, device=device)


def load(
    name: str,
    split: str = "train",
    *,
    root: str | os.PathLike | None = None,
    download: bool = True,
) -> Dataset:
    """Load one split of a dataset.

    Args:
        name: ``"fashion-mnist-small"`` (ships with nclib, 600 training and 200 test images a
            class), ``"fashion-mnist"``, ``"cifar10"`` or ``"cifar100"`` (fine labels).
        split: ``"train"`` or ``"test"``.
        root: folder that holds the publisher's files, itself or in a subfolder called ``name``.
            When given, nothing else is looked at and nothing is downloaded.
        download: whether a file that is nowhere on this machine may be downloaded (needs pooch).

    Without ``root`` the files are looked for in the folder named by the environment variable
    ``NCLIB_DATA``, in the Debian/Ubuntu package ``dataset-fashion-mnist``, then in the user's
    cache. A download goes to ``NCLIB_DATA`` if that is set, else to the cache.

    Raises:
        ValueError: unknown name or split.
        DataError: a file is missing, broken or cannot be downloaded.
    """
    if name not in registry.SOURCES:
        raise ValueError(f"unknown dataset {name!r}; known: {', '.join(registry.SOURCES)}")
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
    source = registry.SOURCES[name]
    blobs = [obtain(name, source, file, root, download) for file in source.files[split]]
    try:
        images, labels = source.parse(split, *blobs)
        return Dataset(name, split, images, labels, source.classes, source.mean, source.std)
    except READ_ERRORS as error:
        files = ", ".join(file.name for file in source.files[split])
        raise DataError(
            f"cannot read {name!r} ({split}): {files}: {reason(error)}"
        ) from None


@dataclass(frozen=True, eq=False, repr=False)
class RegressionData:
    """One split of a multivariate regression problem. Made by :func:`load_regression`.

    Attributes:
        name, split: as given to :func:`load_regression`.
        inputs: (N, D) float32, raw units.
        targets: (N, n) float32, raw units.
        target_names: one a component.
        returns: (episodes,) float32, what the expert earned in the episodes that the samples come
            from; None where there are no episodes.
    """

    name: str
    split: str
    inputs: np.ndarray
    targets: np.ndarray
    target_names: tuple[str, ...]
    returns: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def __repr__(self) -> str:
        (N, D), n = self.inputs.shape, self.targets.shape[1]
        return (
            f"RegressionData({self.name!r}, {self.split!r}: "
            f"{N} samples, {D} inputs, {n} targets)"
        )

    def tensors(self, device: torch.device | str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs (N, D) and targets (N, n), float32, on ``device``."""
        import torch

        return tuple(torch.tensor(a, device=device) for a in (self.inputs, self.targets))


def load_regression(name: str, split: str = "train") -> RegressionData:
    """Load one split of a multivariate regression problem that ships with nclib or scikit-learn.

    Args:
        name: ``"reacher"`` (1,000 training and 200 test samples, 10 inputs, 2 targets),
            ``"swimmer"`` and ``"swimmer-slow"`` (1,000 and 200, 8, 2), ``"hopper"`` (2,000 and 400,
            11, 3): states and actions of scripted experts in MuJoCo, from mujoco-small.npz;
            ``"linnerud"`` (20 training samples only, 3, 3): exercise and body measures, from
            scikit-learn.
        split: ``"train"`` or ``"test"``.

    Raises:
        ValueError: unknown name or split, or a test split that does not exist.
        DataError: the shipped file is missing or broken.
    """
    names = registry.REGRESSION
    if name not in names:
        raise ValueError(f"unknown regression data {name!r}; known: {', '.join(names)}")
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
    if name == "linnerud":
        if split != "train":
            raise ValueError("linnerud has 20 samples and no test split")
        from sklearn.datasets import load_linnerud

        table = load_linnerud()
        arrays = {"states": table.data, "actions": table.target}
    else:
        with np.load(io.BytesIO(shipped(name, registry.ROBOTS)), allow_pickle=False) as archive:
            keys = ("states", "actions", "returns")
            arrays = {key: archive[f"{name}_{split}_{key}"] for key in keys}
    arrays = {key: np.asarray(value, dtype=np.float32) for key, value in arrays.items()}
    for array in arrays.values():
        array.flags.writeable = False
    return RegressionData(
        name, split, arrays["states"], arrays["actions"], names[name], arrays.get("returns")
    )
