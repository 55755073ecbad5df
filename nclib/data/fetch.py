"""Where the files of a data set are found, how they are verified, and how they come here."""

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
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

TIMEOUT = 30.0  # seconds without a connection, or without a byte, before a mirror is given up

READ_ERRORS = (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile, ValueError)


class DataError(RuntimeError):
    """A data file is missing, broken or cannot be downloaded; the message says what to do."""


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


def obtain(
    name: str, source: Source, file: File, root: str | os.PathLike | None, download: bool
) -> bytes:
    """The verified content of ``file``, from the first place that has it."""
    if not file.urls:
        return shipped(name, file)
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


def shipped(name: str, file: File) -> bytes:
    """The verified content of a file that ships with nclib."""
    path = resources.files("nclib").joinpath("_data", file.name)
    try:
        return _verified(path.read_bytes(), file)
    except READ_ERRORS as error:
        raise DataError(
            f"cannot load {name!r}: {path}, which ships with nclib, is missing or broken: "
            f"{reason(error)}. Install nclib again."
        ) from None


def _read_local(name: str, source: Source, file: File, path: Path, explicit: bool) -> bytes:
    try:
        return _verified(path.read_bytes(), file)
    except READ_ERRORS as error:
        if source.system and path.is_relative_to(source.system):
            cure = f"Install it again: apt-get install --reinstall {source.package}"
        elif isinstance(error, PermissionError):
            cure = "Make the file readable, or name another folder with NCLIB_DATA"
        elif explicit:
            cure = "Replace it by an intact copy, or leave out root= to look elsewhere"
        else:
            cure = "Delete this file and load again, or replace it by an intact copy"
        raise DataError(
            f"cannot load {name!r}: {path} is broken: {reason(error)}. {cure}."
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
                    f"cannot load {name!r}: cannot write to {target.parent}: {reason(error)}. "
                    "Name a folder that can be written to with the environment variable NCLIB_DATA."
                ) from None
            with out:
                fetch(url, out, None)
                out.flush()
                os.fsync(out.fileno())
            content = _verified(part.read_bytes(), file)
            os.replace(part, target)
            return content
        except READ_ERRORS as error:
            failures.append(f"{url}: {reason(error)}")
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

    Raises one of ``READ_ERRORS`` where it is truncated or has another checksum.
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


def reason(error: BaseException) -> str:
    """One line for an error."""
    text = " ".join(str(error).split()) or type(error).__name__
    _, wrapped, cause = text.partition("(Caused by ")  # requests tells the cause last
    if wrapped:
        text = cause.removesuffix(")")
    if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile | tarfile.TarError):
        text = f"truncated or damaged archive ({text})"
    return text if len(text) <= 300 else text[:297] + "..."
