"""Datasets: read, verified and handed out as arrays or as tensors on a device.

>>> train = load("fashion-mnist-small", "train")  # ships with nclib: no network, same everywhere
>>> x, y = train.tensors("cpu")                   # (6000, 1, 28, 28) float32, (6000,) int64

Every file is compared with a pinned checksum each time that it is read, wherever it came from.
Nothing is ever unpickled, and no archive is unpacked to disk.
"""

from . import splits
from .fetch import DataError, File, Source, cache_dir
from .registry import (
    CIFAR10_CLASSES,
    CIFAR100_CLASSES,
    FASHION_CLASSES,
    REGRESSION,
    SOURCES,
    SPLITS,
)
from .sets import Dataset, RegressionData, load, load_regression

__all__ = [
    "CIFAR10_CLASSES",
    "CIFAR100_CLASSES",
    "FASHION_CLASSES",
    "REGRESSION",
    "SOURCES",
    "SPLITS",
    "DataError",
    "Dataset",
    "File",
    "RegressionData",
    "Source",
    "cache_dir",
    "load",
    "load_regression",
    "splits",
]
