"""Reads a server's /metrics: Prometheus text → samples → sums over the samples with given labels."""

from __future__ import annotations

import re
import ssl
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lockstep_client.tls import Tls

_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")

Labels = tuple[tuple[str, str], ...]
Samples = dict[tuple[str, Labels], float]


def samples(text: str) -> Samples:
    """Parse the Prometheus text format: (name, labels) → value. Other lines are ignored."""
    result: Samples = {}
    for line in text.splitlines():
        if matched := _SAMPLE.match(line):
            name, labels, value = matched.groups()
            with suppress(ValueError):
                result[name, _labels(labels or "")] = float(value)
    return result


@dataclass(frozen=True)
class Scrape:
    """The samples of one scrape."""

    samples: Mapping[tuple[str, Labels], float]

    def select(self, name: str, **labels: str) -> Iterator[tuple[dict[str, str], float]]:
        """The labels and the value of each sample of `name` that has these labels."""
        wanted = labels.items()
        for (one, pairs), value in self.samples.items():
            if one == name and wanted <= (has := dict(pairs)).items():
                yield has, value

    def total(self, name: str, **labels: str) -> float:
        """The sum of the samples of `name` that have these labels."""
        return sum(value for _, value in self.select(name, **labels))

    def values(self, name: str, label: str, **labels: str) -> set[str]:
        """The values of a label in a family."""
        return {has[label] for has, _ in self.select(name, **labels) if label in has}


def scrape(address: str, timeout_s: float = 5.0, *, tls: bool | Tls = False, token: str = "") -> Scrape:
    """Read http://ADDRESS/metrics, or https:// with `tls`.

    Raises:
        OSError, ValueError, http.client.HTTPException: the server did not answer with metrics.
    """
    # No proxy: an HTTP proxy cannot reach the loopback interface of this machine.
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if tls:
        context = ssl.create_default_context() if isinstance(tls, bool) else tls.context()
        handlers.append(urllib.request.HTTPSHandler(context=context))
    request = urllib.request.Request(f"{'https' if tls else 'http'}://{address}/metrics")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.build_opener(*handlers).open(request, timeout=timeout_s) as answer:
        return Scrape(samples(answer.read().decode("utf-8", "replace")))


def _labels(text: str) -> Labels:
    return tuple(
        (name, _unescaped(value) if "\\" in value else value) for name, value in _LABEL.findall(text)
    )


def _unescaped(value: str) -> str:
    if "\\" not in value:
        return value
    return _ESCAPE.sub(lambda escape: "\n" if escape[1] == "n" else escape[1], value)
