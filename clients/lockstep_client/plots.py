"""Pictures, drawn with matplotlib (the extra `plot`): labelled, and readable on light and dark pages."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from lockstep_client.texts import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lockstep_client.stream_results import Translation

INK = "#808080"
"""Of all text and lines: in the middle between black and white, and the background is left clear."""


def checked_path(path: Path | None) -> Path | None:
    """The path as it is given, where a picture can be drawn and written there; else InputError.

    For a verb to call before it asks the server anything.
    """
    if path is None:
        return None
    if not find_spec("matplotlib"):
        raise InputError("--plot needs matplotlib: pip install 'lockstep[plot]'")
    from matplotlib.backend_bases import FigureCanvasBase

    kinds = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.lower().removeprefix(".") not in kinds:
        raise InputError(f"--plot {path}: give a name that ends in .png, .svg or .pdf")
    if not path.parent.is_dir():
        raise InputError(f"--plot {path}: there is no folder {path.parent}")
    return path


def attention(path: Path, source: str, translation: Translation) -> None:
    """The attention of a translation: its source across, its tokens down."""
    weights = translation.attention
    assert weights is not None
    rows, columns = weights.shape
    figure = new_figure(2.5 + 0.45 * columns, 2.2 + 0.32 * rows)
    axes = new_axes(figure)
    image = axes.imshow(weights, vmin=0, vmax=1, cmap="magma", aspect="auto")
    axes.set_xticks(range(columns), translation.source_tokens, rotation=45, ha="right")
    axes.set_yticks(range(rows), translation.pieces)
    axes.set_xlabel("source")
    axes.set_ylabel("translation")
    axes.set_title(f"What each token looked at\n{_short(source)}", color=INK, fontsize=11)
    bar = figure.colorbar(image, ax=axes)
    bar.set_label("weight", color=INK)
    bar.ax.tick_params(colors=INK)
    save(figure, path)


def new_figure(width: float, height: float) -> Figure:
    """A clear sheet, in inches."""
    from matplotlib.figure import Figure

    return Figure((width, height), layout="constrained", facecolor="none")


def new_axes(figure: Figure, rows: int = 1, columns: int = 1, at: int = 1) -> Axes:
    """Axes whose labels and lines are readable on any background."""
    axes: Axes = figure.add_subplot(rows, columns, at, facecolor="none")
    axes.tick_params(colors=INK, which="both")
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    for side in axes.spines.values():
        side.set_color(INK)
    return axes


def save(figure: Figure, path: Path) -> None:
    """Write it; InputError where that cannot be."""
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise InputError(f"--plot {path}: {error.strerror}") from None


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"
