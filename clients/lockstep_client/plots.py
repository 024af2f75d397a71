"""Pictures, drawn with matplotlib (the extra `plot`): labelled, and readable on light and dark pages."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from lockstep_client.texts import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lockstep_client.race import RaceResult
    from lockstep_client.stream_results import Translation

INK = "#808080"
"""Of all text and lines: in the middle between black and white, and the background is left clear."""

_LINES = {
    "step-wise": ("#1f9e89", "o"),
    "fused": ("#d95f02", "s"),
    "one-shot": ("#7570b3", "^"),
    "re-encoding": ("#d6418b", "D"),
}
"""Of each way of a race: colours of one brightness, and marks for who does not tell them apart."""


def checked_path(path: Path | None) -> Path | None:
    """The path as it is given, where a picture can be drawn and written there; else InputError.

    For a verb to call before it asks the server anything.
    """
    if path is None:
        return None
    if not find_spec("matplotlib"):
        raise InputError("--plot needs matplotlib: pip install 'lockstep-inference[plot]'")
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


def race(path: Path, results: Sequence[RaceResult]) -> None:
    """Time to the first and the last prediction, and compute, by the length of the text."""
    figure = new_figure(10, 5)
    waiting = _by_words(figure, 1, "Waiting for a prediction")
    compute = _by_words(figure, 2, "Compute on the server, in all")
    for who in dict.fromkeys(one.contender for one in results if one.lap):
        ran = [(one.words, one.lap) for one in results if one.contender == who and one.lap]
        words, name = [words for words, _ in ran], f"{who.way} {who.model}"
        colour, mark = _LINES[who.way]
        if who.follows:
            first_ms = [lap.first_s * 1e3 for _, lap in ran]
            waiting.plot(
                words, first_ms, color=colour, marker=mark, ls=":", label=f"{name}: first prediction"
            )
        last_ms = [lap.last_s * 1e3 for _, lap in ran]
        waiting.plot(words, last_ms, color=colour, marker=mark, label=f"{name}: whole text read")
        compute.plot(words, [lap.compute_s * 1e3 for _, lap in ran], color=colour, marker=mark)
    figure.legend(
        loc="outside lower center", ncols=2, fontsize=9, labelcolor=INK, facecolor="none", edgecolor="none"
    )
    save(figure, path)


def _by_words(figure: Figure, at: int, title: str) -> Axes:
    axes = new_axes(figure, 1, 2, at)
    axes.set(xscale="log", yscale="log", xlabel="words", ylabel="milliseconds")
    axes.set_title(title, color=INK, fontsize=11)
    axes.grid(which="major", color=INK, alpha=0.25)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,g}")
    return axes


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
