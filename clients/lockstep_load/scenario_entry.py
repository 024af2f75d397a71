"""One run of a scenario file, from its keys to what it asks: what every kind takes, needs and leaves out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from lockstep_load.plan import KINDS, Closed, LoadProfile, Offline, Open, Target, Workload
from lockstep_load.preflight import PreflightRequest
from lockstep_load.search import Bound, Search
from lockstep_load.toml_keys import TomlKeys

if TYPE_CHECKING:
    from lockstep_load.plan import Kind, Pace

Shape = Literal["single-stream", "multi-stream", "server", "offline", "closed", "open", "sweep", "soak"]
SHAPES: tuple[Shape, ...] = get_args(Shape)
SAMPLES_A_QUERY = 8
"""MLPerf's multi-stream."""

_COMMON = {
    "name", "scenario", "model", "version", "call", "lengths", "ids", "rows", "tokens", "shape", "fill",
    "seconds", "warmup_s", "timeout_s", "seed", "processes", "max_in_flight",
}  # fmt: skip
_OWN: dict[Shape, set[str]] = {
    "single-stream": set(),
    "multi-stream": set(),
    "server": {"bound_ms", "percentile", "start", "within", "confirmations"},
    "offline": {"samples", "concurrency"},
    "closed": {"concurrency"},
    "open": {"rate", "arrivals"},
    "sweep": {"rates", "arrivals"},
    "soak": {"rate", "arrivals"},
}
_NEEDED: dict[Shape, tuple[str, ...]] = {
    "server": ("bound_ms",),
    "offline": ("samples",),
    "closed": ("concurrency",),
    "open": ("rate",),
    "sweep": ("rates",),
    "soak": ("rate",),
}


@dataclass(frozen=True)
class ScenarioEntry:
    """One run of a scenario file, or one sweep, or one search."""

    name: str
    shape: Shape
    target: Target
    workload: Workload
    kind: Kind | None
    """None: the first call that the model answers."""
    wanted: PreflightRequest
    load: LoadProfile
    rates: tuple[float, ...] = ()
    """Of a sweep."""
    search: Search | None = None
    """Of a server scenario; its start is 0 where it is to be found out."""


def scenario_entry(where: str, keys: dict[str, Any], own: set[str], at: Target) -> ScenarioEntry:
    table = TomlKeys(where, keys)
    shape = table.one_of("scenario", SHAPES)
    allowed = _COMMON | _OWN[shape]
    if wrong := sorted(own - allowed):
        raise ValueError(
            f"{where}: {wrong[0]!r} does not belong to {shape}: it takes {', '.join(sorted(allowed))}"
        )
    for needed in ("model", *_NEEDED.get(shape, ())):
        if needed not in keys:
            raise ValueError(f"{where}: {needed!r} is missing")
    target = replace(
        at,
        model=table.text("model"),
        version=table.text("version", ""),
        timeout_s=table.number("timeout_s", 10.0),
    )
    load = LoadProfile(
        _pace(shape, table),
        table.number("seconds", 600.0 if shape == "offline" else 5.0),
        table.number("warmup_s", 1.0, least=0),
        table.whole("seed", 0, least=0),
        table.whole("processes", 1),
        table.whole("max_in_flight", 10_000),
    )
    return ScenarioEntry(
        table.text("name", f"{keys['model']} {shape}"),
        shape,
        target,
        _workload(shape, table),
        table.one_of("call", KINDS) if "call" in keys else None,
        PreflightRequest(table.named("shape"), table.named("fill")),
        load,
        table.numbers("rates") if shape == "sweep" else (),
        _search(table) if shape == "server" else None,
    )


def _workload(shape: Shape, table: TomlKeys) -> Workload:
    rows = table.whole("rows", SAMPLES_A_QUERY if shape == "multi-stream" else 1)
    tokens = table.lengths("tokens") if "tokens" in table.keys else None
    ids = table.numbers("ids") if "ids" in table.keys else None
    if ids and (len(ids) != 2 or not 0 <= ids[0] < ids[1]):
        raise table.wrong("ids", "give [low, high], as in [1, 8000]")
    return Workload(
        "infer", table.lengths("lengths", "sst2"), (int(ids[0]), int(ids[1])) if ids else None, rows, tokens
    )


def _pace(shape: Shape, table: TomlKeys) -> Pace:
    if shape in ("open", "soak"):
        return Open(table.number("rate"), table.one_of("arrivals", ("poisson", "constant"), "poisson"))
    if shape == "closed":
        return Closed(table.whole("concurrency"))
    if shape == "offline":
        return Offline(table.whole("samples"), table.whole("concurrency", 32))
    if shape == "sweep":
        return Open(table.numbers("rates")[0], table.one_of("arrivals", ("poisson", "constant"), "poisson"))
    return Closed(1)


def _search(table: TomlKeys) -> Search:
    percentile = table.number("percentile", 99.0)
    if percentile >= 100:
        raise table.wrong("percentile", "give a number below 100")
    return Search(
        Bound(table.number("bound_ms"), percentile),
        table.number("start", 0.0, least=0),
        table.number("within", 0.05),
        table.whole("confirmations", 2),
    )
