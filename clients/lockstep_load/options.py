"""The options of the commands. They are checked before any request is sent."""

import math
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from lockstep_client import address as addresses
from lockstep_client import extras
from lockstep_load import lengths_file
from lockstep_load.arrivals import ArrivalProcess
from lockstep_load.lengths import Lengths
from lockstep_load.plan import CallKind, LoadPattern, OpenLoop
from lockstep_load.preflight import TensorOverrides

MAX_PER_PROCESS = {"rate": 1_000.0, "concurrency": 64}
"""Load that one worker process can send; more load gets more processes, up to half the cores."""


def checked_address(value: str) -> str:
    """Check an address of the form HOST:PORT."""
    try:
        return addresses.checked(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _checked_metrics(value: str) -> str:
    return checked_address(value) if value else value


def _above_zero(what: str) -> Callable[[float | None], float | None]:
    def check(value: float | None) -> float | None:
        if value is not None and not 0 < value < math.inf:
            raise typer.BadParameter(f"{value:g} is not a valid {what}: use a number above 0")
        return value

    return check


def _zero_or_more(value: float) -> float:
    if not 0 <= value < math.inf:
        raise typer.BadParameter(f"{value:g} is not a valid number of seconds: use 0 or more")
    return value


def writable_file(path: Path | None) -> Path | None:
    """Check that a file can be written."""
    if path is not None and str(path) != "-":
        if path.is_dir():
            raise typer.BadParameter(f"{path} is a directory: give a file name")
        if not path.parent.is_dir():
            raise typer.BadParameter(f"directory {path.parent} does not exist")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise typer.BadParameter(f"{path} is not writable")
    return path


def report_file(path: Path | None) -> Path | None:
    """Check that an HTML report can be written and that the packages for it are installed."""
    missing = [name for name in ("jinja2", "matplotlib") if path and not find_spec(name)]
    if missing:
        raise typer.BadParameter(extras.missing("--html", " and ".join(missing), "load"))
    return writable_file(path)


Address = Annotated[
    str,
    typer.Option(
        envvar="LOCKSTEP_ADDRESS",
        metavar="HOST:PORT",
        callback=checked_address,
        help="Server address, or several, comma-separated.",
    ),
]
Encryption = Annotated[
    str,
    typer.Option(
        "--tls",
        envvar="LOCKSTEP_TLS",
        metavar="system|CA.pem",
        help="Use TLS with the system's certificates or those in CA.pem; the token is LOCKSTEP_TOKEN.",
    ),
]
Certificate = Annotated[
    str,
    typer.Option(
        "--tls-cert", envvar="LOCKSTEP_TLS_CERT", metavar="FILE", help="PEM file with your certificate."
    ),
]
Key = Annotated[
    str,
    typer.Option(
        "--tls-key", envvar="LOCKSTEP_TLS_KEY", metavar="FILE", help="PEM file with the key of --tls-cert."
    ),
]
Model = Annotated[str, typer.Option("--model", "-m", metavar="NAME", help="Name of the model.")]
Version = Annotated[
    str, typer.Option(metavar="N", help="Version of the model; the server's default if not given.")
]
Call = Annotated[
    CallKind | None,
    typer.Option(
        help="RPC to call; steps is ModelInfer with a sequence_id, one call per element."
        " If not given: the first that the model supports."
    ),
]
Rate = Annotated[
    float | None,
    typer.Option(
        metavar="R",
        callback=_above_zero("rate"),
        help="Open loop: send R requests per second whether or not earlier ones have been answered.",
    ),
]
StartRate = Annotated[
    float | None,
    typer.Option(
        metavar="R",
        callback=_above_zero("rate"),
        help="Rate of the first probe in requests per second; estimated if not given.",
    ),
]
Concurrency = Annotated[
    int | None, typer.Option(metavar="N", min=1, max=100_000, help="Closed loop: keep N requests in flight.")
]
Seconds = Annotated[
    float,
    typer.Option(
        metavar="S", callback=_above_zero("number of seconds"), help="Length of the measured part in seconds."
    ),
]
Arrivals = Annotated[ArrivalProcess, typer.Option(help="Arrival process of an open loop.")]
LengthsGiven = Annotated[
    str,
    typer.Option(
        "--lengths",
        metavar="LENGTHS",
        help="Request lengths: sst2, multi30k, a file (one length or text per line, or JSON), or one of 20,"
        " uniform:5,50, lognormal:20,0.6,max=200, zipf:1.1,max=200, bimodal:8,120,0.2.",
    ),
]
Ids = Annotated[
    str,
    typer.Option(metavar="LOW,HIGH", help="Send token ids from LOW to HIGH - 1 instead of texts."),
]
Rows = Annotated[int, typer.Option(min=1, max=4096, metavar="N", help="Sequences per request.")]
Tokens = Annotated[
    str,
    typer.Option(
        metavar="LENGTHS", help="Maximum number of tokens (Generate, Translate); same notation as --lengths."
    ),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        metavar="INPUT=D,D",
        help="ModelInfer: shape of an input; dimensions are numbers, rows or length.",
    ),
]
Fills = Annotated[
    list[str] | None,
    typer.Option(
        "--fill", metavar="INPUT=HOW", help="ModelInfer: values of an input: random, zeros, ones or length."
    ),
]
Warmup = Annotated[
    float,
    typer.Option(
        metavar="S",
        callback=_zero_or_more,
        help="Seconds of the same load before the measured part, excluded from all results.",
    ),
]
Timeout = Annotated[
    float,
    typer.Option(metavar="S", callback=_above_zero("timeout"), help="Deadline of each request in seconds."),
]
Processes = Annotated[
    int | None,
    typer.Option(min=1, max=256, metavar="N", help="Worker processes; chosen by the load if not given."),
]
Seed = Annotated[
    int,
    typer.Option(min=0, metavar="N", help="Random seed; the same seed gives the same schedule and requests."),
]
MaxLag = Annotated[
    float,
    typer.Option(
        metavar="MS",
        callback=_above_zero("bound"),
        help="Maximum p99 of the send lag in milliseconds; a run above it is invalid.",
    ),
]
MaxInFlight = Annotated[
    int, typer.Option(min=1, metavar="N", help="Maximum requests in flight in an open loop.")
]
Wait = Annotated[
    float,
    typer.Option(metavar="S", callback=_zero_or_more, help="Seconds to wait for the server to become ready."),
]
Metrics = Annotated[
    str,
    typer.Option(
        metavar="HOST:PORT",
        callback=_checked_metrics,
        help="Metrics address of the server; adds rows per run and queueing to the report. With --tls it is"
        " read over TLS, with the token in LOCKSTEP_METRICS_TOKEN, or else LOCKSTEP_TOKEN.",
    ),
]
Json = Annotated[
    Path | None,
    typer.Option(
        "--json", metavar="FILE", callback=writable_file, help="Write all results as JSON; - is stdout."
    ),
]
Jsonl = Annotated[
    Path | None,
    typer.Option(
        "--jsonl",
        metavar="FILE",
        callback=writable_file,
        help="Write one JSON line per second during the run; - is stdout.",
    ),
]
Html = Annotated[
    Path | None,
    typer.Option(
        "--html", metavar="FILE", callback=report_file, help="Write a self-contained HTML report with plots."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Do not show progress.")]


def lengths(option: str, given: str) -> Lengths:
    """Parse the lengths given to `option`."""
    try:
        return lengths_file.resolve_lengths(given)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=f"'{option}'") from None


def ids(given: str) -> tuple[int, int] | None:
    """Parse LOW,HIGH."""
    if not given:
        return None
    low, _, high = given.partition(",")
    if not (low.strip().isdecimal() and high.strip().isdecimal()) or int(low) >= int(high):
        raise typer.BadParameter(
            f"{given!r} is not a range of ids: use LOW,HIGH, such as 1,8000", param_hint="'--ids'"
        )
    if int(high) > 1 << 31:
        raise typer.BadParameter(f"{high} is too large for an id", param_hint="'--ids'")
    return int(low), int(high)


def tensor_overrides(shapes: list[str] | None, fills: list[str] | None) -> TensorOverrides:
    """Parse --shape and --fill."""
    return TensorOverrides(_named("--shape", shapes), _named("--fill", fills))


def processes(given: int | None, pattern: LoadPattern) -> int:
    """The given number of worker processes, or one that suits the load and the cores."""
    if given:
        return given
    if isinstance(pattern, OpenLoop):
        needed = pattern.rate / MAX_PER_PROCESS["rate"]
    else:
        needed = pattern.concurrency / MAX_PER_PROCESS["concurrency"]
    return max(1, min(math.ceil(needed), (os.cpu_count() or 1) // 2))


def numbers(option: str, given: str) -> list[float]:
    """Parse a list of numbers above 0."""
    try:
        found = [float(part) for part in given.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < one < math.inf for one in found):
        raise typer.BadParameter(
            f"{given!r} is not a list of numbers above 0, such as 50,100,200", param_hint=f"'{option}'"
        )
    return found


def whole_numbers(option: str, given: str) -> list[int]:
    """Parse a list of integers above 0; sorted, without duplicates."""
    found = numbers(option, given)
    if any(one != int(one) for one in found):
        raise typer.BadParameter(
            f"{given!r} is not a list of integers, such as 8,32,128", param_hint=f"'{option}'"
        )
    return sorted({int(one) for one in found})


def _named(option: str, given: list[str] | None) -> dict[str, str]:
    pairs: dict[str, Any] = {}
    for one in given or []:
        name, equals, value = one.partition("=")
        if not equals or not name or not value:
            raise typer.BadParameter(f"{one!r} is not of the form INPUT=VALUE", param_hint=f"'{option}'")
        pairs[name] = value
    return pairs
