"""Expressions over the server's metrics, as Grafana sends them: with `$job`, `$instance`, `$model`.

A rate is taken over `$__rate_interval`, which Grafana keeps at four scrapes or more; or over
`$__range`, all of the time shown, where a panel has one number for it.
"""

from __future__ import annotations

SERVER = 'job=~"$job", instance=~"$instance"'
"""Matches what is counted for a server."""

MODEL = f'{SERVER}, model=~"$model"'
"""Matches what is counted for a model."""


def select(metric: str, *matchers: str, of: str = MODEL) -> str:
    return f"{metric}{{{', '.join((of, *matchers))}}}"


def rate(metric: str, *matchers: str, of: str = MODEL, over: str = "$__rate_interval") -> str:
    """A counter's growth a second."""
    return f"rate({select(metric, *matchers, of=of)}[{over}])"


def add(expression: str, *by: str) -> str:
    return f"sum by ({', '.join(by)}) ({expression})" if by else f"sum({expression})"


def largest(expression: str, *by: str) -> str:
    return f"max by ({', '.join(by)}) ({expression})" if by else f"max({expression})"


def quantile(q: float, metric: str, *matchers: str, by: tuple[str, ...] = (), of: str = MODEL) -> str:
    """The q-th quantile of a histogram, over all series that share the labels `by`."""
    return f"histogram_quantile({q}, {add(rate(f'{metric}_bucket', *matchers, of=of), 'le', *by)})"


def or_no_number(expression: str) -> str:
    """The value of an expression without labels; while it has none, a value that is no number: 0 / 0."""
    return f"{expression} or vector(0 / 0)"


def mean(metric: str, *matchers: str, by: tuple[str, ...] = (), over: str = "$__rate_interval") -> str:
    """The mean observation of a model's histogram. No number where nothing was observed."""
    parts = (rate(f"{metric}_{part}", *matchers, over=over) for part in ("sum", "count"))
    return ratio(*parts, *by)


def ratio(part: str, whole: str, *by: str) -> str:
    return f"{add(part, *by)} / {add(whole, *by)}"
