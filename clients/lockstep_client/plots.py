"""The plots of the verbs: the attention of a translation, the times of a race."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import islice
from typing import TYPE_CHECKING

from lockstep_client import extras
from lockstep_client.figures import (
    draw_colour_bar,
    draw_grid,
    draw_legend_below,
    new_axes,
    new_figure,
    series_styles,
)
from lockstep_client.texts import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lockstep_client.race import RaceResult
    from lockstep_client.stream_results import Translation
    from lockstep_client.writing import WritingResult

_STYLES = dict(zip(("step-wise", "fused", "one-shot", "re-encoding"), series_styles(), strict=False))
"""Colour and marker of each way of a race."""


def checked_path(path: Path | None) -> Path | None:
    """Return `path` unchanged. Raises InputError if no plot can be drawn there.

    Verbs call this before the first request.
    """
    if path is None:
        return None
    if not find_spec("matplotlib"):
        raise InputError(extras.missing("--plot", "matplotlib", "plot"))
    from matplotlib.backend_bases import FigureCanvasBase

    kinds = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.lower().removeprefix(".") not in kinds:
        raise InputError(f"--plot {path}: unsupported file type; use .png, .svg or .pdf")
    if not path.parent.is_dir():
        raise InputError(f"--plot {path}: no folder {path.parent}")
    return path


def attention(path: Path, source: str, translation: Translation) -> None:
    """Plot the attention of a translation: source tokens on the x axis, its own tokens on the y axis."""
    weights = translation.attention
    assert weights is not None
    rows, columns = weights.shape
    figure = new_figure(2.5 + 0.45 * columns, 2.2 + 0.32 * rows)
    title = f"Attention of each token over the source\n{_short(source)}"
    axes = new_axes(figure, title=title, x_label="source", y_label="translation")
    image = axes.imshow(weights, vmin=0, vmax=1, cmap="magma", aspect="auto")
    axes.set_xticks(range(columns), translation.source_tokens, rotation=45, ha="right")
    axes.set_yticks(range(rows), translation.pieces)
    draw_colour_bar(axes, image, "weight")
    save(figure, path)


def race(path: Path, results: Sequence[RaceResult], written: Sequence[WritingResult] = ()) -> None:
    """Plot the times to the first and last prediction, the compute time, by text length, and the compute time
    of one more token of each writer, by context."""
    columns = 2 + bool(written)
    figure = new_figure(5 * columns, 5)
    waiting = _by_length(figure, 1, columns, "Time to prediction")
    compute = _by_length(figure, 2, columns, "Total compute time on the server")
    for contender in dict.fromkeys(result.contender for result in results if result.time):
        measured = [(r.words, r.time) for r in results if r.contender == contender and r.time]
        words, name = [words for words, _ in measured], f"{contender.way} {contender.model}"
        colour, mark = _STYLES[contender.way]
        if contender.follows:
            first_ms = [time.first_s * 1e3 for _, time in measured]
            waiting.plot(
                words, first_ms, color=colour, marker=mark, ls=":", label=f"{name}: first prediction"
            )
        last_ms = [time.last_s * 1e3 for _, time in measured]
        waiting.plot(words, last_ms, color=colour, marker=mark, label=f"{name}: whole text read")
        compute.plot(words, [time.compute_s * 1e3 for _, time in measured], color=colour, marker=mark)
    if written:
        _draw_writers(_by_length(figure, 3, columns, "Compute time of one more token", "characters"), written)
    draw_legend_below(figure, 2)
    save(figure, path)


def _draw_writers(axes: Axes, written: Sequence[WritingResult]) -> None:
    names = dict.fromkeys(one.model for one in written)
    for model, (colour, mark) in zip(names, islice(series_styles(), len(_STYLES), None), strict=False):
        timed = [(one.characters, one.time) for one in written if one.model == model and one.time]
        times_ms = [time.compute_per_token_s * 1e3 for _, time in timed]
        axes.plot([at for at, _ in timed], times_ms, color=colour, marker=mark, label=f"writing {model}")


def _by_length(figure: Figure, at: int, columns: int, title: str, unit: str = "words") -> Axes:
    axes = new_axes(figure, 1, columns, at, title=title, x_label=unit, y_label="milliseconds")
    axes.set(xscale="log", yscale="log")
    draw_grid(axes)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,g}")
    return axes


def save(figure: Figure, path: Path) -> None:
    """Write `figure` to `path`. Raises InputError if it cannot be written."""
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise InputError(f"--plot {path}: {error.strerror}") from None


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"
