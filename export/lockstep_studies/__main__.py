"""`python -m lockstep_studies NAME`: the same as `lockstep-export study NAME`."""

import sys

import typer

from lockstep_export.errors import ExportError
from lockstep_studies.command import app


def main() -> None:
    """An expected error is one message on stderr and exit status 1."""
    try:
        app()
    except ExportError as error:
        typer.echo(f"lockstep-export: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
