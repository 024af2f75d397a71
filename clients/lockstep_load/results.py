"""The results of the load generator, as typed documents: what a run found, and documents of several runs.

Structs ↔ JSON (documents.py). The fields are the keys of the JSON documents, in milliseconds and per second
where their names do not say otherwise. A field that equals its default is not written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType, field

from lockstep_load.plan import CallKind  # noqa: TC001  # msgspec reads annotations at run time

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMAT: Final = "lockstep-load/1"

Verdict = Literal["better", "worse", "same", "unsure"]
ContrastMode = Literal["lone", "next", "full", "rate"]
"""The load: `lone` is one caller, `full` many callers, `rate` an open loop, and `next` one caller that sends
an element when the previous one has been answered (streams only)."""


class _Result(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A part of a document."""


class LatencySummary(_Result, frozen=True, kw_only=True):
    """Times in milliseconds."""

    count: int
    min: float
    mean: float
    p50: float
    p90: float
    p99: float
    p99_9: float = field(name="p99.9")
    max: float

    @property
    def percentiles(self) -> tuple[float, ...]:
        """The times under `PERCENTILES`."""
        return self.p50, self.p90, self.p99, self.p99_9, self.max


PERCENTILES = ("p50", "p90", "p99", "p99.9", "max")


class LengthSummary(LatencySummary, frozen=True, kw_only=True):
    """Latency of the requests of similar length: up to a power of two."""

    least: int = field(name="from")
    most: int = field(name="to")


class SecondResult(_Result, frozen=True, kw_only=True):
    """One second of the measured part. Latency is that of the requests due in it."""

    second: int
    sent: int
    ended: dict[str, int]
    """Requests that ended in this second, by outcome."""
    elements: int
    tokens: int
    in_flight: int
    p50_ms: float | None
    p99_ms: float | None
    histogram: str | None

    @property
    def ok(self) -> int:
        return self.ended.get("ok", 0)


class TargetInfo(_Result, frozen=True, kw_only=True):
    """The server and model that were measured."""

    address: str
    model: str
    version: str
    server: dict[str, str] | None = None
    """Its name and version, if it reports them."""


class LoadSettings(_Result, frozen=True, kw_only=True):
    """The load of a run. Settings that do not apply to the loop are None and not written.

    Numbers stay as they were given: 10 is not read as 10.0.
    """

    loop: Literal["open", "closed", "offline"]
    arrivals: str | None = None
    rate: int | float | None = None
    samples: int | None = None
    concurrency: int | None = None
    call: CallKind
    lengths: str
    ids: list[int] | None
    rows: int
    one_by_one: bool | None
    max_tokens: str | None
    seconds: int | float
    warmup_s: int | float
    timeout_s: int | float
    seed: int
    processes: int

    def settings(self) -> dict[str, Any]:
        """The settings by name, as they are written."""
        named: dict[str, Any] = msgspec.to_builtins(self)
        return named


class RequestCounts(_Result, frozen=True, kw_only=True):
    """Requests due in the measured part, and in the warm-up."""

    sent: int
    unsent: int
    warmup: int


class Rates(_Result, frozen=True, kw_only=True):
    """Per second of the measured part."""

    sent: float
    ended: float
    ok: float
    elements: float
    tokens: float


class GeneratorUse(_Result, frozen=True, kw_only=True):
    """Resources that the generator used."""

    processes: int
    lag_ms: LatencySummary | None
    """Send lag of an open loop."""
    max_lag_ms: float
    cpu_share_of_a_core: list[float]
    """Of each worker process."""
    parent_cpu_share_of_a_core: float
    cpu_share_of_the_machine: float


class Machine(_Result, frozen=True, kw_only=True):
    """The machine of the generator."""

    cpus: int | None
    system: str
    python: str


class ModeMetrics(_Result, frozen=True, kw_only=True):
    """Runs of one mode of a model."""

    runs: float
    rows_per_run: float


class ServerSecond(_Result, frozen=True, kw_only=True):
    """The server's queue and batches about once per second."""

    at_s: float
    queue_depth: float
    rows_per_run: float


class ServerMetrics(_Result, frozen=True, kw_only=True):
    """What a run added to the server's counters, or a note why that is unknown."""

    note: str = ""
    faces: dict[str, ModeMetrics] = field(default_factory=dict)
    """By mode: oneshot, step."""
    queue_ms: float | UnsetType | None = UNSET
    compute_ms: float | UnsetType | None = UNSET
    padding: float | UnsetType | None = UNSET
    """Share of the computed elements that only made rows equally long."""
    refused: float | UnsetType = UNSET
    seconds: list[ServerSecond] | UnsetType = UNSET


class Probe(_Result, frozen=True):
    """The result of one run at one rate of a search."""

    rate: float
    holds: bool
    confirming: bool


class ScenarioResult(_Result, frozen=True, kw_only=True):
    """The result metric of a scenario entry."""

    scenario: str
    what: str
    value: float
    unit: str


class MetricComparison(_Result, frozen=True):
    """One metric of two runs."""

    name: str
    unit: str
    first: float
    second: float
    ratio: float
    """Second to first."""
    low: float | None
    """Interval of the ratio; None if a run is too short or the metric is not known by second."""
    high: float | None
    verdict: Verdict


class Drift(_Result, frozen=True, kw_only=True):
    """The last third of a soak against its first third."""

    seconds: int
    metrics: list[MetricComparison]
    in_flight: tuple[int, int]


class RunDocument(_Result, frozen=True, kw_only=True, tag_field="kind", tag="run"):
    """A run. The last fields are those of the experiment that it belongs to."""

    format: Literal["lockstep-load/1"]
    started_at: str
    target: TargetInfo
    load: LoadSettings
    valid: bool
    reasons: list[str]
    notes: list[str]
    partial: bool
    measured_s: float
    outcomes: dict[str, int]
    """Requests due in the measured part, by outcome; `ok` is always there."""
    examples: dict[str, str]
    requests: RequestCounts
    rates: Rates
    latency_ms: LatencySummary | None
    first_token_ms: LatencySummary | None
    per_token_ms: LatencySummary | None
    gap_ms: LatencySummary | None
    by_length: list[LengthSummary]
    generator: GeneratorUse
    histogram: str
    seconds: list[SecondResult]
    machine: Machine
    name: str = ""
    server_metrics: ServerMetrics | None = None
    probe: Probe | None = None
    result: ScenarioResult | None = None
    drift: Drift | UnsetType | None = UNSET
    """None for a soak that is too short; not written for other runs."""
    way: str = ""
    mode: ContrastMode | None = None
    length: int = 0

    @property
    def ok(self) -> int:
        """Requests due in the measured part that were answered."""
        return self.outcomes.get("ok", 0)

    @property
    def lost(self) -> int:
        """Requests due in the measured part that were not."""
        return sum(self.outcomes.values()) - self.ok

    @property
    def times(self) -> list[tuple[str, LatencySummary]]:
        """The summaries that the run has, by name."""
        named = (
            ("latency", self.latency_ms),
            ("first token", self.first_token_ms),
            ("between tokens", self.per_token_ms),
            ("between messages", self.gap_ms),
        )
        return [(name, summary) for name, summary in named if summary]


class SearchResult(_Result, frozen=True, kw_only=True):
    """The result of a search; `rate` is None if no rate meets the bound."""

    rate: float | None
    percentile: float
    bound_ms: float
    confirmed: bool
    confirmations: int
    within: float
    probes: int
    limit: str | None
    """What limits the rate."""


class SweepDocument(_Result, frozen=True, kw_only=True, tag_field="kind", tag="sweep"):
    """Open loops at several rates."""

    format: Literal["lockstep-load/1"]
    started_at: str
    target: TargetInfo
    partial: bool
    runs: list[RunDocument]
    name: str = ""


class SearchDocument(_Result, frozen=True, kw_only=True, tag_field="kind", tag="search"):
    """A search for the highest rate."""

    format: Literal["lockstep-load/1"]
    started_at: str
    target: TargetInfo
    partial: bool
    search: SearchResult
    runs: list[RunDocument]
    name: str = ""


class ScenarioDocument(_Result, frozen=True, kw_only=True, tag_field="kind", tag="scenario"):
    """The entries of a scenario file."""

    format: Literal["lockstep-load/1"]
    name: str
    about: str
    started_at: str
    target: TargetInfo
    partial: bool
    runs: list[RunDocument | SweepDocument | SearchDocument]


class ReadingMode(_Result, frozen=True):
    """One way to read a text."""

    name: str
    model: str
    kind: CallKind


class ContrastDocument(_Result, frozen=True, kw_only=True, tag_field="kind", tag="contrast"):
    """Ways to read a text, compared."""

    format: Literal["lockstep-load/1"]
    started_at: str
    target: TargetInfo
    partial: bool
    ways: list[ReadingMode]
    concurrency: int
    rate_length: int
    rounds: int
    finding: list[str]
    runs: list[RunDocument]


Document = RunDocument | SweepDocument | SearchDocument | ScenarioDocument | ContrastDocument


def iter_runs(document: Document, *, searched: bool = True) -> Iterator[RunDocument]:
    """All runs in a document; without those of searches unless `searched`."""
    if isinstance(document, RunDocument):
        yield document
    elif searched or not isinstance(document, SearchDocument):
        for one in document.runs:
            yield from iter_runs(one, searched=searched)
