"""The rules that watch the objectives: rules/objectives.yml is written from here.

An objective -> its burn rate over seven windows, for each job and model -> two alerts. A burn rate
of 1 spends the error budget of thirty days in thirty days. An alert wants a long and a short window
to burn, so that it comes soon and goes soon (the workbook on site reliability engineering,
"Alerting on SLOs"), and FEWEST failures in the long one, so that a lone failure on a quiet night
calls nobody. Without traffic a burn rate is no number, and no number fires.

Long windows change slowly and cost most to read: they have groups of their own, evaluated less
often. Alerts join both, for Prometheus takes a recorded value as that of the five minutes after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .objectives import OBJECTIVES, Objective, requests

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = {"5m": 300, "30m": 1800, "1h": 3600, "2h": 7200, "6h": 21600, "1d": 86400, "3d": 259200}
"""The windows."""

_LONG_S, _LONG_INTERVAL = SECONDS["6h"], "2m"
"""From which window on a rate is long, and how often those are evaluated."""

FEWEST = 5
RUNBOOK = "docs/observability.md"
_MODEL = " by (job, model)"


@dataclass(frozen=True)
class Speed:
    """How fast a budget must burn, over which windows, for whom to be told."""

    name: str
    severity: str
    pairs: tuple[tuple[float, str, str], ...]  # burn rate, long window, short window
    spends: str


SPEEDS = (
    Speed("Fast", "page", ((14.4, "1h", "5m"), (6, "6h", "30m")), "within two to five days"),
    Speed("Slow", "ticket", ((3, "1d", "2h"), (1, "3d", "6h")), "within ten to thirty days"),
)


def rules() -> str:
    """The file, as text."""
    return "\n".join(
        [
            "# Written by `make dashboards` from deploy/prometheus/burn_rates.py, which says what it means.",
            "groups:",
            *(line for objective in OBJECTIVES for line in _groups(objective)),
            "",
        ]
    )


def _groups(objective: Objective) -> Iterator[str]:
    name = f"lockstep-{objective.name.replace('_', '-')}"
    yield f"  - name: {name}"
    yield "    rules:"
    for window, seconds in SECONDS.items():
        if seconds < _LONG_S:
            yield from _records(objective, window)
    for speed in SPEEDS:
        yield from _alert(objective, speed)
    yield f"  - name: {name}-long"
    yield f"    interval: {_LONG_INTERVAL}"
    yield "    rules:"
    for window, seconds in SECONDS.items():
        if seconds >= _LONG_S:
            yield from _records(objective, window)


def _records(objective: Objective, window: str) -> Iterator[str]:
    bad, total, burn = (objective.recorded(what, window) for what in ("bad", "total", "burn"))
    yield f"      - record: {total}"
    yield f"        expr: {requests(objective.total, 'rate', window, by=_MODEL)}"
    # Nothing has gone wrong yet: there is no counter of it then, and 0 stands in.
    yield f"      - record: {bad}"
    yield f"        expr: {requests(objective.bad, 'rate', window, by=_MODEL)} or 0 * {total}"
    yield f"      - record: {burn}"
    yield f"        expr: {bad} / {total} / {objective.budget:.4g}"


def _alert(objective: Objective, speed: Speed) -> Iterator[str]:
    name = f"Lockstep{objective.camel}Burns{speed.name}"
    yield f"      - alert: {name}"
    yield "        expr: |-"
    for index, (factor, long, short) in enumerate(speed.pairs):
        yield "          (" if index == 0 else "          or ("
        yield f"            {objective.recorded('burn', long)} > {factor:g}"
        yield f"            and {objective.recorded('burn', short)} > {factor:g}"
        yield f"            and {objective.recorded('bad', long)} * {SECONDS[long]} >= {FEWEST}"
        yield "          )"
    yield "        labels:"
    yield f"          severity: {speed.severity}"
    yield "        annotations:"
    yield f"          summary: '{{{{ or $labels.model \"a model that is not there\" }}}}: {objective.says}'"
    yield "          description: >-"
    yield f"            {objective.budget:.2g} of them may be so. This burns"
    yield '            {{ $value | printf "%.1f" }} times as fast: at this pace the budget of thirty days'
    yield f"            is spent {speed.spends}."
    yield f"          runbook: {RUNBOOK}#{name.lower()}"
