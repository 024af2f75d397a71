"""The `lockstep` command: one verb per kind of request.

arguments → verb (verbs/) → call of a client → display. Exit codes: 0 success, 1 request failed or server not
serving, 2 usage error, 130 interrupted. An error is one line on stderr, or with --json one JSON object on
stdout.
"""

from __future__ import annotations

import io
import sys
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING, Annotated

import typer

from lockstep_client.interrupts import INTERRUPTED, leave
from lockstep_client.verbs import one_shot, server
from lockstep_client.verbs.capacity import capacity
from lockstep_client.verbs.completion import completion, prepare
from lockstep_client.verbs.context import report_error, verb
from lockstep_client.verbs.demo import demo
from lockstep_client.verbs.doctor import doctor
from lockstep_client.verbs.follow import follow
from lockstep_client.verbs.generate import generate
from lockstep_client.verbs.infer import describe, infer
from lockstep_client.verbs.load import load
from lockstep_client.verbs.race import race
from lockstep_client.verbs.runs import runs, why
from lockstep_client.verbs.sequence import sequence
from lockstep_client.verbs.translate import translate
from lockstep_client.verbs.ui import ui

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(
    name="lockstep",
    help="Command-line client of Lockstep: classify, encode, generate, translate and follow texts, run models"
    " on tensors, and see what a server does.",
    add_completion=False,
    no_args_is_help=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (
    verb(one_shot.classify),
    verb(one_shot.classify_tokens),
    verb(one_shot.encode),
    verb(one_shot.transcribe),
    verb(generate),
    verb(translate),
    verb(follow, timeout_s=None),
    verb(infer),
    verb(race),
    verb(ui, of_one_server=True),
    verb(server.models),
    verb(describe),
    verb(capacity),
    verb(server.stats, of_one_server=True),
    verb(server.health, of_one_server=True),
    verb(runs, timeout_s=None, of_one_server=True),
    verb(why, of_one_server=True),
):
    app.command()(command)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(verb(doctor))
for passing_on in (load, demo):  # they parse their own arguments
    app.command(
        add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
    )(passing_on)

app.command()(completion)
app.add_typer(server.repository, name="repository")
app.add_typer(sequence, name="sequence")


@app.callback(invoke_without_command=True)
def _lockstep(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"lockstep {installed_version('lockstep-inference')}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code. Raises BrokenPipeError if the reader closed stdout."""
    as_json = "--json" in arguments
    prepare()
    try:
        code = app(list(arguments), prog_name="lockstep", standalone_mode=False)
        sys.stdout.flush()
    except typer.TyperException as error:
        message = error.format_message()
        if message.startswith("Usage: "):  # a group without its verb
            typer.echo(message, err=True)
            return error.exit_code
        if "'--model'" in message and message.startswith("Missing"):
            message = f"{message.rstrip('.')}; `lockstep models` lists them"
        if message.startswith("No such option") and arguments[0].startswith("-"):
            message += "; options come after the verb: lockstep VERB --option"
        report_error(message, as_json, code="USAGE", meaning="usage")
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    return code if isinstance(code, int) else 0


def main() -> None:
    """The console script."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = run(sys.argv[1:])
    except BrokenPipeError:
        leave(1)  # the reader has closed the pipe; flushing at exit would fail again
    if code == INTERRUPTED:
        leave(code)
    sys.exit(code)
