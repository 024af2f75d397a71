"""The command line: `lockstep-export zoo list | train NAME | export NAME | check NAME | all`,
`study NAME`, `adopt PATH` and `variant FOLDER`.

The commands of `zoo` also exist at the top level: `lockstep-export train NAME` is
`lockstep-export zoo train NAME`.
"""

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lockstep_client.progress import ProgressDisplay
from lockstep_export.errors import DescriptionError, ExportError
from lockstep_export.imports import importing
from lockstep_export.manifest import KINDS, TASKS
from lockstep_studies.command import app as studies

if TYPE_CHECKING:
    from lockstep_zoo.pipeline import Pipeline

app = typer.Typer(
    help="Train the zoo's sequence models, export them to ONNX and check that the results are equal.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
zoo = typer.Typer(
    help="The shipped models: list them, or run one of the commands below.", no_args_is_help=True
)
app.add_typer(zoo, name="zoo")
app.add_typer(studies, name="study")

Name = Annotated[str, typer.Argument(help="A model of `zoo list`.")]
Data = Annotated[Path, typer.Option(help="Folder with the data sets that models/README.md lists.")]
Out = Annotated[
    Path | None, typer.Option(help="Model repository; default: models, or WORK/quick/models with --quick.")
]
Work = Annotated[Path, typer.Option(help="Folder for checkpoints and drafts; training resumes from it.")]
Quick = Annotated[
    bool, typer.Option("--quick", help="Little data, one epoch, fewer layers: a test run, not for serving.")
]
Only = Annotated[
    list[str] | None,
    typer.Option(help="Build only this model and keep the recorded figures of the others; repeatable."),
]
Jobs = Annotated[
    int, typer.Option(min=1, help="Models built in parallel, each in a process with one thread.")
]

REPOSITORY, WORK = Path("models"), Path("build/export")


@zoo.command("list")
def list_zoo() -> None:
    """Lists the models, each with a description."""
    with importing():
        from lockstep_zoo.models import ZOO
    for recipe in ZOO.values():
        typer.echo(f"{recipe.name:<24} {recipe.about}")


@zoo.command()
@app.command()
def train(name: Name, data: Data, out: Out = None, work: Work = WORK, quick: Quick = False) -> None:
    """Trains one model, or resumes after its last finished epoch."""
    pipeline = _pipeline(out, work, quick)
    pipeline.train(name, pipeline.prepare(data, name))


@zoo.command()
@app.command()
def export(name: Name, out: Out = None, work: Work = WORK, quick: Quick = False) -> None:
    """Exports one trained model and publishes it if its results equal PyTorch's."""
    _pipeline(out, work, quick).export(name)


@zoo.command()
@app.command()
def check(name: Name, out: Out = None, work: Work = WORK, quick: Quick = False) -> None:
    """Checks a published model again."""
    _pipeline(out, work, quick).check(name)


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
    """Trains, exports, checks and measures every model, and writes the accuracy table and the model cards."""
    with importing():
        from lockstep_zoo.build_all import build_all
        from lockstep_zoo.scores import table
    record = build_all(_pipeline(out, work, quick), data, only or (), jobs)
    typer.echo(table(list(record.scores.values())))


@app.command()
def adopt(
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
    with importing():
        from lockstep_export.adopt import adoption
        from lockstep_export.adopt.report import Report
    report = Report()
    try:
        with ProgressDisplay(f"adopt {out.name}") as display:
            adoption.adopt(
                path, out, task=task, states=dict(_pair(text) for text in state or ()), version=version,
                overwrite=overwrite, link=link, untested=untested, report=report,
                begin=lambda what: display.update(0, 0, what),
            )  # fmt: skip
    finally:
        for line in report.lines():
            typer.echo(line)
    typer.echo(f"{out}/{version}: adopted")


@app.command("variant")
def variant(
    model: Annotated[Path, typer.Argument(help="Folder of the model: models/NAME.")],
    kind: Annotated[str, typer.Option(help=f"One of {', '.join(KINDS)}.")],
    out: Annotated[Path, typer.Option(help="Model repository for the variant.")] = Path("models"),
    version: Annotated[int, typer.Option(help="Version to convert.")] = 1,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with the data sets; measures a model of the zoo and its variant on them."),
    ] = None,
) -> None:
    """Makes an fp16 or int8 variant of a model and reports its agreement and speed relative to the original,
    and with --data the quality of both."""
    known = next((one for one in KINDS if one == kind), None)
    if known is None:
        raise ExportError(f"--kind: unknown kind {kind!r}; available: {', '.join(KINDS)}")
    with importing():
        from lockstep_export.variants import make_variant
        from lockstep_zoo.quality import quality
    make_variant(model, known, out, version, measure=None if data is None else partial(quality, data=data))


def main() -> None:
    """The console script: an ExportError is one line on stderr and exit status 1."""
    if "_LOCKSTEP_EXPORT_COMPLETE" in os.environ:  # a shell asks what may follow
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()
    try:
        app(prog_name="lockstep-export")
    except ExportError as error:
        typer.echo(f"lockstep-export: {error}", err=True)
        sys.exit(1)


def _pipeline(out: Path | None, work: Path, quick: bool) -> "Pipeline":
    with importing():
        import torch

        from lockstep_zoo.pipeline import Pipeline
    torch.set_num_threads(1)  # more gain nothing on small tensors, and one thread makes sums reproducible
    if quick:  # a test run must not replace real models
        work = work / "quick"
    return Pipeline(out or (work / "models" if quick else REPOSITORY), work, typer.echo, quick, quiet=False)


def _pair(text: str) -> tuple[str, str]:
    name, equals, output = text.partition("=")
    if not equals:
        raise DescriptionError(f"--state {text}: write INPUT=OUTPUT")
    return name, output
