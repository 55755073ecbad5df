"""One look for all chapters: a style, a palette safe for color-blind readers, bands, animations."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import cards

#: Okabe and Ito's palette without its yellow, too light for lines, and without black.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
#: Axes, text and neutral marks: legible on a white and on a dark page.
INK = "#7a818c"

_DPI = 100  # on the page; pixels are stored at twice that
_STYLE = {
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.prop_cycle": mpl.cycler(color=COLORS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlesize": "medium",
    "figure.constrained_layout.use": True,
    "figure.dpi": _DPI,
    "figure.edgecolor": "none",
    "figure.facecolor": "none",
    "figure.figsize": (5.6, 3.4),
    "font.size": 11,
    "grid.alpha": 0.3,
    "grid.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "savefig.facecolor": "none",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def use_style() -> None:
    """Apply the book's style to the figures that follow: transparent, neutral ink, sharp.

    In a notebook figures are drawn at 200 dpi and shown at half that size.
    """
    mpl.rcParams.update(_STYLE)
    try:
        from IPython import get_ipython
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:
        return
    if get_ipython() is not None:
        set_matplotlib_formats("retina")


def _numpy(values) -> np.ndarray:
    """Array of a tensor on any device, or of nested sequences of them."""
    if hasattr(values, "detach"):
        return values.detach().cpu().numpy()
    if isinstance(values, list | tuple):
        return np.asarray([_numpy(v) for v in values])
    return np.asarray(values)


def band(ax: Axes, x, ys, *, color: str, label: str | None = None, **line) -> None:
    """Median of several runs as a line, their range as a band.

    Args:
        x: ``(T,)`` positions.
        ys: ``(S, T)`` values, one row a run; tensors may live on any device.
        line: further arguments of ``Axes.plot``.

    Raises:
        ValueError: shapes that do not fit.
    """
    x, ys = _numpy(x), _numpy(ys)
    if ys.ndim != 2 or ys.shape[1] != len(x):
        raise ValueError(f"expected ys of shape (S, {len(x)}), got {ys.shape}")
    ax.plot(x, np.median(ys, axis=0), color=color, label=label, **line)
    ax.fill_between(x, ys.min(axis=0), ys.max(axis=0), color=color, alpha=0.2, linewidth=0)


def table(head: Sequence[str], rows: Sequence[Sequence]) -> None:
    """Show a table. Floats are rounded to three digits and may differ between runs; integers and
    text are compared to the letter; text may hold ``$…$`` in the small TeX subset of claims.

    Raises:
        ValueError: a row that is not as long as the head, or a formula outside the subset.
    """
    rows = [[v.item() if hasattr(v, "item") else v for v in row] for row in rows]
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"a row has {len(row)} cells, the head {len(head)}: {row}")
    cards.show(cards.table_text(head, rows), cards.table_html(head, rows), {})


def animation(
    fig: Figure, draw: Callable[[object], None], frames: Sequence, *, milliseconds: int = 120,
    hold: int = 1500, colors: int = 64, poster: int | None = -1, dpi: int = 140,
):
    """Animate ``draw(frame)`` over ``frames`` as one animated PNG, which every browser plays.

    The frames share a palette of ``colors`` colors taken over all of them. The figure is closed.

    Args:
        poster: index of the frame that is shown first and held (by default the last one), so that
            a still of the animation tells its end; ``None`` starts with the first frame.
        dpi: pixels per inch that are stored; on the page an inch is 100 pixels.

    Returns:
        An ``IPython.display.Image``; its ``data`` is the file.

    Raises:
        ValueError: no frames.
    """
    from IPython.display import Image
    from PIL import Image as Pillow

    if not len(frames):
        raise ValueError("an animation needs at least one frame")
    width = round(fig.get_figwidth() * _DPI)
    fig.set_dpi(dpi)
    pictures = []
    for frame in frames:
        draw(frame)
        fig.canvas.draw()
        pictures.append(np.asarray(fig.canvas.buffer_rgba()).copy())
    plt.close(fig)
    durations = [milliseconds] * (len(pictures) - 1) + [hold]
    if poster is not None and len(pictures) > 1:
        pictures.insert(0, pictures[poster])
        durations.insert(0, hold)
    flat = _indexed(pictures, colors)
    buffer = io.BytesIO()
    Pillow.Image.save(
        flat[0], buffer, format="PNG", save_all=True, append_images=flat[1:],
        duration=durations, loop=0, optimize=True,
    )
    return Image(data=buffer.getvalue(), format="png", width=width)


def _indexed(pictures: list[np.ndarray], colors: int) -> list:
    """RGBA pictures ``(H, W, 4)`` as palette images that share the best palette of all of them."""
    from PIL import Image as Pillow

    packed = [p.view(np.uint32)[..., 0] for p in pictures]
    unique, counts = np.unique(np.concatenate([p.ravel() for p in packed]), return_counts=True)
    # the most frequent color (the ground) keeps an entry of its own
    ground = unique[counts.argmax()]
    others = unique[unique != ground]
    weights = np.minimum(counts[unique != ground], 50)  # rare colors count, large areas do not rule
    sample = np.repeat(others, weights)
    index = np.zeros(len(unique), dtype=np.uint8)
    palette = [*ground.reshape(1).view(np.uint8)]
    if len(others):
        strip = Pillow.fromarray(sample.view(np.uint8).reshape(1, -1, 4), "RGBA")
        small = strip.quantize(colors - 1, method=Pillow.Quantize.FASTOCTREE)
        found = np.asarray(small)[0][np.cumsum(weights) - 1]
        index[unique != ground] = found + 1
        palette += small.im.getpalette("RGBA", "RGBA")[: 4 * (colors - 1)]
    alpha = np.asarray(palette[3::4])
    palette[3::4] = np.where(alpha > 245, 255, np.where(alpha < 10, 0, alpha)).tolist()
    flat = []
    for p in packed:
        image = Pillow.fromarray(index[np.searchsorted(unique, p)], "P")
        image.putpalette(bytes(palette), "RGBA")
        flat.append(image)
    return flat
