"""`lockstep-export study list | NAME | all`: a verb for each study of the catalogue."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from typer.core import TyperGroup

from lockstep_export.errors import ExportError
from lockstep_studies.catalogue import STUDIES
from lockstep_studies.drawing import check_drawing
from lockstep_studies.report import check_folder, recorded, write
from lockstep_studies.study import AnyStudy, StudySettings
from lockstep_studies.terminal import show, watched


class Catalogue(TyperGroup):
    """Tells an unknown name with the known ones."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The verb of that name, or ExportError."""
        found = super().get_command(ctx, cmd_name)
        if found is None:
            raise ExportError(f"no study {cmd_name!r}; there are: {', '.join(STUDIES)} (or list, all)")
        return found


app = typer.Typer(
    help="What the architectures can and cannot, measured: a table, a picture, two sentences.",
    cls=Catalogue,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Out = Annotated[Path, typer.Option(help="Folder for NAME.json, NAME.svg and a README.md of all in it.")]
Models = Annotated[Path, typer.Option(help="The model repository that is looked into, or served.")]
Seed = Annotated[int, typer.Option(help="Of everything that is drawn by chance.")]
Quick = Annotated[bool, typer.Option("--quick", help="Small settings, in seconds: a trial, not a result.")]

OUT, MODELS = Path("build/studies"), Path("models")


@app.command("list")
def list_studies() -> None:
    """Names every study and its question."""
    for study in STUDIES.values():
        typer.echo(f"{study.name:<20} {study.question}")


@app.command("all")
def everything(out: Out = OUT, models: Models = MODELS, seed: Seed = 1, quick: Quick = False) -> None:
    """Runs all of them."""
    run(STUDIES.values(), out, StudySettings(models, seed, quick))


def run(studies: Iterable[AnyStudy], out: Path, settings: StudySettings) -> None:
    """Runs the studies one by one; what any of them lacks is told before the first."""
    torch.set_num_threads(1)
    check_drawing()
    check_folder(out)
    for study in studies:
        study.check(settings)
    for study in studies:
        started = time.perf_counter()
        with watched(study.name) as watch:
            result = study.run(settings, watch)
        write(recorded(result, time.perf_counter() - started), out)
        show(result)
        typer.echo(f"\n{out / study.name}.svg, {out / study.name}.json, {out / 'README.md'}")


def _verb(study: AnyStudy) -> Callable[..., None]:
    def verb(out: Out = OUT, models: Models = MODELS, seed: Seed = 1, quick: Quick = False) -> None:
        run([study], out, StudySettings(models, seed, quick))

    return verb


for _study in STUDIES.values():
    app.command(_study.name, help=_study.question)(_verb(_study))
