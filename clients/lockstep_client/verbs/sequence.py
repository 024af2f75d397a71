"""`lockstep sequence`: copies live sequences between servers, by way of files."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lockstep_client.verbs.context import VerbContext, Version, verb

if TYPE_CHECKING:
    from lockstep_client.sequences import LiveSequence

sequence = typer.Typer(
    help="Copy the state of a live sequence, and go on with it on this or another server.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
)
Model = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="File with the state.")]
Id = Annotated[str, typer.Option("--id", metavar="TEXT", help="Id of the sequence, a text.")]
Number = Annotated[int, typer.Option("--number", metavar="N", help="Id of the sequence, a number.")]
Stream = Annotated[
    str, typer.Option("--stream", metavar="ID", help="An open stream: the stream_id of its first part.")
]
Owner = Annotated[str, typer.Option(metavar="CALLER", help="Whose sequence it is; for admins.")]
Seed = Annotated[
    int | None, typer.Option(min=0, metavar="N", help="Go on with a text by the random numbers of this seed.")
]
NewId = Annotated[
    str,
    typer.Option("--as", metavar="TEXT", help="Id of the new sequence (default: as before, or a new one)."),
]


def get(
    context: VerbContext,
    model: Model,
    file: File,
    id_: Id = "",
    number: Number = 0,
    stream: Stream = "",
    owner: Owner = "",
    version: Version = "",
) -> None:
    """Write the state of a live sequence to a file. The sequence goes on."""
    from lockstep_client import display

    state = context.client.get_sequence(model, number or id_, stream_id=stream, owner=owner, version=version)
    try:
        file.write_bytes(state.state)
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}") from None
    shown = {"model": state.model, "version": state.version, "position": state.position}
    if context.as_json:
        display.json_line({**shown, "tokens": state.tokens, "bytes": len(state.state), "file": str(file)})
    else:
        print(f"{state.model} at position {state.position}: {len(state.state):,} bytes in {file}")


def put(context: VerbContext, file: File, new_id: NewId = "", seed: Seed = None) -> None:
    """Make a live sequence of the state in a file."""
    try:
        state = file.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}") from None
    _show(context, context.client.put_sequence(state, new_id, seed=seed))


def fork(
    context: VerbContext,
    model: Model,
    id_: Id = "",
    number: Number = 0,
    stream: Stream = "",
    owner: Owner = "",
    new_id: NewId = "",
    seed: Seed = None,
    version: Version = "",
) -> None:
    """Make a second live sequence of the state of one, which goes on."""
    state = context.client.get_sequence(model, number or id_, stream_id=stream, owner=owner, version=version)
    _show(context, context.client.put_sequence(state, new_id, seed=seed))


def _show(context: VerbContext, live: "LiveSequence") -> None:
    from lockstep_client import display

    if context.as_json:
        display.json_line(live)
        return
    print(live.sequence_id)
    print(f"{live.model} at position {live.position}", file=sys.stderr)


sequence.command("get")(verb(get))
sequence.command("put")(verb(put))
sequence.command("fork")(verb(fork))
