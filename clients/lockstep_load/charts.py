"""The plots of a report, as inline SVG. Text and axes use the page's text colour.

Documents → one Matplotlib figure each → SVG text. Series differ in colour and marker.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from lockstep_client.figures import (
    COLOURS,
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

WIDTH, HEIGHT = 6.4, 3.6
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
_CURVE = (0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95, 99.99, 100.0)


def by_percentile(runs: Sequence[tuple[str, RunDocument]]) -> str:
    """Latency by percentile, on an axis that stretches the tail."""
    figure, axes = _new_plot("Latency by percentile", "percentile", "ms")
    for (name, run), colour in zip(runs, COLOURS, strict=False):
        times = LatencyHistogram.decoded(run.histogram)
        shown = [one for one in _CURVE if one < 100 and times.count * (100 - one) / 100 >= 1]
        x = [1 / (1 - one / 100) for one in shown]
        axes.plot(x, times.percentiles_ms(shown), color=colour, label=name)
    axes.set_xscale("log")
    axes.set_xticks([1, 2, 10, 100, 1000, 10000], ["0", "50", "90", "99", "99.9", "99.99"])
    _log_scale(axes)
    draw_legend(axes)
    return _svg(figure)


def over_time(run: RunDocument) -> str:
    """p50 and p99 latency of the requests due in each second; answers per second below."""
    figure = new_figure(WIDTH, HEIGHT + 1.2)
    latency = new_axes(figure, 2, 1, 1, title="Latency by second due", y_label="ms")
    counts = new_axes(figure, 2, 1, 2, x_label="second", y_label="per second")
    draw_grid(latency)
    draw_grid(counts)
    seconds = run.seconds
    at = [one.second for one in seconds]
    shown = {"p50": [one.p50_ms for one in seconds], "p99": [one.p99_ms for one in seconds]}
    for (name, values), (colour, mark) in zip(shown.items(), series_styles(), strict=False):
        times = [_nan_if_none(one) for one in values]
        latency.plot(at, times, color=colour, marker=mark, ms=3, label=name)
    _log_scale(latency)
    counts.plot(at, [one.ok for one in seconds], color=COLOURS[0], label="ok")
    failed = [sum(one.ended.values()) - one.ok for one in seconds]
    if any(failed):
        counts.plot(at, failed, color=COLOURS[1], ls="--", label="not ok")
    counts.plot(at, [one.in_flight for one in seconds], color=INK, ls=":", label="in flight")
    draw_legend(latency)
    draw_legend(counts)
    return _svg(figure)


def by_length(run: RunDocument) -> str:
    """Latency by request length."""
    figure, axes = _new_plot("Latency by length", "elements per request", "ms")
    rows = run.by_length
    at = [row.most for row in rows]
    for name, (colour, mark) in zip(("p50", "p90", "p99"), series_styles(), strict=False):
        axes.plot(at, [getattr(row, name) for row in rows], color=colour, marker=mark, label=name)
    _log_scale(axes)
    log_x_at(axes, at, [f"≤ {row.most}" for row in rows])
    draw_legend(axes)
    return _svg(figure)


def streams(run: RunDocument) -> str:
    """Time to the first token, between tokens and between messages."""
    figure, axes = _new_plot("Tokens", "percentile", "ms")
    shown = [named for named in run.times if named[0] != "latency"]
    for (name, times), (colour, mark) in zip(shown, series_styles(), strict=False):
        axes.plot(PERCENTILES, times.percentiles, color=colour, marker=mark, label=name)
    _log_scale(axes)
    draw_legend(axes)
    return _svg(figure)


def throughput_latency(runs: Sequence[RunDocument], bound_ms: float | None = None) -> str:
    """Latency against answers per second, one point per rate."""
    figure, axes = _new_plot("Throughput against latency", "answers per second", "ms")
    answered = [(one, one.latency_ms) for one in runs if one.latency_ms]
    ordered = sorted(answered, key=lambda pair: pair[0].load.rate or 0.0)
    x = [one.rates.ok for one, _ in ordered]
    for name, (colour, mark) in zip(("p50", "p90", "p99"), series_styles(), strict=False):
        axes.plot(x, [getattr(times, name) for _, times in ordered], color=colour, marker=mark, label=name)
    for one, _ in ordered:
        if not one.valid:
            axes.axvline(one.rates.ok, color=INK, ls=":", alpha=0.6)
    if bound_ms:
        axes.axhline(bound_ms, color=INK, ls="--", label=f"bound, {bound_ms:g} ms")
    _log_scale(axes)
    draw_legend(axes)
    return _svg(figure)


def batching(seconds: Sequence[ServerSecond]) -> str:
    """Rows per run and requests in flight over time, from the server's metrics."""
    figure, axes = _new_plot("Server metrics", "second", "")
    at = [one.at_s for one in seconds]
    rows, depth = [one.rows_per_run for one in seconds], [one.queue_depth for one in seconds]
    axes.plot(at, rows, color=COLOURS[0], marker="o", ms=3, label="rows per run")
    axes.plot(at, depth, color=COLOURS[1], marker="s", ms=3, label="requests in flight")
    axes.set_ylim(bottom=0)
    draw_legend(axes)
    return _svg(figure)


def lines(
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[tuple[str, Sequence[float], Sequence[float]]],
) -> str:
    """A log-log plot of named series, each with its x and y values."""
    figure, axes = _new_plot(title, x_label, y_label)
    for (name, xs, ys), (colour, mark) in zip(series, series_styles(), strict=False):
        axes.plot(list(xs), list(ys), color=colour, marker=mark, label=name)
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
    axes.set_yscale("log")
    log_ticks(axes.yaxis)


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
