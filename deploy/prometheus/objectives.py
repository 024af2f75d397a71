"""Service level objectives: which requests count and which of them are failures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

STREAMS = "Generate|Translate|Follow"
"""Streaming methods, whose duration depends on the client."""


class Term(NamedTuple):
    """Requests counted by a counter or, with `above`, by a histogram above one of its bounds."""

    metric: str
    matchers: str = ""
    above: str = ""  # one of the histogram's bounds

    def expression(self, function: str, window: str, more: str = "") -> str:
        """Their `rate` or `increase` over a window. `more` holds additional label matchers."""
        matchers = ", ".join(part for part in (more, self.matchers) if part)
        if not self.above:
            return f"{function}({self.metric}{{{matchers}}}[{window}])"
        within = ", ".join(part for part in (matchers, f'le="{self.above}"') if part)
        return (
            f"{function}({self.metric}_count{{{matchers}}}[{window}])"
            f" - ignoring (le) {function}({self.metric}_bucket{{{within}}}[{window}])"
        )


@dataclass(frozen=True)
class Objective:
    """A target for the fraction of good requests."""

    name: str
    target: float  # 0 to 1
    bad: tuple[Term, ...]
    total: tuple[Term, ...]
    summary: str  # the problem, for alerts; escaped for a single-quoted YAML string

    @property
    def camel_case(self) -> str:
        return "".join(word.capitalize() for word in self.name.split("_"))

    @property
    def budget(self) -> float:
        """The error budget: the fraction of requests that may fail."""
        return 1 - self.target

    def recorded(self, series: str, window: str) -> str:
        """The name of the recorded series `bad`, `total` or `burn`."""
        return f"job_model:lockstep_{self.name}_{series}:rate{window}"


_REFUSED = Term("lockstep_refused_total", 'code=~"failed|unavailable"')
_OVERLOADED = Term("lockstep_refused_total", 'code="overloaded"')

AVAILABILITY = Objective(
    "availability",
    0.999,
    (
        Term("lockstep_requests_total", 'outcome=~"failed|unavailable"'),
        # Admission checks the deadline of a one-shot request. The deadline of a stream may just end it.
        Term("lockstep_requests_total", f'outcome="deadline", method!~"{STREAMS}"'),
        _REFUSED,
    ),
    (
        Term("lockstep_requests_total", 'outcome!~"cancelled|bad_input|sequence_lost|overloaded|quota"'),
        _REFUSED,
    ),
    "requests fail because of the server",
)

ADMISSION = Objective(
    "admission",
    0.99,
    (_OVERLOADED, Term("lockstep_requests_total", 'outcome="overloaded"')),
    (_OVERLOADED, Term("lockstep_accepted_total")),
    "requests are rejected for overload",
)

LATENCY = Objective(
    "latency",
    0.99,
    (Term("lockstep_request_seconds", f'method!~"{STREAMS}"', above="0.25"),),
    (Term("lockstep_request_seconds_count", f'method!~"{STREAMS}"'),),
    "one-shot requests take longer than 250 ms",
)

FIRST_TOKEN = Objective(
    "first_token",
    0.99,
    (Term("lockstep_first_token_seconds", above="0.25"),),
    (Term("lockstep_first_token_seconds_count"),),
    "streams wait longer than 250 ms for their first token",
)

OBJECTIVES = (AVAILABILITY, ADMISSION, LATENCY, FIRST_TOKEN)


def requests(terms: tuple[Term, ...], function: str, window: str, more: str = "", by: str = "") -> str:
    """The sum of all terms over a window. `or` joins them because their labels differ."""
    joined = " or ".join(term.expression(function, window, more) for term in terms)
    return f"sum{by} ({joined})"
