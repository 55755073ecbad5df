"""The data sets: their files with checksums, and what they show."""

from __future__ import annotations

from pathlib import Path

from .fetch import File, Source
from .formats import _parse_cifar10, _parse_cifar100, _parse_idx, _parse_npz

SPLITS = ("train", "test")

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
ROBOTS = File(
    "mujoco-small.npz",
    ("sha256:8751cc2ba31541ab742c4340a3c2c1d17b7493d75110c944f7b822158bfd7a0c",),
)
