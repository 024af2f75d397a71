"""The plots of a report, as inline SVG. Text and axes use the page's text colour.

Documents → one Matplotlib figure each → SVG text. Series differ in colour and marker, and a series has the
same in every plot of a page.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from lockstep_client.figures import (
    INK,
    draw_grid,
    draw_legend,
    log_ticks,
    log_x_at,
    new_axes,
    new_figure,
    series_styles,
    svg_settings,
)
from lockstep_load.histogram import LatencyHistogram
from lockstep_load.results import PERCENTILES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lockstep_load.results import RunDocument, ServerSecond

WIDTH, HEIGHT = 4.6, 3.2
"""Inches. At 72 units per inch, a plot fills a phone's screen with text of its full size."""
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
_CURVE = (0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95, 99.99, 100.0)
_LATENCY, _TIME = "latency (ms)", "time (ms)"


class SeriesStyles:
    """The colour and marker of each series of a page, by name: the same in all of its plots."""

    def __init__(self) -> None:
        self._styles = series_styles()
        self._given: dict[str, dict[str, Any]] = {}

    def __call__(self, name: str) -> dict[str, Any]:
        """Options of Matplotlib's `plot`. A new name gets the next style."""
        if name not in self._given:
            colour, marker = next(self._styles)
            self._given[name] = {"color": colour, "marker": marker, "label": name}
        return self._given[name]


def by_percentile(styles: SeriesStyles, runs: Sequence[tuple[str, RunDocument]]) -> str:
    """Latency by percentile, on an axis that stretches the tail."""
    figure, axes = _new_plot("Latency by percentile", "requests that took at most this long (%)", _LATENCY)
    for name, run in runs:
        times = LatencyHistogram.decoded(run.histogram)
        shown = [one for one in _CURVE if one < 100 and times.count * (100 - one) / 100 >= 1]
        x = [1 / (1 - one / 100) for one in shown]
        axes.plot(x, times.percentiles_ms(shown), ms=4, **styles(name))
    axes.set_xscale("log")
    axes.set_xticks([1, 2, 10, 100, 1000, 10000], ["0", "50", "90", "99", "99.9", "99.99"])
    axes.xaxis.minorticks_off()
    _log_scale(axes)
    draw_legend(axes)
    return _svg(figure)


def latency_over_time(styles: SeriesStyles, run: RunDocument) -> str:
    """p50 and p99 latency of the requests due in each second."""
    figure, axes = _new_plot("Latency over time", "second in which requests were due", _LATENCY)
    for name in ("p50", "p99"):
        times = [_nan_if_none(getattr(one, f"{name}_ms")) for one in run.seconds]
        axes.plot([one.second for one in run.seconds], times, ms=4, **styles(name))
    _log_scale(axes)
    draw_legend(axes)
    return _svg(figure)


def answers_over_time(styles: SeriesStyles, run: RunDocument) -> str:
    """Answers and failures in each second, and requests in flight."""
    figure, axes = _new_plot("Answers over time", "second", "requests (per second, or in flight)")
    seconds = run.seconds
    failed = [sum(one.ended.values()) - one.ok for one in seconds]
    shown = {"answered": [one.ok for one in seconds], "not answered": failed if any(failed) else []}
    shown["in flight"] = [one.in_flight for one in seconds]
    for name, counts in shown.items():
        if counts:
            axes.plot([one.second for one in seconds], counts, ms=4, **styles(name))
    axes.set_ylim(bottom=0)
    draw_legend(axes)
    return _svg(figure)


def by_length(styles: SeriesStyles, run: RunDocument) -> str:
    """Latency by request length."""
    figure, axes = _new_plot("Latency by length", "length (elements, at most)", _LATENCY)
    rows = run.by_length
    at = [row.most for row in rows]
    for name in ("p50", "p90", "p99"):
        axes.plot(at, [getattr(row, name) for row in rows], **styles(name))
    _log_scale(axes)
    log_x_at(axes, at)
    draw_legend(axes)
    return _svg(figure)


def streams(styles: SeriesStyles, run: RunDocument) -> str:
    """Time to the first token, between tokens and between messages."""
    figure, axes = _new_plot("Tokens of streams", "percentile", _TIME)
    for name, times in run.times:
        if name != "latency":
            axes.plot(PERCENTILES, times.percentiles, **styles(name))
    _log_scale(axes)
    draw_legend(axes)
    return _svg(figure)


def throughput_latency(
    styles: SeriesStyles, runs: Sequence[RunDocument], bound_ms: float | None = None
) -> str:
    """Latency against answers per second, one point per rate."""
    figure, axes = _new_plot("Throughput against latency", "answers per second", _LATENCY)
    answered = [(one, one.latency_ms) for one in runs if one.latency_ms]
    ordered = sorted(answered, key=lambda pair: pair[0].load.rate or 0.0)
    x = [one.rates.ok for one, _ in ordered]
    for name in ("p50", "p90", "p99"):
        axes.plot(x, [getattr(times, name) for _, times in ordered], **styles(name))
    for one, _ in ordered:
        if not one.valid:
            axes.axvline(one.rates.ok, color=INK, ls=":", alpha=0.6)
    if bound_ms:
        axes.axhline(bound_ms, color=INK, ls="--", label=f"bound, {bound_ms:g} ms")
    _log_scale(axes)
    draw_legend(axes)
    return _svg(figure)


def batching(styles: SeriesStyles, seconds: Sequence[ServerSecond]) -> str:
    """Rows per run and requests in flight over time, from the server's metrics."""
    figure, axes = _new_plot("Batching on the server", "second", "rows per run, requests in flight")
    at = [one.at_s for one in seconds]
    axes.plot(at, [one.rows_per_run for one in seconds], ms=4, **styles("rows per run"))
    axes.plot(at, [one.queue_depth for one in seconds], ms=4, **styles("in flight"))
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    draw_legend(axes)
    return _svg(figure)


def lines(
    styles: SeriesStyles,
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[tuple[str, Sequence[float], Sequence[float]]],
) -> str:
    """A log-log plot of named series, each with its x and y values."""
    figure, axes = _new_plot(title, x_label, y_label)
    for name, xs, ys in series:
        axes.plot(list(xs), list(ys), **styles(name))
    _log_scale(axes)
    log_x_at(axes, sorted({x for _, xs, _ in series for x in xs}))
    draw_legend(axes)
    return _svg(figure)


def _new_plot(title: str, x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = new_figure(WIDTH, HEIGHT)
    axes = new_axes(figure, title=title, x_label=x_label, y_label=y_label)
    draw_grid(axes)
    return figure, axes


def _log_scale(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    log_ticks(axes.yaxis)
    if high < 6 * low:  # 1, 2 and 5 are rare in it
        axes.yaxis.set_major_locator(MaxNLocator(4))


def _nan_if_none(value: float | None) -> float:
    return float("nan") if value is None else value


def _svg(figure: Figure) -> str:
    """The figure's SVG element. Text stays text; ids are unique within the page."""
    titles = [axes.get_title() for axes in figure.axes]
    out = io.StringIO()
    with svg_settings(f"{titles}{id(figure)}"):
        figure.savefig(out, format="svg", metadata=_NO_METADATA)
    text = out.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")
