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
    assert image.n_frames == 6 and image.info["loop"] == 0  # the end stands first as well
    first = np.asarray(image.convert("RGBA"))
    image.seek(5)
    assert (np.asarray(image.convert("RGBA")) == first).all()
    image.seek(1)
    assert (np.asarray(image.convert("RGBA")) != first).any()
    assert not plt.get_fignums()


def test_palette_is_taken_over_all_frames():
    """A color that only the middle frame has stays that color, and transparency stays."""
    fig, ax = plt.subplots(figsize=(2, 2), facecolor="none")
    ax.axis("off")
    colors = ["#D55E00", "#0072B2", "#009E73"]

    def draw(k):
        ax.clear()
        ax.axis("off")
        ax.add_patch(plt.Rectangle((0.2, 0.2), 0.6, 0.6, color=colors[k]))

    picture = plotting.animation(fig, draw, range(3), poster=None)
    image = Image.open(io.BytesIO(picture.data))
    for k, color in enumerate(colors):
        image.seek(k)
        rgba = np.asarray(image.convert("RGBA"))
        middle = rgba[rgba.shape[0] // 2, rgba.shape[1] // 2]
        wanted = [int(color[i:i + 2], 16) for i in (1, 3, 5)]
        assert np.abs(middle[:3].astype(int) - wanted).max() <= 8 and middle[3] == 255
        assert rgba[0, 0, 3] == 0


def test_table_marks_floats(capsys):
    plotting.table(["a", r"$\lambda_W$"], [["x", 1.5], ["y", 3]])
    assert capsys.readouterr().out == "a | λ_W\nx | ≈[1.5]\ny | 3\n"
    with pytest.raises(ValueError, match="1 cells"):
        plotting.table(["a", "b"], [["x"]])


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
    assert len(set(plotting.COLORS)) == 6 and min(np.diff(gray)) > 0.01
