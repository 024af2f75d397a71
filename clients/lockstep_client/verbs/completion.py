"""`lockstep completion`: scripts with which a shell completes the commands, and names of models."""

import os
import shutil
import subprocess
from enum import StrEnum
from typing import Annotated

import typer

_TIMEOUT_S = 1.0


class Shell(StrEnum):
    """The shells that there are scripts for."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


def completion(shell: Annotated[Shell, typer.Argument(metavar="bash|zsh|fish", help="Your shell.")]) -> None:
    """Print a script that completes this command and those of the server and the exporter: eval "$(lockstep
    completion bash)"."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    for command in ("lockstep", "lockstep-export"):
        variable = f"_{command.upper().replace('-', '_')}_COMPLETE"
        typer.echo(get_completion_script(prog_name=command, complete_var=variable, shell=shell.value))
    if serve := shutil.which("lockstep-serve"):
        environment = os.environ | {"_LOCKSTEP_SERVE_COMPLETE": f"{shell.value}_source"}
        made = subprocess.run(
            [serve], env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        typer.echo(made.stdout if made.returncode == 0 else "")


def prepare() -> None:
    """If a shell asks for completions, let typer know the shells."""
    if "_LOCKSTEP_COMPLETE" in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()


def model_names(incomplete: str) -> list[str]:
    """The models of the server at LOCKSTEP_ADDRESS; none if it does not answer at once."""
    from lockstep_client import address
    from lockstep_client.client import Client
    from lockstep_client.errors import LockstepError
    from lockstep_client.tls import of_options

    asked = {name: os.environ.get(f"LOCKSTEP_{name}", "") for name in ("TLS", "TLS_CERT", "TLS_KEY", "TOKEN")}
    try:
        tls = of_options(asked["TLS"], asked["TLS_CERT"], asked["TLS_KEY"])
        place = os.environ.get("LOCKSTEP_ADDRESS", address.DEFAULT)
        with Client(place, timeout_s=_TIMEOUT_S, tls=tls, token=asked["TOKEN"]) as client:
            names = {state.name for state in client.models(ready=True)}
    except (LockstepError, ValueError, OSError):
        return []
    return sorted(name for name in names if name.startswith(incomplete))
