"""The reference of the command line, from the commands themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from lockstep_client.cli import app as client
from lockstep_export.cli import app as export
from lockstep_load.command import app as load
from lockstep_server.settings import command as serve

if TYPE_CHECKING:
    from .pages import Pages

PROGRAMS: dict[str, tuple[str, Any]] = {
    "lockstep": ("The client. `lockstep COMMAND --help` prints the same.", typer.main.get_command(client)),
    "lockstep load": (
        "The load tester. [Load testing](../load.md) explains it.",
        typer.main.get_command(load),
    ),
    "lockstep-serve": (
        "The server. [Settings](../settings.md) says how flags, variables and a file go together.",
        serve(lambda _: 0, ""),
    ),
    "lockstep-export": (
        "Exports and adopts models: [Serve your own model](../serve-your-own.md).",
        typer.main.get_command(export),
    ),
}


def command_pages() -> Pages:
    """A page for each program."""
    return {
        f"reference/{name.replace(' ', '-')}.md": "\n".join(
            [f"# {name}", "", about, "", *_command(name, program, 1)]
        )
        for name, (about, program) in PROGRAMS.items()
    }


def _command(name: str, command: Any, level: int) -> list[str]:
    context = command.context_class(command, info_name=name)
    usage = f"{name} {' '.join(command.collect_usage_pieces(context))}"
    lines = [f"{'#' * level} {name}", ""] if level > 1 else []
    lines += [*_prose(command.help or ""), "", "```text", usage, "```", "", *_parameters(command, context)]
    for verb, inside in getattr(command, "commands", {}).items():
        if (name, verb) != ("lockstep", "load") and not inside.hidden:  # load has a page of its own
            lines += _command(f"{name} {verb}", inside, level + 1)
    return lines


def _prose(text: str) -> list[str]:
    """A help text as Markdown: `\\b` marks a paragraph whose lines are kept."""
    lines: list[str] = []
    for paragraph in text.replace("\f", "").strip().split("\n\n"):
        if paragraph.startswith("\b"):
            lines += ["```text", *paragraph.removeprefix("\b").strip("\n").splitlines(), "```", ""]
        else:
            lines += [_escaped(" ".join(paragraph.split())), ""]
    return lines[:-1]


def _parameters(command: Any, context: Any) -> list[str]:
    rows = []
    for parameter in command.params:
        if getattr(parameter, "hidden", False):
            continue
        found = parameter.get_help_record(context)
        if found is None:  # an argument of click, which describes none
            found = (parameter.make_metavar(context), getattr(parameter, "help", "") or "")
        name, text = found
        rows.append(f"| `{name.replace('|', chr(92) + '|')}` | {_escaped(' '.join(text.split()))} |")
    return ["| | |", "|---|---|", *rows, ""] if rows else []


def _escaped(text: str) -> str:
    for sign in ("\\", "|", "<", ">", "*", "_", "[", "]"):
        text = text.replace(sign, f"\\{sign}")
    return text
