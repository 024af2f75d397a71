"""The shared parts of plots."""

from __future__ import annotations

import io
from itertools import islice
from typing import TYPE_CHECKING

from matplotlib.colors import to_rgba

from lockstep_client import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def two_plots() -> Figure:
    figure = figures.new_figure(6, 3)
    for at, (colour, marker) in enumerate(islice(figures.series_styles(), 2), 1):
        axes = figures.new_axes(figure, 1, 2, at, title="title", x_label="words", y_label="ms")
        axes.plot([1, 10, 100], [1, 5, 20], color=colour, marker=marker, label="shared")
        figures.log_x_at(axes, [1, 10, 1000])
    return figure


def svg(figure: Figure, salt: str = "salt") -> str:
    out = io.StringIO()
    with figures.svg_settings(salt):
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def test_thirty_series_differ_in_colour_or_marker():
    assert len(set(islice(figures.series_styles(), 30))) == 30


def test_text_and_lines_are_grey_on_a_transparent_background():
    figure = two_plots()
    for axes in figure.axes:
        assert to_rgba(axes.get_facecolor())[3] == 0
        assert {axes.title.get_color(), axes.xaxis.label.get_color(), axes.yaxis.label.get_color()} == {
            figures.INK
        }
    assert to_rgba(figure.get_facecolor())[3] == 0


def test_a_label_shared_by_several_axes_is_in_the_legend_once():
    figure = two_plots()
    figures.draw_legend_below(figure, 4)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["shared"]


def test_axes_without_labelled_series_get_no_legend():
    axes = figures.new_axes(figures.new_figure(3, 3))
    figures.draw_legend(axes)
    assert axes.get_legend() is None


def test_the_same_plot_gives_the_same_svg_with_text_as_text():
    assert svg(two_plots()) == svg(two_plots()) != svg(two_plots(), "other")
    assert all(f">{text}</text>" in svg(two_plots()) for text in ("title", "words", "ms", "1,000"))
