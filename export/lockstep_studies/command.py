"""`lockstep-export study list | NAME | all`: one subcommand for each study in the catalogue."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lockstep_client.progress import ProgressDisplay
from lockstep_export.errors import ExportError
from lockstep_export.imports import importing
from lockstep_studies.study import QUESTIONS, AnyStudy, StudySettings


class StudyGroup(TyperGroup):
    """Subcommands by study name; the error for an unknown name lists the known ones."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Returns the subcommand; raises ExportError if the name is unknown."""
        found = super().get_command(ctx, cmd_name)
        if found is None:
            raise ExportError(f"unknown study {cmd_name!r}; available: {', '.join(QUESTIONS)} (or list, all)")
        return found


app = typer.Typer(
    help="Measure what each architecture can and cannot do: a table, a chart and a two-sentence finding.",
    cls=StudyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Out = Annotated[
    Path, typer.Option(help="Output folder: NAME.json, NAME.svg, and a README.md of all studies in it.")
]
Models = Annotated[Path, typer.Option(help="Model repository to examine or serve.")]
Seed = Annotated[int, typer.Option(help="Random seed.")]
Quick = Annotated[
    bool, typer.Option("--quick", help="Small settings that take seconds: for trying out, not for results.")
]

OUT, MODELS = Path("build/studies"), Path("models")


@app.command("list")
def list_studies() -> None:
    """List every study and its question."""
    for name, question in QUESTIONS.items():
        typer.echo(f"{name:<20} {question}")


@app.command("all")
def run_all(out: Out = OUT, models: Models = MODELS, seed: Seed = 1, quick: Quick = False) -> None:
    """Run all studies."""
    run(_studies(*QUESTIONS), out, StudySettings(models, seed, quick))


def run(studies: Iterable[AnyStudy], out: Path, settings: StudySettings) -> None:
    """Runs the studies one by one. Raises ExportError before the first if any of them cannot run."""
    with importing():
        import torch

        from lockstep_studies.drawing import check_drawing
        from lockstep_studies.report import check_folder, make_record, write
        from lockstep_studies.terminal import show
    torch.set_num_threads(1)
    check_drawing()
    check_folder(out)
    for study in studies:
        study.check(settings)
    for study in studies:
        started = time.perf_counter()
        with ProgressDisplay(study.name) as progress:
            result = study.run(settings, progress.update)
        write(make_record(result, time.perf_counter() - started), out)
        show(result)
        typer.echo(f"\n{out / study.name}.svg, {out / study.name}.json, {out / 'README.md'}")


def _studies(*names: str) -> list[AnyStudy]:
    with importing():
        from lockstep_studies.catalogue import STUDIES
    return [STUDIES[name] for name in names]


def _subcommand(name: str) -> Callable[..., None]:
    def verb(out: Out = OUT, models: Models = MODELS, seed: Seed = 1, quick: Quick = False) -> None:
        run(_studies(name), out, StudySettings(models, seed, quick))

    return verb


for _name, _question in QUESTIONS.items():
    app.command(_name, help=_question)(_subcommand(_name))
