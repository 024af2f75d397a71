"""The command line: `lockstep-export zoo list | train NAME | export NAME | check NAME | all`, and beside the
zoo `study NAME` and `variant FOLDER`.

The zoo's verbs stand beside `zoo` too: `lockstep-export train NAME` is `lockstep-export zoo train NAME`.
"""

import sys
from pathlib import Path
from typing import Annotated

import torch
import typer

from lockstep_export.bars import terminal_bars
from lockstep_export.crew import make
from lockstep_export.errors import ExportError
from lockstep_export.scores import table
from lockstep_export.studies.command import app as studies
from lockstep_export.variants import variant
from lockstep_export.workshop import Workshop
from lockstep_export.zoo import ZOO

app = typer.Typer(
    help="Train the zoo's sequence models, export them to ONNX and prove them equal.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
zoo = typer.Typer(help="The models that ship: list them, or any verb below.", no_args_is_help=True)
app.add_typer(zoo, name="zoo")
app.add_typer(studies, name="study")

Name = Annotated[str, typer.Argument(help="A name of `zoo list`.")]
Data = Annotated[Path, typer.Option(help="Folder with the data sets; models/README.md says which.")]
Out = Annotated[
    Path | None, typer.Option(help="The model repository; models, or with --quick WORK/quick/models.")
]
Work = Annotated[Path, typer.Option(help="Checkpoints and drafts; training resumes from here.")]
Quick = Annotated[bool, typer.Option("--quick", help="Little data, one epoch: a trial run, not for serving.")]
Only = Annotated[
    list[str] | None, typer.Option(help="This model only, the others as recorded; may be given again.")
]
Jobs = Annotated[
    int, typer.Option(min=1, help="Models that are made side by side, a process of one thread each.")
]

REPOSITORY, WORK = Path("models"), Path("build/export")


@zoo.command("list")
def list_zoo() -> None:
    """Names every model and what it is."""
    for recipe in ZOO.values():
        typer.echo(f"{recipe.name:<24} {recipe.about}")


@zoo.command()
@app.command()
def train(name: Name, data: Data, out: Out = None, work: Work = WORK, quick: Quick = False) -> None:
    """Trains one model, or goes on from its last finished epoch."""
    workshop = _workshop(out, work, quick)
    workshop.train(name, workshop.prepare(data, name))


@zoo.command()
@app.command()
def export(name: Name, out: Out = None, work: Work = WORK, quick: Quick = False) -> None:
    """Exports one trained model and publishes it if parity holds."""
    _workshop(out, work, quick).export(name)


@zoo.command()
@app.command()
def check(name: Name, out: Out = None, work: Work = WORK, quick: Quick = False) -> None:
    """Proves a published model again."""
    _workshop(out, work, quick).check(name)


@zoo.command("all")
@app.command("all")
def everything(
    data: Data,
    only: Only = None,
    jobs: Jobs = 1,
    out: Out = None,
    work: Work = WORK,
    quick: Quick = False,
) -> None:
    """Trains, exports, proves and measures every model, and writes the accuracy table and the cards."""
    record = make(_workshop(out, work, quick), data, only or (), jobs)
    typer.echo(table(list(record.scores.values())))


app.command("variant")(variant)


def main() -> None:
    """The console script: an expected error is one message on stderr and exit status 1."""
    try:
        app()
    except ExportError as error:
        typer.echo(f"lockstep-export: {error}", err=True)
        sys.exit(1)


def _workshop(out: Path | None, work: Path, quick: bool) -> Workshop:
    torch.set_num_threads(1)  # small tensors gain nothing from more, and one thread repeats its sums exactly
    if quick:  # a trial run must not take the place of real models
        work = work / "quick"
    return Workshop(out or (work / "models" if quick else REPOSITORY), work, typer.echo, quick, terminal_bars)


if __name__ == "__main__":
    main()
