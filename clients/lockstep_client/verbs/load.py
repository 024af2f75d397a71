"""`lockstep load`: runs the load generator, a separate package that parses its own arguments."""

import sys
from importlib import import_module

import typer

from lockstep_client import extras

PACKAGE = "lockstep_load"


def load(context: typer.Context) -> None:
    """Load tester: measure a server under load."""
    try:
        app = import_module(f"{PACKAGE}.command").app
        code = app(context.args, prog_name="lockstep load", standalone_mode=False)
    except ModuleNotFoundError as error:
        if (error.name or PACKAGE).startswith(PACKAGE):
            raise
        print(f"lockstep: {extras.missing('lockstep load', str(error.name), 'load')}", file=sys.stderr)
        raise typer.Exit(1) from None
    raise typer.Exit(code if isinstance(code, int) else 0)
