"""`lockstep models` and `lockstep health`: what the server holds, and whether it answers."""

from typing import Annotated

import typer

from lockstep_client.verbs.asking import Asking


def models(asking: Asking) -> None:
    """List the models that the server holds: name, version, state, reason."""
    from lockstep_client import show

    states = asking.client.models()
    if asking.as_json:
        for state in states:
            show.json_line(state)
    else:
        show.models(states)


def health(
    asking: Asking,
    model: Annotated[str, typer.Option("--model", "-m", metavar="NAME", help="Of this model only.")] = "",
) -> None:
    """Tell whether the server, or a model, answers now; exit code 1 if not."""
    from lockstep_client import show

    answer = asking.client.health(model)
    if asking.as_json:
        show.json_line({"address": asking.client.address, "serving": answer.serving} | vars(answer))
    else:
        show.health(answer)
    if not answer.serving:
        raise typer.Exit(1)
