"""What all verbs share: the connection options, the client, and one-line errors.

verb function, which takes a `VerbContext` and its own options → `verb` → command that also has --address,
--tls, --tls-cert, --tls-key, --timeout and --json. The token comes from LOCKSTEP_TOKEN, because process
lists show command lines. Exit codes: 1 request failed or server not serving, 2 usage error.
"""

import difflib
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
from lockstep_client.texts import InputError, text_batches
from lockstep_client.verbs.completion import model_names

if TYPE_CHECKING:
    from lockstep_client.client import AsyncClient, Client
    from lockstep_client.errors import LockstepError

R = TypeVar("R")

TIMEOUT_S = 30.0


@dataclass(frozen=True)
class VerbContext:
    """One execution of a verb: its client and its output format."""

    client: "Client"
    as_json: bool
    timeout_s: float | None
    """None: the option was not given, and the verb has no default."""
    connection: dict[str, Any]
    """The other connection arguments of the client."""

    def text_batches(self, arguments: list[str] | None) -> Iterator[list[str]]:
        """The texts of the command line or of stdin, as `texts.text_batches`. A blank line is an error of its
        own: the others are answered, and the exit code is 1."""
        blank: list[int] = []

        def report(number: int) -> None:
            blank.append(number)
            message = f"line {number} is empty: expected one text per line"
            report_error(
                message, self.as_json, code="INVALID_ARGUMENT", meaning="invalid_request", line=number
            )

        yield from text_batches(arguments or [], report)
        if blank:
            raise typer.Exit(1)

    def run(self, work: "Callable[[AsyncClient], Coroutine[Any, Any, R]]") -> "R":
        """Run `work` with an AsyncClient on a new event loop."""
        import asyncio

        from lockstep_client import interrupts
        from lockstep_client.client import AsyncClient

        async def run_work() -> R:
            timeout_s = self.timeout_s or math.inf
            async with AsyncClient(self.client.address, timeout_s=timeout_s, **self.connection) as client:
                return await work(client)

        with interrupts.raised():
            return asyncio.run(run_work())


def _checked_address(value: str) -> str:
    try:
        return addresses.checked(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _checked_timeout(value: float | None) -> float | None:
    if value is not None and not 0 < value < float("inf"):
        raise typer.BadParameter(f"{value} is not a finite number of seconds above 0")
    return value


Address = Annotated[
    str,
    typer.Option(
        envvar="LOCKSTEP_ADDRESS",
        metavar="HOST:PORT",
        callback=_checked_address,
        help="Address of the server, or of several, separated by commas.",
    ),
]
Encryption = Annotated[
    str,
    typer.Option(
        "--tls",
        envvar="LOCKSTEP_TLS",
        metavar="system|CA.pem",
        help="Use TLS and trust the system's certificates or CA.pem. Set LOCKSTEP_TOKEN to send a token.",
    ),
]
Certificate = Annotated[
    str,
    typer.Option(
        "--tls-cert",
        envvar="LOCKSTEP_TLS_CERT",
        metavar="FILE",
        help="PEM file with your certificate, for servers that require one.",
    ),
]
Key = Annotated[
    str,
    typer.Option(
        "--tls-key", envvar="LOCKSTEP_TLS_KEY", metavar="FILE", help="PEM file with the key of --tls-cert."
    ),
]
Timeout = Annotated[
    float | None, typer.Option(metavar="SECONDS", callback=_checked_timeout, help="Deadline of each request.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]

# Options that several verbs share.
Model = Annotated[
    str,
    typer.Option("--model", "-m", metavar="NAME", help="Name of the model.", autocompletion=model_names),
]
Version = Annotated[
    str, typer.Option(metavar="N", help="Version of the model (default: the server's choice).")
]
Texts = Annotated[
    list[str] | None,
    typer.Argument(metavar="TEXT", help="Texts. With - or in a pipe: one text per line of stdin."),
]


def verb(
    function: Callable[..., None], *, timeout_s: float | None = TIMEOUT_S, of_one_server: bool = False
) -> Callable[..., None]:
    """Make a command of `function`, whose first parameter is a `VerbContext` and whose others are options.

    `of_one_server`: it is about a server, so that several addresses are an error.
    """
    options_of_verb = list(inspect.signature(function).parameters.values())[1:]

    def command(
        address: str,
        tls: str,
        tls_cert: str,
        tls_key: str,
        timeout: float | None,
        as_json: bool,
        **options: Any,
    ) -> None:
        if of_one_server and len(addresses.split(address)) > 1:
            raise typer.BadParameter(
                "this is about one server: give the address of one", param_hint="--address"
            )
        with verb_context(address, timeout, as_json, (tls, tls_cert, tls_key)) as context:
            function(context, **options)

    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__annotations__ = {}
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            *(context.replace(kind=inspect.Parameter.KEYWORD_ONLY) for context in options_of_verb),
            _option("address", Address, addresses.DEFAULT),
            _option("tls", Encryption, ""),
            _option("tls_cert", Certificate, ""),
            _option("tls_key", Key, ""),
            _option("timeout", Timeout, timeout_s),
            _option("as_json", Json, False),
        ]
    )
    return command


def _option(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


@contextmanager
def verb_context(
    address: str, timeout_s: float | None, as_json: bool, tls: tuple[str, str, str] = ("", "", "")
) -> Iterator[VerbContext]:
    """The context of one verb. A LockstepError ends the command with one line and exit code 1."""
    from lockstep_client.client import Client
    from lockstep_client.errors import LockstepError

    try:
        connection = _connection_options(*tls)
        client = Client(address, timeout_s=timeout_s or TIMEOUT_S, **connection)
    except ValueError as error:
        raise typer.BadParameter(str(error).replace("set tls", "set --tls")) from None
    with client:
        try:
            yield VerbContext(client, as_json, timeout_s, connection)
        except LockstepError as error:
            report_error(_message_for_terminal(error, client, tls), as_json, **_json_fields(error))
            raise typer.Exit(1) from None
        except InputError as error:
            raise typer.BadParameter(str(error)) from None


def _connection_options(tls: str, certificate: str, key: str) -> dict[str, Any]:
    from lockstep_client.tls import of_options

    return {"tls": of_options(tls, certificate, key), "token": os.environ.get("LOCKSTEP_TOKEN", "")}


def _message_for_terminal(error: "LockstepError", client: "Client", tls: tuple[str, str, str]) -> str:
    """The error message, with the command-line option or step that fixes the problem."""
    from lockstep_client import errors
    from lockstep_client.diagnosis import why_unreachable

    if isinstance(error, errors.Unreachable):
        if why := why_unreachable(client.address, *tls[:2]):
            return f"cannot connect to {client.address}: {why}"
        return f"no server at {client.address}: start one with `make serve` or set --address"
    if isinstance(error, errors.DeadlineExceeded):
        return error.message.replace("timeout_s", "--timeout")
    if isinstance(error, errors.Unsupported) and error.message.startswith(_NO_METHOD):
        return f"{client.address} does not offer this call: it is not a Lockstep server, or an older one"
    if isinstance(error, errors.ModelNotFound) and "is not served" not in error.message:
        return _with_available(error, client)
    return error.message


_NO_METHOD = ("Method not found", "unknown service", "unknown method")
"""How gRPC servers in Python, Java and Go begin the message about a method that they do not have."""


def _with_available(error: "LockstepError", client: "Client") -> str:
    """The message about an unknown model, with the most similar name and all names."""
    from lockstep_client.errors import LockstepError

    message = error.message.rstrip(".")
    try:
        names = dict.fromkeys(state.name for state in client.models())
    except LockstepError:
        return message
    close = difflib.get_close_matches(error.resource, names, 1) if error.resource not in names else []
    if close:
        message += f"; did you mean {close[0]!r}?"
    if "available: " in message:
        return message
    return f"{message}{' Available:' if close else '; available:'} {', '.join(names) or 'none'}"


def _json_fields(error: "LockstepError") -> dict[str, Any]:
    fields = {
        "code": error.code,
        "meaning": error.meaning,
        "retry_after_s": error.retry_after_s,
        "violations": [vars(v) for v in error.violations],
    }
    return {key: value for key, value in fields.items() if value not in (None, [])}


def report_error(message: str, as_json: bool, **fields: Any) -> None:
    """Print an error as one line on stderr, or as one JSON object on stdout."""
    message = " ".join(message.split())
    if as_json:
        from lockstep_client import display

        display.json_line({**fields, "message": message})
    else:
        print(f"lockstep: {message}", file=sys.stderr)
