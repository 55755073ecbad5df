"""File formats: bytes to arrays. Nothing is ever unpickled, or unpacked to disk."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence

import numpy as np


def _idx(blob: bytes, ndim: int) -> np.ndarray:
    """Array of bytes in idx form: two zeros, type 8, ndim, big-endian sizes, then the bytes."""
    header = 4 + 4 * ndim
    if len(blob) < header or blob[:4] != bytes((0, 0, 8, ndim)):
        raise ValueError(f"not an idx file of {ndim}-d bytes: it starts with {blob[:4].hex()!r}")
    shape = tuple(np.frombuffer(blob, ">u4", ndim, 4).tolist())
    size = int(np.prod(shape, dtype=object))
    if len(blob) - header != size:
        raise ValueError(f"idx header promises {shape}, {size} bytes; {len(blob) - header} follow")
    return np.frombuffer(blob, np.uint8, offset=header).reshape(shape)


def _parse_idx(split: str, images: bytes, labels: bytes) -> tuple[np.ndarray, np.ndarray]:
    return _idx(images, 3)[:, None], _idx(labels, 1)


def _parse_npz(split: str, blob: bytes) -> tuple[np.ndarray, np.ndarray]:
    with np.load(io.BytesIO(blob), allow_pickle=False) as arrays:
        try:
            return arrays[f"{split}_images"][:, None], arrays[f"{split}_labels"]
        except KeyError as error:
            raise ValueError(f"no array {error}") from None


def _records(blob: bytes, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """CIFAR's binary form: records of ``labels`` label bytes, the finest last, and 3×32×32."""
    record = labels + 3072
    if not blob or len(blob) % record:
        raise ValueError(f"{len(blob)} bytes are not a whole number of {record}-byte records")
    table = np.frombuffer(blob, np.uint8).reshape(-1, record)
    return table[:, labels:].reshape(-1, 3, 32, 32), table[:, labels - 1]


def _members(blob: bytes, names: Sequence[str]) -> list[bytes]:
    """Regular members of a tar archive by their exact names, read without unpacking to disk."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(blob), mode="r:gz") as archive:
        for member in archive:
            if member.name in names and member.isreg():
                found[member.name] = archive.extractfile(member).read()
                if len(found) == len(names):
                    break
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"the archive has no {', '.join(missing)}")
    return [found[name] for name in names]


def _parse_cifar10(split: str, blob: bytes) -> tuple[np.ndarray, np.ndarray]:
    batches = [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]
    members = _members(blob, [f"cifar-10-batches-bin/{batch}.bin" for batch in batches])
    return _records(b"".join(members), 1)


def _parse_cifar100(split: str, blob: bytes) -> tuple[np.ndarray, np.ndarray]:
    return _records(*_members(blob, [f"cifar-100-binary/{split}.bin"]), 2)
