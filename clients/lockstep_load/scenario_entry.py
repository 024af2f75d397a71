"""Parses one [[run]] of a scenario file: which keys each kind of scenario allows and requires."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from lockstep_load.plan import CALL_KINDS, ClosedLoop, LoadProfile, Offline, OpenLoop, Target, Workload
from lockstep_load.preflight import TensorOverrides
from lockstep_load.search import LatencyBound, SearchPlan
from lockstep_load.toml_keys import TomlKeys

if TYPE_CHECKING:
    from lockstep_load.plan import CallKind, LoadPattern

ScenarioKind = Literal[
    "single-stream", "multi-stream", "server", "offline", "closed", "open", "sweep", "soak"
]
SCENARIO_KINDS: tuple[ScenarioKind, ...] = get_args(ScenarioKind)
SAMPLES_A_QUERY = 8
"""Rows per request in MLPerf's multi-stream scenario."""

_COMMON_KEYS = {
    "name", "scenario", "model", "version", "call", "lengths", "ids", "rows", "tokens", "shape", "fill",
    "seconds", "warmup_s", "timeout_s", "seed", "processes", "max_in_flight",
}  # fmt: skip
_SPECIFIC_KEYS: dict[ScenarioKind, set[str]] = {
    "single-stream": set(),
    "multi-stream": set(),
    "server": {"bound_ms", "percentile", "start", "within", "confirmations"},
    "offline": {"samples", "concurrency"},
    "closed": {"concurrency"},
    "open": {"rate", "arrivals"},
    "sweep": {"rates", "arrivals"},
    "soak": {"rate", "arrivals"},
}
_REQUIRED_KEYS: dict[ScenarioKind, tuple[str, ...]] = {
    "server": ("bound_ms",),
    "offline": ("samples",),
    "closed": ("concurrency",),
    "open": ("rate",),
    "sweep": ("rates",),
    "soak": ("rate",),
}


@dataclass(frozen=True)
class ScenarioEntry:
    """One run, sweep or search of a scenario file."""

    name: str
    kind: ScenarioKind
    target: Target
    workload: Workload
    call: CallKind | None
    """None for the first call that the model supports."""
    overrides: TensorOverrides
    load: LoadProfile
    rates: tuple[float, ...] = ()
    """Rates of a sweep, per second."""
    search: SearchPlan | None = None
    """For the server scenario; a start of 0 means that it is estimated."""


def scenario_entry(where: str, keys: dict[str, Any], given: set[str], server: Target) -> ScenarioEntry:
    table = TomlKeys(where, keys)
    kind = table.one_of("scenario", SCENARIO_KINDS)
    allowed = _COMMON_KEYS | _SPECIFIC_KEYS[kind]
    if wrong := sorted(given - allowed):
        raise ValueError(
            f"{where}: {wrong[0]!r} is not a key of {kind}; allowed: {', '.join(sorted(allowed))}"
        )
    for needed in ("model", *_REQUIRED_KEYS.get(kind, ())):
        if needed not in keys:
            raise ValueError(f"{where}: {needed!r} is missing")
    target = replace(
        server,
        model=table.text("model"),
        version=table.text("version", ""),
        timeout_s=table.number("timeout_s", 10.0),
    )
    load = LoadProfile(
        _pattern(kind, table),
        table.number("seconds", 600.0 if kind == "offline" else 5.0),
        table.number("warmup_s", 1.0, minimum=0),
        table.whole("seed", 0, minimum=0),
        table.whole("processes", 1),
        table.whole("max_in_flight", 10_000),
    )
    return ScenarioEntry(
        table.text("name", f"{keys['model']} {kind}"),
        kind,
        target,
        _workload(kind, table),
        table.one_of("call", CALL_KINDS) if "call" in keys else None,
        TensorOverrides(table.named("shape"), table.named("fill")),
        load,
        table.numbers("rates") if kind == "sweep" else (),
        _search(table) if kind == "server" else None,
    )


def _workload(kind: ScenarioKind, table: TomlKeys) -> Workload:
    rows = table.whole("rows", SAMPLES_A_QUERY if kind == "multi-stream" else 1)
    tokens = table.lengths("tokens") if "tokens" in table.keys else None
    ids = table.numbers("ids") if "ids" in table.keys else None
    if ids and (len(ids) != 2 or not 0 <= ids[0] < ids[1]):
        raise table.wrong("ids", "use [low, high], such as [1, 8000]")
    return Workload(
        "infer", table.lengths("lengths", "sst2"), (int(ids[0]), int(ids[1])) if ids else None, rows, tokens
    )


def _pattern(kind: ScenarioKind, table: TomlKeys) -> LoadPattern:
    if kind in ("open", "soak"):
        return OpenLoop(table.number("rate"), table.one_of("arrivals", ("poisson", "constant"), "poisson"))
    if kind == "closed":
        return ClosedLoop(table.whole("concurrency"))
    if kind == "offline":
        return Offline(table.whole("samples"), table.whole("concurrency", 32))
    if kind == "sweep":
        return OpenLoop(
            table.numbers("rates")[0], table.one_of("arrivals", ("poisson", "constant"), "poisson")
        )
    return ClosedLoop(1)


def _search(table: TomlKeys) -> SearchPlan:
    percentile = table.number("percentile", 99.0)
    if percentile >= 100:
        raise table.wrong("percentile", "use a number below 100")
    return SearchPlan(
        LatencyBound(table.number("bound_ms"), percentile),
        table.number("start", 0.0, minimum=0),
        table.number("within", 0.05),
        table.whole("confirmations", 2),
    )
