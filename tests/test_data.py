"""Datasets: the shipped file, look-up order, downloads that fail, formats, tensors.

Nothing here needs a network: tiny archives are served over loopback.
"""

import ast
import dataclasses
import gzip
import hashlib
import http.server
import importlib.util
import io
import os
import socket
import subprocess
import sys
import tarfile
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from nclib import data
from nclib.data import fetch, formats, registry

DATA = Path(data.__file__).parents[1] / "_data"
DEBIAN = registry.SOURCES["fashion-mnist"].system
has_debian = pytest.mark.skipif(
    not (DEBIAN / "train-images-idx3-ubyte.gz").exists(),
    reason="needs the system package dataset-fashion-mnist",
)


def sha(blob):
    return "sha256:" + hashlib.sha256(blob).hexdigest()


# --- tiny archives -------------------------------------------------------------------------------


def idx(array):
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes((0, 0, 8, array.ndim)) + sizes + array.tobytes()


def tar(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, blob in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(blob)
            archive.addfile(entry, io.BytesIO(blob))
    return buffer.getvalue()


def records(rng, n, labels, num_classes):
    table = rng.integers(0, 256, (n, labels + 3072), dtype=np.uint8)
    table[:, labels - 1] = np.arange(n) % num_classes
    return table


RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 5, 4), dtype=np.uint8)
LABELS = np.array([0, 1, 0, 1, 1, 0], dtype=np.uint8)
BATCHES = [records(RNG, 4, 1, 10) for _ in range(6)]
FINE = [records(RNG, 5, 2, 100) for _ in range(2)]

IMAGES_GZ, LABELS_GZ = gzip.compress(idx(IMAGES)), gzip.compress(idx(LABELS))
CIFAR10_TAR = tar(
    {"../../outside.txt": b"no", "/absolute.txt": b"no"}
    | {
        f"cifar-10-batches-bin/{name}.bin": table.tobytes()
        for name, table in zip(
            ["test_batch"] + [f"data_batch_{i}" for i in (3, 1, 2, 5, 4)],
            [BATCHES[5]] + [BATCHES[i - 1] for i in (3, 1, 2, 5, 4)],
            strict=True,
        )
    }
)
CIFAR100_TAR = tar({
    "cifar-100-binary/train.bin": FINE[0].tobytes(),
    "cifar-100-binary/test.bin": FINE[1].tobytes(),
})

ARCHIVES = {
    "images.gz": IMAGES_GZ,
    "labels.gz": LABELS_GZ,
    "ten.tar.gz": CIFAR10_TAR,
    "hundred.tar.gz": CIFAR100_TAR,
}


class Handler(http.server.BaseHTTPRequestHandler):
    """/ok/NAME whole, /short/NAME closed early, /wrong/NAME other bytes, /half/NAME cut clean."""

    def do_GET(self):
        self.server.seen.append(self.path)
        _, how, name = self.path.split("/")
        blob = ARCHIVES.get(name)
        packing = "gzip" in self.headers.get("Accept-Encoding", "")  # must not be asked for
        if blob is None or how == "gone" or packing:
            self.send_error(404)
            return
        sent = {"wrong": b"x" * len(blob), "half": blob[: len(blob) // 2]}.get(how, blob)
        self.send_response(200)
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent[: len(sent) // 2] if how == "short" else sent)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.seen = []
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield httpd
        httpd.shutdown()
        thread.join()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A private cache, no NCLIB_DATA, no proxy."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("NCLIB_DATA", raising=False)
    monkeypatch.setattr(fetch, "cache_dir", lambda: tmp_path / "cache")
    return tmp_path


def closed_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.fixture
def serve(server, home, monkeypatch):
    """serve("ok", …): the tiny data sets "idx", "ten" and "hundred" with those mirrors."""

    def register(*hows, **changes):
        base = f"http://127.0.0.1:{server.server_address[1]}"
        dead = f"http://127.0.0.1:{closed_port()}"

        def file(name, blob):
            urls = tuple(f"{dead if how == 'dead' else base}/{how}/{name}" for how in hows)
            return data.File(name, (sha(blob),), urls)

        def source(parse, num_classes, *files):
            classes = tuple(map(str, range(num_classes)))
            made = data.Source(
                dict.fromkeys(data.SPLITS, files), parse, classes, (0.5,), (0.25,)
            )
            return dataclasses.replace(made, **changes)

        monkeypatch.setattr(registry, "SOURCES", {
            "idx": source(
                formats._parse_idx, 2,
                file("images.gz", idx(IMAGES)), file("labels.gz", idx(LABELS)),
            ),
            "ten": source(formats._parse_cifar10, 10, file("ten.tar.gz", CIFAR10_TAR)),
            "hundred": source(formats._parse_cifar100, 100, file("hundred.tar.gz", CIFAR100_TAR)),
        })
        server.seen.clear()
        return server.seen

    return register


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


# --- the shipped file ----------------------------------------------------------------------------


@pytest.mark.parametrize("split, per_class", [("train", 600), ("test", 200)])
def test_shipped(split, per_class, monkeypatch):
    monkeypatch.setattr(fetch, "_download", lambda *a: pytest.fail("downloads"))
    got = data.load("fashion-mnist-small", split)
    assert got.images.shape == (10 * per_class, 1, 28, 28) and got.images.dtype == np.uint8
    assert got.labels.shape == (10 * per_class,) and got.labels.dtype == np.int64
    assert got.counts.tolist() == [per_class] * 10
    assert got.num_classes == 10 and got.classes[9] == "Ankle boot"
    assert len(got) == 10 * per_class and "fashion-mnist-small" in repr(got)


def test_shipped_checksum():
    (file,) = registry.SOURCES["fashion-mnist-small"].files["train"]
    blob = (DATA / file.name).read_bytes()
    assert file.digests == (sha(blob),)
    assert file.digests[0].removeprefix("sha256:") in (DATA / "README.md").read_text()
    assert "Zalando SE" in (DATA / "LICENSE-fashion-mnist").read_text()
    assert 3e6 < len(blob) < 5e6


def test_shipped_file_broken(monkeypatch):
    source = registry.SOURCES["fashion-mnist-small"]
    for file, words in [
        (data.File("fashion-mnist-small.npz", ("sha256:0",)), "wrong checksum"),
        (data.File("absent.npz", ()), "absent.npz"),
    ]:
        broken = dataclasses.replace(source, files={"train": (file,)})
        monkeypatch.setitem(registry.SOURCES, "fashion-mnist-small", broken)
        with pytest.raises(data.DataError, match=f"(?s){words}.*Install nclib again"):
            data.load("fashion-mnist-small")


def maker():
    spec = importlib.util.spec_from_file_location("maker", DATA / "make_fashion_mnist_small.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@has_debian
def test_shipped_is_made_again(monkeypatch):
    monkeypatch.delenv("NCLIB_DATA", raising=False)
    made = maker().arrays()
    with np.load(DATA / "fashion-mnist-small.npz", allow_pickle=False) as shipped:
        assert sorted(shipped.files) == sorted(made)
        for name, array in made.items():
            assert array.dtype == shipped[name].dtype == np.uint8
            np.testing.assert_array_equal(array, shipped[name])
    # Other implementations of zlib may compress the same arrays to other bytes.
    if "ng" not in zlib.ZLIB_RUNTIME_VERSION:
        assert maker().pack(made) == (DATA / "fashion-mnist-small.npz").read_bytes()


def test_pack_repeats():
    arrays = {"a": np.arange(6, dtype=np.uint8).reshape(2, 3)}
    blob = maker().pack(arrays)
    assert blob == maker().pack(arrays)
    with np.load(io.BytesIO(blob), allow_pickle=False) as got:
        np.testing.assert_array_equal(got["a"], arrays["a"])


@has_debian
@pytest.mark.parametrize("split, total, per_class", [("train", 60000, 600), ("test", 10000, 200)])
def test_full_fashion_mnist(split, total, per_class, home):
    full = data.load("fashion-mnist", split, download=False)
    assert full.images.shape == (total, 1, 28, 28)
    assert full.counts.tolist() == [total // 10] * 10
    # An independent, plain selection of the first images of each class.
    left, keep = [per_class] * 10, []
    for i, label in enumerate(full.labels.tolist()):
        if left[label]:
            left[label] -= 1
            keep.append(i)
    small = data.load("fashion-mnist-small", split)
    np.testing.assert_array_equal(small.images, full.images[keep])
    np.testing.assert_array_equal(small.labels, full.labels[keep])
    if split == "train":
        for part in (full, small):
            share = np.bincount(part.images.ravel(), minlength=256) / part.images.size
            pixels = np.arange(256) / 255
            mean = share @ pixels
            np.testing.assert_allclose(part.mean, mean, rtol=1e-9)
            np.testing.assert_allclose(part.std, np.sqrt(share @ (pixels - mean) ** 2), rtol=1e-9)


# --- Dataset -------------------------------------------------------------------------------------


def toy(labels=(2, 0, 1, 0, 2, 1, 1), channels=3):
    labels = np.array(labels)
    images = np.arange(len(labels) * channels * 4, dtype=np.uint8)
    images = images.reshape(len(labels), channels, 2, 2)
    return data.Dataset(
        "toy", "train", images, labels, ("a", "b", "c"), (0.1, 0.2, 0.3), (1, 2, 4)
    )


def test_subset_takes_the_first_of_each_class_in_order():
    part = toy().subset(per_class=1)
    assert part.labels.tolist() == [2, 0, 1]
    np.testing.assert_array_equal(part.images, toy().images[:3])
    part = toy().subset(per_class=2)
    np.testing.assert_array_equal(part.images, toy().images[:6])
    assert part.classes == toy().classes and part.mean == toy().mean
    small = data.load("fashion-mnist-small").subset(per_class=7)
    assert small.counts.tolist() == [7] * 10


@pytest.mark.parametrize("n", [0, -1, 3])
def test_subset_refuses(n):
    with pytest.raises(ValueError, match=r"per_class must be in \[1, 2\]"):
        toy().subset(per_class=n)


def test_arrays_are_read_only_and_labels_replaceable():
    got = toy()
    for array in (got.images, got.labels):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    noisy = dataclasses.replace(got, labels=got.labels[::-1])
    assert noisy.labels.tolist() == got.labels.tolist()[::-1]
    assert noisy.mean == got.mean


def test_dataset_leaves_the_callers_array_alone():
    images = np.zeros((1, 1, 2, 2), np.uint8)
    labels = np.zeros(1, np.int64)
    data.Dataset("toy", "train", images, labels, ("a",), (0.0,), (1.0,))
    images[0], labels[0] = 1, 1


@pytest.mark.parametrize("change, words", [
    ({"images": np.zeros((7, 2, 2), np.uint8)}, r"\(7, 2, 2\)"),
    ({"images": np.zeros((7, 3, 2, 2))}, "float64"),
    ({"labels": np.zeros(6, int)}, r"\(6,\)"),
    ({"labels": np.zeros(7)}, "float64"),
    ({"labels": np.full(7, 3)}, r"\[0, 3\)"),
    ({"labels": np.full(7, -1)}, "-1"),
])
def test_dataset_refuses(change, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(toy(), **change)


def test_tensors_are_standardized_by_the_training_split():
    train, test = (data.load("fashion-mnist-small", split) for split in data.SPLITS)
    x, y = train.tensors()
    assert x.shape == (6000, 1, 28, 28) and x.dtype == torch.float32
    assert y.shape == (6000,) and y.dtype == torch.int64
    assert abs(x.double().mean()) < 1e-6 and abs(x.double().std(correction=0) - 1) < 1e-6
    assert test.mean == train.mean and train.subset(per_class=5).std == train.std
    x, y = test.tensors()
    expected = (test.images / 255 - train.mean[0]) / train.std[0]
    np.testing.assert_allclose(x.numpy(), expected, atol=1e-6)
    np.testing.assert_array_equal(y.numpy(), test.labels)


def test_tensors_channels_dtype_and_overrides():
    got = toy()
    scaled = got.images / 255
    x, _ = got.tensors(dtype=torch.float64)
    mean, std = (np.array(v).reshape(3, 1, 1) for v in (got.mean, got.std))
    np.testing.assert_allclose(x.numpy(), (scaled - mean) / std, atol=1e-15)
    x, _ = got.tensors(mean=0, std=1)
    np.testing.assert_allclose(x.numpy(), scaled, atol=1e-7)
    assert got.tensors(dtype=torch.bfloat16)[0].dtype == torch.bfloat16
    assert got.tensors("meta")[0].device.type == "meta"
    x, y = got.tensors()
    x.zero_(), y.zero_()  # a copy: the data set keeps its values
    assert got.images.any() and got.labels.any()


@pytest.mark.parametrize("change", [
    {"mean": (0, 0)}, {"std": (1, 1)}, {"std": 0}, {"std": (1, -1, 1)}, {"mean": float("nan")},
])
def test_tensors_refuse(change):
    with pytest.raises(ValueError, match=r"mean|std"):
        toy().tensors(**change)


# --- look-up -------------------------------------------------------------------------------------


def test_unknown_names():
    with pytest.raises(ValueError, match=r"'mnist'.*fashion-mnist-small.*cifar100"):
        data.load("mnist")
    with pytest.raises(ValueError, match="split"):
        data.load("cifar10", "valid")


def put(folder, **blobs):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "images.gz").write_bytes(blobs.get("images", IMAGES_GZ))
    (folder / "labels.gz").write_bytes(blobs.get("labels", LABELS_GZ))
    return folder


def check_idx(got):
    np.testing.assert_array_equal(got.images, IMAGES[:, None])
    assert got.labels.tolist() == LABELS.tolist()


def test_places_in_order(serve, home, monkeypatch):
    """Each place hides the later ones: they hold broken files."""
    seen = serve("ok", system=home / "system", package="some-package")
    places = [home / "root", home / "env", home / "system", home / "cache" / "idx"]
    for place in places:
        put(place, images=b"broken")
    monkeypatch.setenv("NCLIB_DATA", str(home / "env"))
    for place in places:
        root = place if place == home / "root" else None
        with pytest.raises(data.DataError) as caught:
            data.load("idx", root=root)
        message = str(caught.value)
        assert str(place / "images.gz") in message and "truncated or damaged" in message
        cure = {0: "leave out root=", 2: "apt-get install --reinstall some-package"}.get(
            places.index(place), "Delete this file"
        )
        assert cure in message
        put(place)
        check_idx(data.load("idx", root=root))
        for name in ("images.gz", "labels.gz"):
            (place / name).unlink()
    assert not seen


def test_subfolder_and_recompressed_copy(serve, home):
    """A copy with another gzip header has the same content, and that is what is verified."""
    serve("ok")
    put(home / "root" / "idx", images=gzip.compress(idx(IMAGES), 1, mtime=7))
    check_idx(data.load("idx", root=str(home / "root")))


def test_root_missing_file(serve, home):
    seen = serve("ok")
    put(home / "cache" / "idx")
    with pytest.raises(data.DataError, match=r"images\.gz is not in .*nowhere.*root="):
        data.load("idx", root=home / "nowhere")
    assert not seen and not (home / "nowhere").exists()


def test_download_false(serve, home):
    seen = serve("ok", package="some-package")
    with pytest.raises(data.DataError) as caught:
        data.load("idx", download=False)
    for words in ("images.gz", str(home / "cache"), "download=False", "some-package", "NCLIB_DATA"):
        assert words in str(caught.value)
    assert not seen and files(home) == []


@pytest.mark.parametrize("blob, words", [
    (gzip.compress(idx(IMAGES + 1)), "wrong checksum: sha256"),
    (IMAGES_GZ[:-9], "truncated"),
    (IMAGES_GZ[:-1], "truncated"),
    (b"", "wrong checksum"),
    (b"<html>not found</html>", "damaged"),
    (IMAGES_GZ[:20] + b"\xff" * 20 + IMAGES_GZ[40:], "damaged|wrong checksum"),
])
def test_broken_cached_file_is_not_passed_over(serve, home, blob, words):
    seen = serve("ok")
    path = put(home / "cache" / "idx", images=blob) / "images.gz"
    with pytest.raises(data.DataError, match=words) as caught:
        data.load("idx")
    assert str(path) in str(caught.value) and "Delete this file" in str(caught.value)
    assert path.read_bytes() == blob and not seen


def test_broken_archive_in_cache(serve, home):
    seen = serve("ok")
    path = home / "cache" / "ten" / "ten.tar.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(CIFAR10_TAR[: len(CIFAR10_TAR) // 2])
    with pytest.raises(data.DataError, match=r"ten\.tar\.gz is broken: wrong checksum"):
        data.load("ten")
    assert not seen


def test_cache_dir(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data.cache_dir() == tmp_path / "nclib"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data.cache_dir() == Path.home() / ".cache" / "nclib"


# --- downloads -----------------------------------------------------------------------------------


def test_download_then_cache(serve, home):
    seen = serve("ok")
    check_idx(data.load("idx"))
    assert seen == ["/ok/images.gz", "/ok/labels.gz"]
    assert files(home) == ["cache/idx/images.gz", "cache/idx/labels.gz"]
    check_idx(data.load("idx", "test", download=False))
    assert len(seen) == 2


def test_download_goes_to_nclib_data(serve, home, monkeypatch):
    serve("ok")
    monkeypatch.setenv("NCLIB_DATA", str(home / "mine"))
    check_idx(data.load("idx"))
    assert files(home) == ["mine/idx/images.gz", "mine/idx/labels.gz"]


@pytest.mark.parametrize("how, words", [
    ("wrong", "damaged"),
    ("short", "IncompleteRead|wrong checksum|truncated"),
    ("half", "truncated"),
    ("gone", "404"),
    ("dead", "refused"),
])
def test_failed_download(serve, home, how, words):
    serve(how, package="some-package")
    with pytest.raises(data.DataError, match=words) as caught:
        data.load("idx")
    message = str(caught.value)
    for part in ("images.gz", f"/{how}/images.gz", str(home / "cache"), "Check the network",
                 "some-package", "fashion-mnist-small"):
        assert part in message
    assert files(home) == []
    assert caught.value.__context__ is None  # one error, not a chain of them


@pytest.mark.parametrize("how", ["wrong", "short", "half"])
def test_failed_archive(serve, home, how):
    serve(how)
    with pytest.raises(data.DataError, match=r"wrong checksum: sha256|IncompleteRead"):
        data.load("ten")
    assert files(home) == []


@pytest.mark.parametrize("first", ["wrong", "short", "half", "gone", "dead"])
def test_next_mirror(serve, home, first):
    seen = serve(first, "ok")
    check_idx(data.load("idx"))
    assert seen[-1] == "/ok/labels.gz"
    assert files(home) == ["cache/idx/images.gz", "cache/idx/labels.gz"]


def test_all_mirrors_are_named(serve):
    serve("gone", "wrong")
    with pytest.raises(data.DataError, match=r"(?s)/gone/images\.gz.*/wrong/images\.gz"):
        data.load("idx")


def test_silent_server(home, serve, monkeypatch):
    """A server that accepts and never answers is given up after TIMEOUT."""
    serve("ok")
    monkeypatch.setattr(fetch, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/ten.tar.gz"
        file = data.File("ten.tar.gz", (sha(CIFAR10_TAR),), (url,))
        source = dataclasses.replace(registry.SOURCES["ten"], files={"train": (file,)})
        monkeypatch.setitem(registry.SOURCES, "ten", source)
        with pytest.raises(data.DataError, match="timed out"):
            data.load("ten")
    assert files(home) == []


def test_ctrl_c_leaves_nothing(serve, home, monkeypatch):
    import pooch

    def interrupted(self, url, out, pooch):
        out.write(b"part")
        out.flush()
        assert len(files(home)) == 1
        raise KeyboardInterrupt

    serve("ok")
    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        data.load("idx")
    assert files(home) == []


def test_without_pooch(serve, home, monkeypatch):
    seen = serve("ok", package="some-package")
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(data.DataError, match=r"pip install pooch.*some-package"):
        data.load("idx")
    assert not seen
    put(home / "cache")  # files at hand need no pooch
    check_idx(data.load("idx"))


def test_folder_that_cannot_be_written(serve, home, monkeypatch):
    serve("ok")
    (home / "file").write_text("not a folder")
    monkeypatch.setenv("NCLIB_DATA", str(home / "file"))
    with pytest.raises(data.DataError, match=r"cannot write to .*NCLIB_DATA"):
        data.load("idx")
    assert files(home) == ["file"]


def test_many_at_once(serve, home):
    serve("ok")
    start, got, errors = threading.Barrier(6), [], []

    def work():
        start.wait()
        try:
            got.append(data.load("ten"))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and len(got) == 6
    assert files(home) == ["cache/ten/ten.tar.gz"]
    assert (home / "cache/ten/ten.tar.gz").read_bytes() == CIFAR10_TAR


# --- formats -------------------------------------------------------------------------------------


def test_cifar10(serve, home):
    serve("ok")
    train, test = data.load("ten", "train"), data.load("ten", "test")
    table = np.concatenate(BATCHES[:5])  # by batch number, not by place in the archive
    assert train.images.shape == (20, 3, 32, 32)
    assert train.labels.tolist() == table[:, 0].tolist()
    # red first, row by row
    np.testing.assert_array_equal(train.images[3, 0, 1], table[3, 1 + 32 : 1 + 64])
    np.testing.assert_array_equal(train.images[3, 2, 31], table[3, -32:])
    np.testing.assert_array_equal(test.images.reshape(4, -1), BATCHES[5][:, 1:])
    # members with other names, be they ../ or absolute, were left where they are
    assert files(home) == ["cache/ten/ten.tar.gz"]
    assert not (home.parent / "outside.txt").exists()


def test_cifar100_has_fine_labels(serve):
    serve("ok")
    train, test = data.load("hundred", "train"), data.load("hundred", "test")
    assert train.labels.tolist() == [0, 1, 2, 3, 4] == FINE[0][:, 1].tolist()
    np.testing.assert_array_equal(test.images.reshape(5, -1), FINE[1][:, 2:])


def test_archive_without_its_member():
    with pytest.raises(ValueError, match=r"no cifar-100-binary/train\.bin"):
        formats._parse_cifar100("train", CIFAR10_TAR)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        link = tarfile.TarInfo("cifar-100-binary/train.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(ValueError, match=r"no cifar-100-binary/train\.bin"):
        formats._parse_cifar100("train", buffer.getvalue())


@pytest.mark.parametrize("blob", [b"", bytes(3072), bytes(3074), bytes(2 * 3073 - 1)])
def test_records_refuse(blob):
    with pytest.raises(ValueError, match="3073-byte records"):
        formats._records(blob, 1)


def test_verified_content_of_the_wrong_form_is_a_data_error(serve, home):
    serve("ok", parse=formats._parse_cifar100)
    with pytest.raises(data.DataError, match=r"cannot read 'ten' \(train\): ten\.tar\.gz"):
        data.load("ten")


@pytest.mark.parametrize("blob, words", [
    (b"", "not an idx file"),
    (idx(IMAGES)[:12], "not an idx file"),
    (b"\1" + idx(IMAGES)[1:], "not an idx file"),
    (b"\0\0\x0d\3" + idx(IMAGES)[4:], "not an idx file"),  # floats
    (idx(LABELS), "not an idx file of 3-d"),
    (idx(IMAGES)[:-1], "promises"),
    (idx(IMAGES) + b"\0", "promises"),
    (b"\0\0\x08\3" + b"\xff" * 12, "promises"),
])
def test_idx_refuses(blob, words):
    with pytest.raises(ValueError, match=words):
        formats._idx(blob, 3)


def test_npz_never_unpickles():
    buffer = io.BytesIO()
    np.savez(buffer, train_images=np.array([{}], dtype=object), train_labels=np.zeros(1))
    with pytest.raises(ValueError, match="allow_pickle"):
        formats._parse_npz("train", buffer.getvalue())
    with pytest.raises(ValueError, match="no array"):
        formats._parse_npz("test", buffer.getvalue())


def test_no_pickle_and_nothing_heavy_at_import():
    sources = sorted(Path(data.__file__).parent.glob("*.py"))
    text = "\n".join(path.read_text() for path in sources)
    tree = ast.parse(text.replace("from __future__ import annotations", ""))
    top = {a.name.split(".")[0] for n in tree.body if isinstance(n, ast.Import) for a in n.names}
    absolute = [n for n in tree.body if isinstance(n, ast.ImportFrom) if not n.level]
    top |= {n.module.split(".")[0] for n in absolute}
    assert top - set(sys.stdlib_module_names) == {"numpy"}
    names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} | top
    assert not names & {"pickle", "marshal", "joblib", "eval", "exec"}
    loads = [
        n for n in ast.walk(tree)
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute) and n.func.attr == "load"
    ]
    assert loads
    for call in loads:
        assert [k.value.value for k in call.keywords if k.arg == "allow_pickle"] == [False]
    code = "import sys, nclib.data; sys.exit('pooch' in sys.modules or 'requests' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=DATA.parent.parent).returncode == 0


def test_registry():
    assert list(registry.SOURCES) == ["fashion-mnist-small", "fashion-mnist", "cifar10", "cifar100"]
    assert [len(s.classes) for s in registry.SOURCES.values()] == [10, 10, 10, 100]
    for source in registry.SOURCES.values():
        assert sorted(source.files) == sorted(data.SPLITS)
        assert len(set(source.classes)) == len(source.classes)
        assert len(source.mean) == len(source.std) in (1, 3)
        for file in {file for part in source.files.values() for file in part}:
            for digest in file.digests:
                method, _, value = digest.partition(":")
                assert len(value) == {"sha256": 64, "md5": 32}[method]
            assert all(url.endswith("/" + file.name) for url in file.urls)
    assert list(data.CIFAR100_CLASSES) == sorted(data.CIFAR100_CLASSES)
    assert list(data.CIFAR10_CLASSES) == sorted(data.CIFAR10_CLASSES)
