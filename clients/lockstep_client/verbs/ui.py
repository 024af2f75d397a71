"""`lockstep ui`: serves a page that shows what the server does, from a separate package."""

from importlib import import_module
from typing import Annotated

import typer

from lockstep_client import extras
from lockstep_client.verbs.context import VerbContext, report_error

PACKAGE = "lockstep_ui"


def ui(
    context: VerbContext,
    host: Annotated[
        str,
        typer.Option(metavar="ADDRESS", help="Address to listen on. Whoever can connect can use your token."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="PORT", help="Port; 0 picks one.")] = 8003,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Another name that browsers may call the page by; may be repeated."
        ),
    ] = None,
) -> None:
    """Open a page in the browser: race, lockstep, translate, generate, classify, models.

    Serves it until Ctrl-C. Sites in the same browser cannot use it, and it never sees the token.
    """
    try:
        serving = import_module(f"{PACKAGE}.serving")
    except ModuleNotFoundError as error:
        if (error.name or PACKAGE).startswith(PACKAGE):
            raise
        report_error(extras.missing("lockstep ui", str(error.name), "ui"), context.as_json)
        raise typer.Exit(1) from None
    timeout_s = context.timeout_s or 30.0
    serving.serve(
        context.client.address, host, port, tuple(allow_host or ()), context.as_json,
        timeout_s=timeout_s, **context.connection,
    )  # fmt: skip
