"""`lockstep load`: the load generator, whose packages are an extra. It parses what follows by itself."""

import sys
from importlib import import_module

import typer

OWN = "lockstep_load"


def load(context: typer.Context) -> None:
    """Measure a server under load; see lockstep load --help."""
    try:
        app = import_module(f"{OWN}.command").app
        code = app(context.args, prog_name="lockstep load", standalone_mode=False)
    except ModuleNotFoundError as error:
        if (error.name or OWN).startswith(OWN):
            raise
        needed = f"`lockstep load` needs the package {error.name}: pip install 'lockstep-inference[load]'"
        print(f"lockstep: {needed}", file=sys.stderr)
        raise typer.Exit(1) from None
    raise typer.Exit(code if isinstance(code, int) else 0)
