"""Builds PromQL expressions for Grafana, filtered by the variables `$job`, `$instance` and `$model`.

Rates use the window `$__rate_interval`, which Grafana sets to at least four scrape intervals. Panels with a
single value for the whole time range use `$__range`.
"""

from __future__ import annotations

SERVER = 'job=~"$job", instance=~"$instance"'
"""Label matchers for metrics of a server."""

MODEL = f'{SERVER}, model=~"$model"'
"""Label matchers for metrics of a model."""


def select(metric: str, *matchers: str, scope: str = MODEL) -> str:
    return f"{metric}{{{', '.join((scope, *matchers))}}}"


def rate(metric: str, *matchers: str, scope: str = MODEL, window: str = "$__rate_interval") -> str:
    """Increase of a counter per second."""
    return f"rate({select(metric, *matchers, scope=scope)}[{window}])"


def sum_by(expression: str, *by: str) -> str:
    return f"sum by ({', '.join(by)}) ({expression})" if by else f"sum({expression})"


def max_by(expression: str, *by: str) -> str:
    return f"max by ({', '.join(by)}) ({expression})" if by else f"max({expression})"


def quantile(q: float, metric: str, *matchers: str, by: tuple[str, ...] = (), scope: str = MODEL) -> str:
    """The quantile `q` (0 to 1) of a histogram, per combination of the labels `by`."""
    return f"histogram_quantile({q}, {sum_by(rate(f'{metric}_bucket', *matchers, scope=scope), 'le', *by)})"


def or_nan(expression: str) -> str:
    """The value of an expression without labels, or NaN if the expression returns nothing."""
    return f"{expression} or vector(0 / 0)"


def mean(metric: str, *matchers: str, by: tuple[str, ...] = (), window: str = "$__rate_interval") -> str:
    """Mean of the observations of a model's histogram. NaN without observations."""
    total, count = (rate(f"{metric}_{part}", *matchers, window=window) for part in ("sum", "count"))
    return ratio(total, count, *by)


def ratio(part: str, whole: str, *by: str) -> str:
    return f"{sum_by(part, *by)} / {sum_by(whole, *by)}"
