"""Datasets: read, verified and handed out as arrays or as tensors on a device.

>>> train = load("fashion-mnist-small", "train")  # ships with nclib: no network, same everywhere
>>> x, y = train.tensors("cpu")                   # (6000, 1, 28, 28) float32, (6000,) int64

Every file is compared with a pinned checksum each time that it is read, wherever it came from.
Nothing is ever unpickled, and no archive is unpacked to disk.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import secrets
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

SPLITS = ("train", "test")
TIMEOUT = 30.0  # seconds without a connection, or without a byte, before a mirror is given up

_READ_ERRORS = (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile, ValueError)


class DataError(RuntimeError):
    """A data file is missing, broken or cannot be downloaded; the message says what to do."""


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
    if name not in SOURCES:
        raise ValueError(f"unknown dataset {name!r}; known: {', '.join(SOURCES)}")
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
    source = SOURCES[name]
    blobs = [_obtain(name, source, file, root, download) for file in source.files[split]]
    try:
        images, labels = source.parse(split, *blobs)
        return Dataset(name, split, images, labels, source.classes, source.mean, source.std)
    except _READ_ERRORS as error:
        files = ", ".join(file.name for file in source.files[split])
        raise DataError(
            f"cannot read {name!r} ({split}): {files}: {_reason(error)}"
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
    if name not in REGRESSION:
        raise ValueError(f"unknown regression data {name!r}; known: {', '.join(REGRESSION)}")
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
    if name == "linnerud":
        if split != "train":
            raise ValueError("linnerud has 20 samples and no test split")
        from sklearn.datasets import load_linnerud

        table = load_linnerud()
        arrays = {"states": table.data, "actions": table.target}
    else:
        with np.load(io.BytesIO(_shipped(name, _ROBOTS)), allow_pickle=False) as archive:
            keys = ("states", "actions", "returns")
            arrays = {key: archive[f"{name}_{split}_{key}"] for key in keys}
    arrays = {key: np.asarray(value, dtype=np.float32) for key, value in arrays.items()}
    for array in arrays.values():
        array.flags.writeable = False
    return RegressionData(
        name, split, arrays["states"], arrays["actions"], REGRESSION[name], arrays.get("returns")
    )


# --- where data comes from -----------------------------------------------------------------------


@dataclass(frozen=True)
class File:
    """One file of a publisher.

    ``digests`` (``"sha256:…"`` or ``"md5:…"``, all must match) are those of the *decompressed*
    content for a ``.gz``, so that a copy that was compressed anew is verified too, and those of
    the file itself for anything else. ``size`` is the decompressed size of a ``.gz`` in bytes.
    A file without ``urls`` ships with nclib.
    """

    name: str
    digests: tuple[str, ...]
    urls: tuple[str, ...] = ()
    size: int | None = None


@dataclass(frozen=True)
class Source:
    """A dataset: its files, how to read them, and what the images show.

    ``parse(split, *contents)`` turns the files' bytes into images (N, C, H, W) uint8 and labels
    (N,). ``mean`` and ``std`` are those of the training split, a channel, pixels in [0, 1].
    ``system`` is the folder where a system package keeps the files, ``package`` its name.
    """

    files: dict[str, tuple[File, ...]]
    parse: Callable[..., tuple[np.ndarray, np.ndarray]]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    system: Path | None = None
    package: str | None = None


def cache_dir() -> Path:
    """The user's cache folder for downloaded data; it need not exist."""
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "nclib"


def _obtain(
    name: str, source: Source, file: File, root: str | os.PathLike | None, download: bool
) -> bytes:
    """The verified content of ``file``, from the first place that has it."""
    if not file.urls:
        return _shipped(name, file)
    own = os.environ.get("NCLIB_DATA")
    if root is not None:
        places = [Path(root).expanduser()]
    else:
        places = [Path(own).expanduser()] if own else []
        places += [source.system] if source.system else []
        places += [cache_dir()]
    for place in places:
        for path in (place / file.name, place / name / file.name):
            if os.path.isfile(path):
                return _read_local(name, source, file, path, explicit=root is not None)
    looked = "looked in " + ", ".join(str(place) for place in places)
    if root is not None:
        raise DataError(
            f"cannot load {name!r}: {file.name} is not in {places[0]}, nor in its subfolder "
            f"{name!r}. Put it there, or leave out root= to look elsewhere and to download it."
        )
    if not download:
        raise DataError(
            f"cannot load {name!r}: {file.name} was not found ({looked}) and download=False. "
            "Allow the download, or " + _advice(source, file)
        )
    target = (Path(own).expanduser() if own else cache_dir()) / name / file.name
    return _download(name, source, file, target, looked)


def _shipped(name: str, file: File) -> bytes:
    """The verified content of a file that ships with nclib."""
    shipped = resources.files(__package__).joinpath("_data", file.name)
    try:
        return _verified(shipped.read_bytes(), file)
    except _READ_ERRORS as error:
        raise DataError(
            f"cannot load {name!r}: {shipped}, which ships with nclib, is missing or broken: "
            f"{_reason(error)}. Install nclib again."
        ) from None


def _read_local(name: str, source: Source, file: File, path: Path, explicit: bool) -> bytes:
    try:
        return _verified(path.read_bytes(), file)
    except _READ_ERRORS as error:
        if source.system and path.is_relative_to(source.system):
            cure = f"Install it again: apt-get install --reinstall {source.package}"
        elif isinstance(error, PermissionError):
            cure = "Make the file readable, or name another folder with NCLIB_DATA"
        elif explicit:
            cure = "Replace it by an intact copy, or leave out root= to look elsewhere"
        else:
            cure = "Delete this file and load again, or replace it by an intact copy"
        raise DataError(
            f"cannot load {name!r}: {path} is broken: {_reason(error)}. {cure}."
        ) from None


def _download(name: str, source: Source, file: File, target: Path, looked: str) -> bytes:
    """Try the mirrors in turn; ``target`` appears only complete and verified, in one step."""
    try:
        import pooch
    except ImportError:
        raise DataError(
            f"cannot load {name!r}: {file.name} was not found ({looked}), and downloading needs "
            "pooch: pip install pooch. Or " + _advice(source, file)
        ) from None
    # "identity" keeps a server from unpacking or packing the file on the way.
    fetch = pooch.HTTPDownloader(timeout=TIMEOUT, headers={"Accept-Encoding": "identity"})
    failures = []
    print(f"nclib: downloading {file.name} to {target.parent}", file=sys.stderr)
    for url in file.urls:
        # A name of its own, so that processes downloading at once do not meet.
        part = target.with_name(f".{file.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
        try:
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                out = open(part, "xb")
            except OSError as error:
                raise DataError(
                    f"cannot load {name!r}: cannot write to {target.parent}: {_reason(error)}. "
                    "Name a folder that can be written to with the environment variable NCLIB_DATA."
                ) from None
            with out:
                fetch(url, out, None)
                out.flush()
                os.fsync(out.fileno())
            content = _verified(part.read_bytes(), file)
            os.replace(part, target)
            return content
        except _READ_ERRORS as error:
            failures.append(f"{url}: {_reason(error)}")
        finally:  # also on Ctrl-C
            with contextlib.suppress(OSError):
                part.unlink()
    raise DataError(
        f"cannot load {name!r}: {file.name} was not found ({looked}) and could not be downloaded:\n"
        + "\n".join(f"  {failure}" for failure in failures)
        + "\nCheck the network and try again, or " + _advice(source, file)
    )


def _advice(source: Source, file: File) -> str:
    text = f"get {file.name} elsewhere and name its folder with root= or NCLIB_DATA"
    if source.package:
        text += f", or on Debian/Ubuntu: apt-get install {source.package}"
    return text + "; the dataset 'fashion-mnist-small' needs no network."


def _verified(blob: bytes, file: File) -> bytes:
    """``blob``, decompressed where ``file`` is a ``.gz``.

    Raises one of ``_READ_ERRORS`` where it is truncated or has another checksum.
    """
    if file.name.endswith(".gz") and not file.name.endswith(".tar.gz"):
        with gzip.GzipFile(fileobj=io.BytesIO(blob)) as unzipped:
            blob = unzipped.read() if file.size is None else unzipped.read(file.size + 1)
    for digest in file.digests:
        method, _, expected = digest.partition(":")
        found = hashlib.new(method, blob, usedforsecurity=False).hexdigest()
        if found != expected:
            raise ValueError(f"wrong checksum: {method} {found}, expected {expected}")
    return blob


def _reason(error: BaseException) -> str:
    """One line for an error."""
    text = " ".join(str(error).split()) or type(error).__name__
    _, wrapped, cause = text.partition("(Caused by ")  # requests tells the cause last
    if wrapped:
        text = cause.removesuffix(")")
    if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile | tarfile.TarError):
        text = f"truncated or damaged archive ({text})"
    return text if len(text) <= 300 else text[:297] + "..."


# --- file formats --------------------------------------------------------------------------------


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


# --- registry ------------------------------------------------------------------------------------

FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)
CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)
CIFAR100_CLASSES = tuple(
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
    butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab
    crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo
    keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse
    mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy
    porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper
    snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television
    tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
    """.split()
)

_FASHION_MIRRORS = (
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)


def _fashion(stem: str, size: int, sha256: str) -> File:
    name = f"{stem}-ubyte.gz"
    urls = tuple(mirror + name for mirror in _FASHION_MIRRORS)
    return File(name, (f"sha256:{sha256}",), urls, size)


# Fashion-MNIST. The digests are of the decompressed files and were computed from the Debian package
# dataset-fashion-mnist 0.0~git20200523.55506a9-1. That package holds the publisher's own compressed
# stream under another gzip header: with the publisher's header put back, all four files have the
# MD5 that the publisher's README gives (8d4fb7e6…, 25c81989…, bef4ecab…, bb300cfd…).
#
# CIFAR. The MD5 is the publisher's (https://www.cs.toronto.edu/~kriz/cifar.html). The SHA-256 was
# not computed by us; other projects that pin these archives record it. Both must match. The second
# mirror of CIFAR-10 is trusted only through them. Mean and standard deviation are the commonly
# quoted ones; those of the two Fashion-MNIST entries are computed (and tested).
SOURCES: dict[str, Source] = {
    "fashion-mnist-small": Source(
        files=dict.fromkeys(SPLITS, (
            File(
                "fashion-mnist-small.npz",
                ("sha256:903002a829cfbdf94d0978f69333442f50b8457aef238a28a189dd7d42f04122",),
            ),
        )),
        parse=_parse_npz,
        classes=FASHION_CLASSES,
        mean=(0.2869149359743898,),
        std=(0.3537792665988047,),
    ),
    "fashion-mnist": Source(
        files={
            "train": (
                _fashion(
                    "train-images-idx3", 47_040_016,
                    "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                ),
                _fashion(
                    "train-labels-idx1", 60_008,
                    "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                ),
            ),
            "test": (
                _fashion(
                    "t10k-images-idx3", 7_840_016,
                    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                ),
                _fashion(
                    "t10k-labels-idx1", 10_008,
                    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
                ),
            ),
        },
        parse=_parse_idx,
        classes=FASHION_CLASSES,
        mean=(0.2860405969887955,),
        std=(0.35302424451492254,),
        system=Path("/usr/share/datasets/fashion-mnist"),
        package="dataset-fashion-mnist",
    ),
    "cifar10": Source(
        files=dict.fromkeys(SPLITS, (
            File(
                "cifar-10-binary.tar.gz",
                (
                    "md5:c32a1d4ab5d03f1284b67883e8d87530",
                    "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                ),
                (
                    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                    "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/"
                    "cifar-10-binary.tar.gz",
                ),
            ),
        )),
        parse=_parse_cifar10,
        classes=CIFAR10_CLASSES,
        mean=(0.49139968, 0.48215841, 0.44653091),
        std=(0.24703223, 0.24348513, 0.26158784),
    ),
    "cifar100": Source(
        files=dict.fromkeys(SPLITS, (
            File(
                "cifar-100-binary.tar.gz",
                (
                    "md5:03b5dce01913d631647c71ecec9e9cb8",
                    "sha256:58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
                ),
                ("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",),
            ),
        )),
        parse=_parse_cifar100,
        classes=CIFAR100_CLASSES,
        mean=(0.50707516, 0.48654887, 0.44091784),
        std=(0.26733429, 0.25643846, 0.27615047),
    ),
}

# Regression: the names of the targets. The robots come from one shipped file, made by
# _data/make_mujoco_small.py.
REGRESSION: dict[str, tuple[str, ...]] = {
    "reacher": ("shoulder torque", "elbow torque"),
    "swimmer": ("first joint torque", "second joint torque"),
    "swimmer-slow": ("first joint torque", "second joint torque"),
    "hopper": ("thigh torque", "leg torque", "foot torque"),
    "linnerud": ("weight", "waist", "pulse"),
}
_ROBOTS = File(
    "mujoco-small.npz",
    ("sha256:8751cc2ba31541ab742c4340a3c2c1d17b7493d75110c944f7b822158bfd7a0c",),
)
