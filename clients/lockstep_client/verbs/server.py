"""`lockstep models` and `lockstep health`: what the server holds, and whether it answers."""

from typing import Annotated

import typer

from lockstep_client.verbs.common import VerbContext


def models(asking: VerbContext) -> None:
    """List the models that the server holds: name, version, state, reason."""
    from lockstep_client import display

    states = asking.client.models()
    if asking.as_json:
        for state in states:
            display.json_line(state)
    else:
        display.models(states)


def health(
    asking: VerbContext,
    model: Annotated[str, typer.Option("--model", "-m", metavar="NAME", help="Of this model only.")] = "",
) -> None:
    """Tell whether the server, or a model, answers now; exit code 1 if not."""
    from lockstep_client import display

    answer = asking.client.health(model)
    if asking.as_json:
        display.json_line({"address": asking.client.address, "serving": answer.serving} | vars(answer))
    else:
        display.health(answer)
    if not answer.serving:
        raise typer.Exit(1)
