"""The options of the commands, checked before anything is sent: errors name the option and the remedy."""

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
"""Above, a further process helps, as far as there are cores."""


def checked_address(value: str) -> str:
    """HOST:PORT."""
    try:
        return addresses.checked(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _checked_metrics(value: str) -> str:
    return checked_address(value) if value else value


def _above_zero(what: str) -> Callable[[float | None], float | None]:
    def check(value: float | None) -> float | None:
        if value is not None and not 0 < value < math.inf:
            raise typer.BadParameter(f"{value:g} is not a {what} above 0")
        return value

    return check


def _zero_or_more(value: float) -> float:
    if not 0 <= value < math.inf:
        raise typer.BadParameter(f"{value:g} is not a number of seconds from 0 up")
    return value


def writable_file(path: Path | None) -> Path | None:
    """A file that can be made."""
    if path is not None and str(path) != "-":
        if path.is_dir():
            raise typer.BadParameter(f"{path} is a folder: name a file in it")
        if not path.parent.is_dir():
            raise typer.BadParameter(f"there is no folder {path.parent}")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise typer.BadParameter(f"{path} cannot be written")
    return path


def report_file(path: Path | None) -> Path | None:
    """An HTML report that can be made: its packages are there too."""
    missing = [name for name in ("jinja2", "matplotlib") if path and not find_spec(name)]
    if missing:
        raise typer.BadParameter(extras.missing("--html", " and ".join(missing), "load"))
    return writable_file(path)


Address = Annotated[
    str,
    typer.Option(
        envvar="LOCKSTEP_ADDRESS", metavar="HOST:PORT", callback=checked_address, help="Where the server is."
    ),
]
Encryption = Annotated[
    str,
    typer.Option(
        "--tls",
        envvar="LOCKSTEP_TLS",
        metavar="system|CA.pem",
        help="Encrypt, and whose certificates to trust. A token goes in LOCKSTEP_TOKEN.",
    ),
]
Model = Annotated[str, typer.Option("--model", "-m", metavar="NAME", help="The model to ask.")]
Version = Annotated[str, typer.Option(metavar="N", help="The model's version; the default one if not given.")]
Call = Annotated[
    CallKind | None,
    typer.Option(
        help="What to ask: an RPC, or steps: ModelInfer with a sequence_id, a call for each element."
        " If not given: the first that the model answers."
    ),
]
Rate = Annotated[
    float | None,
    typer.Option(
        metavar="R", callback=_above_zero("rate"), help="Open loop: R requests a second, come what may."
    ),
]
Concurrency = Annotated[
    int | None, typer.Option(metavar="N", min=1, max=100_000, help="Closed loop: N requests in flight.")
]
Seconds = Annotated[
    float, typer.Option(metavar="S", callback=_above_zero("number of seconds"), help="How long is measured.")
]
Arrivals = Annotated[ArrivalProcess, typer.Option(help="How an open loop's requests are spaced.")]
LengthsGiven = Annotated[
    str,
    typer.Option(
        "--lengths",
        metavar="LENGTHS",
        help="sst2, multi30k, a file (a length or a text a line, or JSON), or a distribution: 20,"
        " uniform:5,50, lognormal:20,0.6,max=200, zipf:1.1,max=200, bimodal:8,120,0.2.",
    ),
]
Ids = Annotated[
    str,
    typer.Option(metavar="LOW,HIGH", help="Ask with token ids from LOW up to below HIGH, not with texts."),
]
Rows = Annotated[int, typer.Option(min=1, max=4096, metavar="N", help="Sequences in a request.")]
Tokens = Annotated[
    str,
    typer.Option(
        metavar="LENGTHS", help="Tokens to make at most (Generate, Translate); written as --lengths."
    ),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--shape", metavar="INPUT=D,D", help="ModelInfer: an input's shape, of numbers, rows and length."
    ),
]
Fills = Annotated[
    list[str] | None,
    typer.Option("--fill", metavar="INPUT=HOW", help="ModelInfer: random, zeros, ones or length."),
]
Warmup = Annotated[
    float,
    typer.Option(metavar="S", callback=_zero_or_more, help="The same load before, left out of all numbers."),
]
Timeout = Annotated[
    float, typer.Option(metavar="S", callback=_above_zero("timeout"), help="Of each request.")
]
Processes = Annotated[
    int | None,
    typer.Option(min=1, max=256, metavar="N", help="Generator processes; by the load if not given."),
]
Seed = Annotated[int, typer.Option(min=0, metavar="N", help="One seed, one schedule and the same requests.")]
MaxLag = Annotated[
    float,
    typer.Option(
        metavar="MS", callback=_above_zero("bound"), help="p99 of sending late, above which a run is invalid."
    ),
]
MaxInFlight = Annotated[int, typer.Option(min=1, metavar="N", help="Of an open loop, to spare this machine.")]
Wait = Annotated[
    float, typer.Option(metavar="S", callback=_zero_or_more, help="Wait so long for a server to be there.")
]
Metrics = Annotated[
    str,
    typer.Option(
        metavar="HOST:PORT",
        callback=_checked_metrics,
        help="The server's metrics, to show beside: rows a run, queue.",
    ),
]
Json = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", callback=writable_file, help="Everything, as JSON; - is stdout."),
]
Jsonl = Annotated[
    Path | None,
    typer.Option(
        "--jsonl", metavar="FILE", callback=writable_file, help="A line of JSON a second, as it goes."
    ),
]
Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", callback=report_file, help="A report with plots, in one file."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]


def lengths(option: str, given: str) -> Lengths:
    """What an option names."""
    try:
        return lengths_file.resolve_lengths(given)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=f"'{option}'") from None


def ids(given: str) -> tuple[int, int] | None:
    """LOW,HIGH."""
    if not given:
        return None
    low, _, high = given.partition(",")
    if not (low.strip().isdecimal() and high.strip().isdecimal()) or int(low) >= int(high):
        raise typer.BadParameter(
            f"{given!r} is no range of ids: write LOW,HIGH, as in 1,8000", param_hint="'--ids'"
        )
    if int(high) > 1 << 31:
        raise typer.BadParameter(f"{high} is too large for an id", param_hint="'--ids'")
    return int(low), int(high)


def tensor_overrides(shapes: list[str] | None, fills: list[str] | None) -> TensorOverrides:
    """What is said of tensors."""
    return TensorOverrides(_named("--shape", shapes), _named("--fill", fills))


def processes(given: int | None, pattern: LoadPattern) -> int:
    """As many as were asked for, or as the load and the cores suggest."""
    if given:
        return given
    if isinstance(pattern, OpenLoop):
        needed = pattern.rate / MAX_PER_PROCESS["rate"]
    else:
        needed = pattern.concurrency / MAX_PER_PROCESS["concurrency"]
    return max(1, min(math.ceil(needed), (os.cpu_count() or 1) // 2))


def numbers(option: str, given: str) -> list[float]:
    """Several numbers above 0."""
    try:
        found = [float(part) for part in given.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < one < math.inf for one in found):
        raise typer.BadParameter(
            f"{given!r}: give numbers above 0, as in 50,100,200", param_hint=f"'{option}'"
        )
    return found


def whole_numbers(option: str, given: str) -> list[int]:
    """Several whole numbers above 0, ascending."""
    found = numbers(option, given)
    if any(one != int(one) for one in found):
        raise typer.BadParameter(f"{given!r}: give whole numbers, as in 8,32,128", param_hint=f"'{option}'")
    return sorted({int(one) for one in found})


def _named(option: str, given: list[str] | None) -> dict[str, str]:
    pairs: dict[str, Any] = {}
    for one in given or []:
        name, equals, value = one.partition("=")
        if not equals or not name or not value:
            raise typer.BadParameter(f"{one!r}: write INPUT=VALUE", param_hint=f"'{option}'")
        pairs[name] = value
    return pairs
