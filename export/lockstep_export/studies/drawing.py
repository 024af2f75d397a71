"""Panels to an SVG file with matplotlib (the extra `plot`): labelled, and readable on light and dark pages.

Text stays text, ink is halfway between black and white, and the background is left clear. The same panels
give the same bytes, so a picture changes only where a number does.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lockstep_export.errors import ExportError
from lockstep_export.studies.study import Panel

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#808080"
COLOURS = ("#1f9e89", "#d95f02", "#7570b3", "#d6418b", "#66a61e", "#b8860b")
MARKS = "os^Dv"  # another cycle than the colours', so that two lines seldom share both
WIDTH, HEIGHT = 5.2, 4.4  # inches, of one panel
BAR, FRAME = 0.3, 1.2  # inches: of one bar, and around all of them
STYLE: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "lockstep", "font.size": 10}


def check_drawing() -> None:
    """Raises ExportError where matplotlib is not installed."""
    if not find_spec("matplotlib"):
        raise ExportError("a study is drawn with matplotlib: pip install 'lockstep[plot]'")


def draw(panels: Sequence[Panel], path: Path) -> None:
    """Writes the panels side by side as SVG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    height = max(HEIGHT, *(FRAME + BAR * len(panel.bars) for panel in panels))
    with mpl.rc_context(STYLE):
        figure = Figure((WIDTH * len(panels), height), layout="constrained", facecolor="none")
        for index, panel in enumerate(panels, 1):
            _chart(figure.add_subplot(1, len(panels), index, facecolor="none"), panel)
        _legend(figure)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _chart(axes: "Axes", panel: Panel) -> None:
    axes.set_title(panel.title, color=INK, fontsize=11)
    axes.set(xlabel=panel.x_label, ylabel=panel.y_label)
    (_bars if panel.bars else _lines)(axes, panel)
    if panel.x_range:
        axes.set_xlim(*panel.x_range)
    if panel.y_range:
        axes.set_ylim(*panel.y_range)
    _ink(axes)


def _lines(axes: "Axes", panel: Panel) -> None:
    for line, colour, mark in zip(panel.lines, cycle(COLOURS), cycle(MARKS), strict=False):
        axes.plot(
            line.x, line.y, ls=":" if line.dotted else "-", color=colour, label=line.label,
            marker=mark if panel.marks else "", markersize=5,
        )  # fmt: skip
    axes.set(xscale="log" if panel.log_x else "linear", yscale="log" if panel.log_y else "linear")
    if panel.log_x:
        axes.xaxis.set_major_formatter("{x:,g}")
    axes.grid(color=INK, alpha=0.25)


def _bars(axes: "Axes", panel: Panel) -> None:
    names, values = zip(*panel.bars, strict=True)
    bars = axes.barh(range(len(names)), values, color=COLOURS[0], height=0.6)
    axes.bar_label(bars, fmt="{:,.3g}", padding=3, color=INK, fontsize=9)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(axis="x", color=INK, alpha=0.25)


def _ink(axes: "Axes") -> None:
    axes.tick_params(colors=INK, which="both")
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(INK)
    for side in axes.spines.values():
        side.set_color(INK)


def _legend(figure: "Figure") -> None:
    """One for all panels: a name that several of them show stands in it once."""
    shown: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            shown.setdefault(label, handle)
    if len(shown) > 1:
        figure.legend(
            list(shown.values()), list(shown), loc="outside lower center", ncols=min(4, len(shown)),
            fontsize=9, labelcolor=INK, facecolor="none", edgecolor="none",
        )  # fmt: skip
