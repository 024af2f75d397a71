"""`lockstep demo`: starts a server on the shipped models and shows each kind of call."""

import typer


def demo(context: typer.Context) -> None:
    """Start a server on the example models, show each kind of call, and stop it."""
    from lockstep_client.demo.__main__ import run

    raise typer.Exit(run(context.args))
