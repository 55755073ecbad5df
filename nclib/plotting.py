"""One look for all chapters: a style, a palette safe for color-blind readers, bands, animations."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

#: Okabe and Ito's palette without its yellow, which is too light for lines.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

_STYLE = {
    "axes.grid": True,
    "axes.prop_cycle": mpl.cycler(color=COLORS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "figure.figsize": (6.4, 3.6),
    "font.size": 10,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "savefig.dpi": 100,
}


def use_style() -> None:
    """Apply the book's Matplotlib style to the figures that follow."""
    mpl.rcParams.update(_STYLE)


def band(ax: Axes, x, ys, *, color: str, label: str | None = None, **line) -> None:
    """Median of several runs as a line, their range as a band.

    Args:
        x: ``(T,)`` positions.
        ys: ``(S, T)`` values, one row a run.
        line: further arguments of ``Axes.plot``.

    Raises:
        ValueError: shapes that do not fit.
    """
    ys = np.asarray(ys)
    if ys.ndim != 2 or ys.shape[1] != len(x):
        raise ValueError(f"expected ys of shape (S, {len(x)}), got {ys.shape}")
    ax.plot(x, np.median(ys, axis=0), color=color, label=label, **line)
    ax.fill_between(x, ys.min(axis=0), ys.max(axis=0), color=color, alpha=0.2, linewidth=0)


def animation(
    fig: Figure, draw: Callable[[object], None], frames: Sequence, *, milliseconds: int = 120,
    hold: int = 1500, colors: int = 64,
):
    """Animate ``draw(frame)`` over ``frames`` as one animated PNG, which every browser plays.

    The frames share a palette of ``colors`` colors, taken from the last one, and only what changes
    between frames is stored. The figure is closed.

    Returns:
        An ``IPython.display.Image``; its ``data`` is the file.

    Raises:
        ValueError: no frames.
    """
    from IPython.display import Image
    from PIL import Image as Pillow

    if not len(frames):
        raise ValueError("an animation needs at least one frame")
    pictures = []
    for frame in frames:
        draw(frame)
        fig.canvas.draw()
        pictures.append(Pillow.fromarray(np.asarray(fig.canvas.buffer_rgba())[..., :3].copy()))
    plt.close(fig)
    palette = pictures[-1].quantize(colors - 1)
    table = [*palette.getpalette()[: 3 * (colors - 1)], 255, 255, 255]
    flat = []
    for picture in pictures:
        index = np.array(picture.quantize(palette=palette, dither=Pillow.Dither.NONE))
        index[(np.asarray(picture) == 255).all(axis=-1)] = len(table) // 3 - 1  # white stays white
        flat.append(Pillow.fromarray(index))
        flat[-1].putpalette(table)
    durations = [milliseconds] * (len(flat) - 1) + [hold]
    buffer = io.BytesIO()
    flat[0].save(
        buffer, format="PNG", save_all=True, append_images=flat[1:], duration=durations, loop=0,
        optimize=True,
    )
    return Image(data=buffer.getvalue(), format="png")
