"""A client for the parts of the Prometheus HTTP API that the rehearsal needs."""

from __future__ import annotations

import json
import math
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, NamedTuple


class Curve(NamedTuple):
    """One series: labels, times in seconds since the epoch, and finite values."""

    labels: dict[str, str]
    times: list[float]
    values: list[float]


class QueryError(Exception):
    """Prometheus rejected a query. The message is its response."""


class Prometheus:
    """A client for one Prometheus server."""

    def __init__(self, url: str) -> None:
        self.url = url

    def now(self, expression: str) -> list[Curve]:
        """Evaluate an expression now. Series without a finite value are left out."""
        series = self._get("query", query=expression)["result"]
        return [_curve(one["metric"], [one["value"]]) for one in series if _finite(one["value"])]

    def over(self, expression: str, since: float, step_s: float = 1.0) -> list[Curve]:
        """Evaluate an expression from `since` until now. Series without a finite value are left out."""
        end = time.time()
        start = end - (end - since) // step_s * step_s
        data = self._get("query_range", query=expression, start=start, end=end, step=step_s)
        curves = [_curve(one["metric"], [p for p in one["values"] if _finite(p)]) for one in data["result"]]
        return [curve for curve in curves if curve.values]

    def label_values(self, label: str, selector: str) -> list[str]:
        values: list[str] = self._get(f"label/{label}/values", **{"match[]": selector})
        return values

    def exemplars(self, expression: str, since: float) -> list[Any]:
        exemplars: list[Any] = self._get("query_exemplars", query=expression, start=since, end=time.time())
        return exemplars

    def rules(self) -> list[dict[str, Any]]:
        """All rules, with their state."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def _get(self, path: str, **parameters: Any) -> Any:
        """
        Raises:
            QueryError: Prometheus rejected the request.
        """
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise QueryError(error.read().decode()) from None


def _finite(pair: list[Any]) -> bool:
    return math.isfinite(float(pair[1]))


def _curve(labels: dict[str, str], pairs: list[list[Any]]) -> Curve:
    return Curve(labels, [float(at) for at, _ in pairs], [float(value) for _, value in pairs])
