"""Plot helpers."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from nclib import plotting


@pytest.fixture(autouse=True)
def agg():
    plt.switch_backend("agg")
    yield
    plt.close("all")


def test_animation_is_an_animated_png():
    fig, ax = plt.subplots(figsize=(2, 2))
    picture = plotting.animation(fig, lambda k: (ax.clear(), ax.plot([0, k], [0, 1])), range(5))
    assert picture.data[:8] == b"\x89PNG\r\n\x1a\n"
    image = Image.open(io.BytesIO(picture.data))
    assert image.n_frames == 5 and image.info["loop"] == 0
    assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    image.seek(4)
    last = np.asarray(image.convert("RGB"))
    image.seek(1)
    assert (np.asarray(image.convert("RGB")) != last).any()
    assert not plt.get_fignums()


def test_animation_needs_frames():
    with pytest.raises(ValueError, match="at least one frame"):
        plotting.animation(plt.figure(), lambda k: None, [])


def test_band():
    _, ax = plt.subplots()
    plotting.band(ax, [1, 2], [[0, 1], [2, 3], [4, 8]], color="k", label="x")
    assert ax.lines[0].get_ydata().tolist() == [2, 3]
    with pytest.raises(ValueError, match="shape"):
        plotting.band(ax, [1, 2, 3], [[0, 1]], color="k")


def test_palette_is_distinguishable_in_gray():
    from matplotlib.colors import to_rgb

    gray = sorted(np.dot(to_rgb(c), [0.299, 0.587, 0.114]) for c in plotting.COLORS)
    assert len(set(plotting.COLORS)) == 7 and min(np.diff(gray)) > 0.01
