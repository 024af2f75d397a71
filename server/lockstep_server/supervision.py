"""The messages between the supervisor and each of several front ends (docs/decisions/0033).

supervisor → front end: `FrontEndConfig`, then `ServerState`, `FrontEndCame`, `FrontEndGone`, `GetReport`,
`Drain`, the `Usage` of other front ends, `StatisticsAsked`, and `messages.Heartbeat`.
front end → supervisor: `FrontEndStarted` or `FrontEndFailed`, then `FrontEndState`, `Usage`, `Report`,
`Drained`, and each `messages.Heartbeat`. Either way: `GetStatistics`, `Statistics`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .messages import _Struct


class FrontEndConfig(_Struct, tag="front_end_config", kw_only=True):
    """The first message to a front-end process."""

    number: int  # of no front end before it
    settings: dict[str, Any]  # the fields of `Settings`, with the gRPC port that all of them share
    engine: str  # path of the engine's socket
    server: str  # names the server among its peers


class FrontEndStarted(_Struct, tag="front_end_started"):
    """It knows the models, and listens."""


class FrontEndFailed(_Struct, tag="front_end_failed"):
    """It could not start."""

    reason: str


class FrontEndState(_Struct, tag="front_end_state"):
    """Whether enough models are ready at this front end."""

    ready: bool


class ServerState(_Struct, tag="server_state"):
    """The state of all front ends and of the engine process."""

    ready: bool  # all front ends are
    alive: bool  # the engine process runs, or is being started again and no attempt has failed


class Amount(NamedTuple):
    """What one caller holds now at one front end: of a model's queue, or of the bytes in flight."""

    model: str  # empty: bytes
    version: int
    caller: str
    requests: int
    amount: float  # device seconds, or bytes


class Spent(NamedTuple):
    """What a caller has used of a quota since the last message."""

    caller: str
    unit: str
    rate: float  # units per second
    units: float


class Usage(_Struct, tag="usage", kw_only=True):
    """What has changed in what a front end holds. The supervisor passes it on to all others."""

    number: int
    amounts: list[Amount]
    served: list[tuple[str, int, float]]  # model, version, device seconds served since the last message
    spent: list[Spent]


class FrontEndCame(_Struct, tag="front_end_came"):
    """There is another front end, which does not know what this one holds."""


class FrontEndGone(_Struct, tag="front_end_gone"):
    """A front end has ended, and holds nothing any more."""

    number: int


class Drain(_Struct, tag="drain"):
    """Take no new requests; finish those in flight."""


class Drained(_Struct, tag="drained"):
    """No request is in flight any more, or the time for them is up (`clean` is false)."""

    clean: bool


class MetricSample(NamedTuple):
    """One line of a page of metrics. `exemplar`: its labels, value and time."""

    name: str
    labels: dict[str, str]
    value: float
    exemplar: tuple[dict[str, str], float, float | None] | None = None


class MetricPage(NamedTuple):
    """One family of a page of metrics."""

    name: str
    help: str
    type: str
    samples: list[MetricSample]


class GetStatistics(_Struct, tag="get_statistics"):
    """A front end asks all others for their `Statistics`. The supervisor passes it on."""

    key: int
    asker: int  # its number


class StatisticsAsked(_Struct, tag="statistics_asked"):
    """How many front ends the supervisor has asked."""

    key: int
    front_ends: int


class Statistics(_Struct, tag="statistics"):
    """What one front end has counted of each model version since it became ready."""

    key: int
    asker: int
    models: list[tuple[str, int, dict[str, Any]]]  # name, version, fields of `ModelStatisticsCounters`


class GetReport(_Struct, tag="get_report"):
    """Ask a front end for its metrics."""

    key: int


class Report(_Struct, tag="report"):
    """The metrics of one front end."""

    key: int
    pages: list[MetricPage]
