"""Make fashion-mnist-small.npz from the full Fashion-MNIST, byte for byte the same each time.

    python nclib/_data/make_fashion_mnist_small.py [OUTPUT]

Takes the first 600 training and the first 200 test images of each class and keeps their order.
The full data set is looked for, verified and, where it is nowhere, downloaded by ``nclib.data``.
"""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile
from pathlib import Path

import numpy as np

from nclib import data

PER_CLASS = {"train": 600, "test": 200}


def arrays() -> dict[str, np.ndarray]:
    """uint8 arrays: ``{split}_images`` (N, 28, 28) and ``{split}_labels`` (N,)."""
    out = {}
    for split, n in PER_CLASS.items():
        part = data.load("fashion-mnist", split).subset(per_class=n)
        out[f"{split}_images"] = part.images[:, 0]
        out[f"{split}_labels"] = part.labels.astype(np.uint8)
    return out


def pack(arrays: dict[str, np.ndarray]) -> bytes:
    """The bytes of a compressed npz without anything that depends on time or place."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            npy = io.BytesIO()
            np.lib.format.write_array(
                npy, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False
            )
            archive.writestr(entry, npy.getvalue(), compresslevel=9)
    return buffer.getvalue()


def main() -> None:
    default = Path(__file__).with_name("fashion-mnist-small.npz")
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    blob = pack(arrays())
    target.write_bytes(blob)
    print(f"{hashlib.sha256(blob).hexdigest()}  {target} ({len(blob)} bytes)")


if __name__ == "__main__":
    main()
