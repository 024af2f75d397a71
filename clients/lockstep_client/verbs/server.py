"""`lockstep models` and `lockstep health`: the models of a server and their state."""

from typing import Annotated

import typer

from lockstep_client.verbs.context import VerbContext


def models(context: VerbContext) -> None:
    """List the models of the server: name, version, state, reason."""
    from lockstep_client import display

    states = context.client.models()
    if context.as_json:
        for state in states:
            display.json_line(state)
    else:
        display.models(states)


def health(
    context: VerbContext,
    model: Annotated[str, typer.Option("--model", "-m", metavar="NAME", help="Check this model only.")] = "",
) -> None:
    """Check whether the server, or one model, is serving; exit code 1 if not."""
    from lockstep_client import display

    answer = context.client.health(model)
    if context.as_json:
        display.json_line({"address": context.client.address, "serving": answer.serving} | vars(answer))
    else:
        display.health(answer)
    if not answer.serving:
        raise typer.Exit(1)
