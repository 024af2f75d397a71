"""The `lockstep` command: one verb for each thing a server can be asked.

arguments → a verb → a client's call → show.py. Exit codes: 0 fine, 1 refused or not serving, 2 wrong usage,
130 interrupted. Errors are one line on stderr, or one JSON object on stdout with --json. What takes time to
import is imported by the verb that needs it.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import contextmanager
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lockstep_client import address as addresses
from lockstep_client.texts import InputError, given

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lockstep_client.client import Client
    from lockstep_client.errors import LockstepError

app = typer.Typer(
    name="lockstep",
    help="Ask a Lockstep server: labels, vectors, models, health.",
    add_completion=False,
    no_args_is_help=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _checked_address(value: str) -> str:
    try:
        return addresses.checked(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _checked_timeout(value: float) -> float:
    if not 0 < value < float("inf"):
        raise typer.BadParameter(f"{value} is not a number of seconds above 0")
    return value


# Every verb takes these three.
Address = Annotated[
    str,
    typer.Option(
        envvar="LOCKSTEP_ADDRESS", metavar="HOST:PORT", callback=_checked_address, help="Where the server is."
    ),
]
Timeout = Annotated[
    float, typer.Option(metavar="SECONDS", callback=_checked_timeout, help="Give up after this long.")
]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, one object a line.")]

Model = Annotated[str, typer.Option("--model", "-m", metavar="NAME", help="The model to ask.")]
Version = Annotated[str, typer.Option(metavar="N", help="The model's version; the default one if not given.")]
Texts = Annotated[
    list[str] | None, typer.Argument(metavar="TEXT", help="Texts; - or a pipe: one a line from stdin.")
]

TIMEOUT_S = 30.0


@app.callback(invoke_without_command=True)
def _lockstep(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"lockstep {installed_version('lockstep')}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def classify(
    model: Model,
    texts: Texts = None,
    top_k: Annotated[int, typer.Option(min=0, help="Labels for each text; 0: all.")] = 1,
    version: Version = "",
    address: Address = addresses.DEFAULT,
    timeout: Timeout = TIMEOUT_S,
    as_json: Json = False,
) -> None:
    """Label each text: label, probability, text."""
    from lockstep_client import show

    with _asking(address, timeout, as_json) as client:
        for some in given(texts or []):
            answers = client.classify(model, some, top_k=top_k, version=version)
            if as_json:
                for text, answer in zip(some, answers, strict=True):
                    show.json_line({"text": text} | vars(answer))
            else:
                show.classifications(some, answers)
                show.notices(answers)


@app.command()
def encode(
    model: Model,
    texts: Texts = None,
    attention: Annotated[bool, typer.Option("--attention", help="Attention weights too.")] = False,
    version: Version = "",
    address: Address = addresses.DEFAULT,
    timeout: Timeout = TIMEOUT_S,
    as_json: Json = False,
) -> None:
    """Turn each text into a vector."""
    from lockstep_client import show

    with _asking(address, timeout, as_json) as client:
        for some in given(texts or []):
            answers = client.encode(model, some, attention=attention, version=version)
            if as_json:
                for text, answer in zip(some, answers, strict=True):
                    show.json_line({"text": text} | vars(answer))
            else:
                show.encodings(some, answers)
                show.notices(answers)


@app.command()
def models(address: Address = addresses.DEFAULT, timeout: Timeout = TIMEOUT_S, as_json: Json = False) -> None:
    """List the models that the server holds: name, version, state, reason."""
    from lockstep_client import show

    with _asking(address, timeout, as_json) as client:
        states = client.models()
        if as_json:
            for state in states:
                show.json_line(state)
        else:
            show.models(states)


@app.command()
def health(
    model: Annotated[str, typer.Option("--model", "-m", metavar="NAME", help="Of this model only.")] = "",
    address: Address = addresses.DEFAULT,
    timeout: Timeout = TIMEOUT_S,
    as_json: Json = False,
) -> None:
    """Tell whether the server, or a model, answers now; exit code 1 if not."""
    from lockstep_client import show

    with _asking(address, timeout, as_json) as client:
        answer = client.health(model)
        if as_json:
            show.json_line({"address": address, "serving": answer.serving} | vars(answer))
        else:
            show.health(answer)
    if not answer.serving:
        raise typer.Exit(1)


@contextmanager
def _asking(address: str, timeout_s: float, as_json: bool) -> Iterator[Client]:
    """A client for one verb; its errors end the command with one line and exit code 1."""
    from lockstep_client.client import Client
    from lockstep_client.errors import LockstepError

    with Client(address, timeout_s=timeout_s) as client:
        try:
            yield client
        except LockstepError as error:
            _tell(_explained(error, client), as_json, **_fields(error))
            raise typer.Exit(1) from None
        except InputError as error:
            raise typer.BadParameter(str(error)) from None


def _explained(error: LockstepError, client: Client) -> str:
    """The message, with what someone at a terminal can do about it."""
    from lockstep_client.errors import DeadlineExceeded, LockstepError, ModelNotFound, Unreachable

    if isinstance(error, Unreachable):
        return f"no server at {client.address}: start one with `make serve` or give --address"
    if isinstance(error, DeadlineExceeded):
        return error.message.replace("timeout_s", "--timeout")
    if isinstance(error, ModelNotFound):
        try:
            names = dict.fromkeys(state.name for state in client.models())
        except LockstepError:
            return error.message
        return f"{error.message.rstrip('.')}; the server has {', '.join(names) or 'no models'}"
    return error.message


def _fields(error: LockstepError) -> dict[str, Any]:
    fields = {
        "code": error.code,
        "meaning": error.meaning,
        "retry_after_s": error.retry_after_s,
        "violations": [vars(v) for v in error.violations],
    }
    return {key: value for key, value in fields.items() if value not in (None, [])}


def _tell(message: str, as_json: bool, **fields: Any) -> None:
    message = " ".join(message.split())
    if as_json:
        from lockstep_client import show

        show.json_line({**fields, "message": message})
    else:
        print(f"lockstep: {message}", file=sys.stderr)


def run(arguments: Sequence[str]) -> int:
    """The command with these arguments; its exit code."""
    as_json = "--json" in arguments
    try:
        code = app(list(arguments), prog_name="lockstep", standalone_mode=False)
        sys.stdout.flush()
    except typer.TyperException as error:
        _tell(error.format_message(), as_json, code="USAGE", meaning="usage")
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        # The reader of the pipe has what it wanted; nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code if isinstance(code, int) else 0


def main() -> None:
    """The console script."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))
