"""The command line: `lockstep-export zoo list | train NAME | export NAME | check NAME | all`, and beside the
zoo `study NAME` and `variant FOLDER`.

The zoo's verbs stand beside `zoo` too: `lockstep-export train NAME` is `lockstep-export zoo train NAME`.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from lockstep_export.errors import ExportError
from lockstep_export.precision import KINDS
from lockstep_export.variants import make_variant
from lockstep_studies.command import app as studies
from lockstep_zoo.build_all import build_all
from lockstep_zoo.models import ZOO
from lockstep_zoo.pipeline import Pipeline
from lockstep_zoo.progress import terminal_progress
from lockstep_zoo.quality import quality
from lockstep_zoo.scores import table

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
    record = build_all(_workshop(out, work, quick), data, only or (), jobs)
    typer.echo(table(list(record.scores.values())))


@app.command("variant")
def variant(
    model: Annotated[Path, typer.Argument(help="The folder of a model: models/NAME.")],
    kind: Annotated[str, typer.Option(help=f"One of {', '.join(KINDS)}.")],
    out: Annotated[Path, typer.Option(help="The model repository that the variant goes to.")] = Path(
        "models"
    ),
    version: Annotated[int, typer.Option(help="Which version to make it of.")] = 1,
    data: Annotated[
        Path | None, typer.Option(help="The folder of the data of a model of the zoo: measures both on it.")
    ] = None,
) -> None:
    """Makes a variant of a model in fp16 or int8, and tells its agreement and speed beside the original; of
    a model of the zoo its quality too."""
    measure = None if data is None else partial(quality, data=data)
    for known in KINDS:
        if known == kind:
            make_variant(model, known, out, version, measure=measure)
            return
    raise ExportError(f"--kind: there is no {kind!r}; there are {', '.join(KINDS)}")


def main() -> None:
    """The console script: an expected error is one message on stderr and exit status 1."""
    try:
        app()
    except ExportError as error:
        typer.echo(f"lockstep-export: {error}", err=True)
        sys.exit(1)


def _workshop(out: Path | None, work: Path, quick: bool) -> Pipeline:
    torch.set_num_threads(1)  # small tensors gain nothing from more, and one thread repeats its sums exactly
    if quick:  # a trial run must not take the place of real models
        work = work / "quick"
    return Pipeline(
        out or (work / "models" if quick else REPOSITORY), work, typer.echo, quick, terminal_progress
    )


if __name__ == "__main__":
    main()
