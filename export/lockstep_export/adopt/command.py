"""`lockstep-export adopt`."""

from pathlib import Path
from typing import Annotated

import typer

from lockstep_export.adopt.adoption import TASKS, adopt
from lockstep_export.adopt.report import Report
from lockstep_export.errors import DescriptionError


def command(
    path: Annotated[Path, typer.Argument(help="An ONNX file, a folder of them, or a folder of optimum.")],
    out: Annotated[Path, typer.Option(help="Folder of the new model: models/NAME.")],
    task: Annotated[
        str | None, typer.Option(help=f"What the model does, if its files do not say it: {', '.join(TASKS)}.")
    ] = None,
    state: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INPUT=OUTPUT",
            help="The output that continues a state, if names do not say it; INPUT= for an input that is no"
            " state. Repeatable.",
        ),
    ] = None,
    version: Annotated[int, typer.Option(min=1, help="Version to write.")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the version if it exists.")] = False,
    link: Annotated[
        bool, typer.Option("--link", help="Hard links instead of copies, on the same file system.")
    ] = False,
    untested: Annotated[
        bool,
        typer.Option(
            "--untested", help="Write the model also if the self-test refuses it, to edit model.toml."
        ),
    ] = False,
) -> None:
    """Serves a graph that others exported: decides what its tensors mean, writes model.toml and tests it."""
    report = Report()
    try:
        adopt(
            path, out, task=task, states=dict(_pair(text) for text in state or ()), version=version,
            overwrite=overwrite, link=link, untested=untested, report=report,
        )  # fmt: skip
    finally:
        for line in report.lines():
            typer.echo(line)
    typer.echo(f"{out}/{version}: adopted")


def _pair(text: str) -> tuple[str, str]:
    name, equals, output = text.partition("=")
    if not equals:
        raise DescriptionError(f"--state {text}: write INPUT=OUTPUT")
    return name, output
