"""Prometheus' HTTP API, as much of it as is asked here."""

from __future__ import annotations

import json
import math
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, NamedTuple


class Curve(NamedTuple):
    """A series: its labels, and its finite values at their times, in seconds since the epoch."""

    labels: dict[str, str]
    times: list[float]
    values: list[float]


class QueryError(Exception):
    """Prometheus refused an expression; the message says why."""


class Prometheus:
    """One server, at a URL."""

    def __init__(self, url: str) -> None:
        self.url = url

    def now(self, expression: str) -> list[Curve]:
        """What the expression is worth now. Series without a finite number are left out."""
        found = self._get("query", query=expression)["result"]
        return [_curve(one["metric"], [one["value"]]) for one in found if _finite(one["value"])]

    def over(self, expression: str, since: float, step_s: float = 1.0) -> list[Curve]:
        """What it was worth since then, up to now. Series without a finite number are left out."""
        end = time.time()
        start = end - (end - since) // step_s * step_s
        found = self._get("query_range", query=expression, start=start, end=end, step=step_s)
        curves = [_curve(one["metric"], [p for p in one["values"] if _finite(p)]) for one in found["result"]]
        return [curve for curve in curves if curve.values]

    def label_values(self, label: str, selector: str) -> list[str]:
        found: list[str] = self._get(f"label/{label}/values", **{"match[]": selector})
        return found

    def exemplars(self, expression: str, since: float) -> list[Any]:
        found: list[Any] = self._get("query_exemplars", query=expression, start=since, end=time.time())
        return found

    def rules(self) -> list[dict[str, Any]]:
        """Every rule, with its state."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def _get(self, path: str, **parameters: Any) -> Any:
        """
        Raises:
            QueryError: it was refused.
        """
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as page:
                return json.load(page)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise QueryError(error.read().decode()) from None


def _finite(pair: list[Any]) -> bool:
    return math.isfinite(float(pair[1]))


def _curve(labels: dict[str, str], pairs: list[list[Any]]) -> Curve:
    return Curve(labels, [float(at) for at, _ in pairs], [float(value) for _, value in pairs])
