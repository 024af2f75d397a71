"""The service's objectives: which requests count, and which went wrong. burn_rates.py watches them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

STREAMS = "Generate|Translate|Follow"
"""Methods whose answer takes as long as the caller wants it to."""


class Term(NamedTuple):
    """Requests that a counter counted; or, with `above`, those that a histogram saw above a bound."""

    metric: str
    matchers: str = ""
    above: str = ""  # one of the histogram's bounds

    def over(self, function: str, window: str, more: str = "") -> str:
        """Their `rate` or `increase`, of the series that `more` matches too."""
        matchers = ", ".join(one for one in (more, self.matchers) if one)
        if not self.above:
            return f"{function}({self.metric}{{{matchers}}}[{window}])"
        within = ", ".join(one for one in (matchers, f'le="{self.above}"') if one)
        return (
            f"{function}({self.metric}_count{{{matchers}}}[{window}])"
            f" - ignoring (le) {function}({self.metric}_bucket{{{within}}}[{window}])"
        )


@dataclass(frozen=True)
class Objective:
    """A share of requests that go well."""

    name: str
    share: float
    bad: tuple[Term, ...]
    total: tuple[Term, ...]
    says: str  # what an alert says has gone wrong, in a YAML string of single quotes

    @property
    def camel(self) -> str:
        return "".join(word.capitalize() for word in self.name.split("_"))

    @property
    def budget(self) -> float:
        """The share that may go wrong."""
        return 1 - self.share

    def recorded(self, what: str, window: str) -> str:
        """The name of a recorded series: the `bad`, the `total`, or the `burn` rate of both."""
        return f"job_model:lockstep_{self.name}_{what}:rate{window}"


_REFUSED = Term("lockstep_refused_total", 'code=~"failed|unavailable"')
_OVERLOADED = Term("lockstep_refused_total", 'code="overloaded"')

AVAILABILITY = Objective(
    "availability",
    0.999,
    (
        Term("lockstep_requests_total", 'outcome=~"failed|unavailable"'),
        # A one-shot request is accepted where its deadline can be met. A stream's may just end it.
        Term("lockstep_requests_total", f'outcome="deadline", method!~"{STREAMS}"'),
        _REFUSED,
    ),
    (Term("lockstep_requests_total", 'outcome!~"cancelled|bad_input|sequence_lost|overloaded"'), _REFUSED),
    "requests fail by the server''s fault",
)

ADMISSION = Objective(
    "admission",
    0.99,
    (_OVERLOADED, Term("lockstep_requests_total", 'outcome="overloaded"')),
    (_OVERLOADED, Term("lockstep_accepted_total")),
    "requests are refused for overload",
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
    """All that the terms count, over a window. `or` joins them: their labels differ."""
    joined = " or ".join(one.over(function, window, more) for one in terms)
    return f"sum{by} ({joined})"
