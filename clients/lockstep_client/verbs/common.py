"""What all verbs share: four options, a client, and errors that end in one line.

a verb's function, which takes an `Asking` and its own options → `verb` → a command that has --address, --tls,
--timeout and --json too. A token comes from LOCKSTEP_TOKEN, where no list of processes shows it. Exit codes:
1 refused or not serving, 2 wrong usage.
"""

import inspect
import math
import os
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from lockstep_client import address as addresses
from lockstep_client.texts import InputError

if TYPE_CHECKING:
    from lockstep_client.client import AsyncClient, Client
    from lockstep_client.errors import LockstepError

R = TypeVar("R")

TIMEOUT_S = 30.0


@dataclass(frozen=True)
class VerbContext:
    """One verb at work: the client, and how to print what comes."""

    client: "Client"
    as_json: bool
    timeout_s: float | None
    """None: not given, and the verb has no default."""
    how: dict[str, Any]
    """How to connect: what the client was made with, beside its address and deadline."""

    def run(self, work: "Callable[[AsyncClient], Coroutine[Any, Any, R]]") -> "R":
        """Do it with an AsyncClient, on an event loop that ends with it."""
        import asyncio

        from lockstep_client import interrupts
        from lockstep_client.client import AsyncClient

        async def worked() -> R:
            timeout_s = self.timeout_s or math.inf
            async with AsyncClient(self.client.address, timeout_s=timeout_s, **self.how) as client:
                return await work(client)

        with interrupts.raised():
            return asyncio.run(worked())


def _checked_address(value: str) -> str:
    try:
        return addresses.checked(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _checked_timeout(value: float | None) -> float | None:
    if value is not None and not 0 < value < float("inf"):
        raise typer.BadParameter(f"{value} is not a number of seconds above 0")
    return value


Address = Annotated[
    str,
    typer.Option(
        envvar="LOCKSTEP_ADDRESS", metavar="HOST:PORT", callback=_checked_address, help="Where the server is."
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
Timeout = Annotated[
    float | None, typer.Option(metavar="SECONDS", callback=_checked_timeout, help="Give up after this long.")
]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, one object a line.")]

# Options that some verbs take, each meaning the same everywhere.
Model = Annotated[str, typer.Option("--model", "-m", metavar="NAME", help="The model to ask.")]
Version = Annotated[str, typer.Option(metavar="N", help="The model's version; the default one if not given.")]
Texts = Annotated[
    list[str] | None, typer.Argument(metavar="TEXT", help="Texts; - or a pipe: one a line from stdin.")
]


def verb(function: Callable[..., None], *, timeout_s: float | None = TIMEOUT_S) -> Callable[..., None]:
    """A command of `function`, whose first parameter is the `Asking`; the others are its own options."""
    own = list(inspect.signature(function).parameters.values())[1:]

    def command(address: str, tls: str, timeout: float | None, as_json: bool, **options: Any) -> None:
        with verb_context(address, timeout, as_json, tls) as one:
            function(one, **options)

    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__annotations__ = {}
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            *(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own),
            _option("address", Address, addresses.DEFAULT),
            _option("tls", Encryption, ""),
            _option("timeout", Timeout, timeout_s),
            _option("as_json", Json, False),
        ]
    )
    return command


def _option(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


@contextmanager
def verb_context(
    address: str, timeout_s: float | None, as_json: bool, tls: str = ""
) -> Iterator[VerbContext]:
    """A client for one verb; its errors end the command with one line and exit code 1."""
    from lockstep_client.client import Client
    from lockstep_client.errors import LockstepError

    try:
        how = _how(tls)
        client = Client(address, timeout_s=timeout_s or TIMEOUT_S, **how)
    except ValueError as error:
        raise typer.BadParameter(str(error).replace("give tls", "give --tls")) from None
    with client:
        try:
            yield VerbContext(client, as_json, timeout_s, how)
        except LockstepError as error:
            report_error(_explained(error, client), as_json, **_fields(error))
            raise typer.Exit(1) from None
        except InputError as error:
            raise typer.BadParameter(str(error)) from None


def _how(tls: str) -> dict[str, Any]:
    from lockstep_client.tls import Tls

    encryption = Tls(roots=tls) if tls not in ("", "system") else tls == "system"
    return {"tls": encryption, "token": os.environ.get("LOCKSTEP_TOKEN", "")}


def _explained(error: "LockstepError", client: "Client") -> str:
    """The message, with what someone at a terminal can do about it."""
    from lockstep_client.errors import DeadlineExceeded, LockstepError, ModelNotFound, Unreachable

    if isinstance(error, Unreachable):
        return f"no server at {client.address}: start one with `make serve` or give --address"
    if isinstance(error, DeadlineExceeded):
        return error.message.replace("timeout_s", "--timeout")
    if isinstance(error, ModelNotFound) and "there are: " not in error.message:
        try:
            names = dict.fromkeys(state.name for state in client.models())
        except LockstepError:
            return error.message
        return f"{error.message.rstrip('.')}; the server has {', '.join(names) or 'no models'}"
    return error.message


def _fields(error: "LockstepError") -> dict[str, Any]:
    fields = {
        "code": error.code,
        "meaning": error.meaning,
        "retry_after_s": error.retry_after_s,
        "violations": [vars(v) for v in error.violations],
    }
    return {key: value for key, value in fields.items() if value not in (None, [])}


def report_error(message: str, as_json: bool, **fields: Any) -> None:
    """An error: one line on stderr, or one JSON object on stdout."""
    message = " ".join(message.split())
    if as_json:
        from lockstep_client import display

        display.json_line({**fields, "message": message})
    else:
        print(f"lockstep: {message}", file=sys.stderr)
