"""The command line: `lockstep-export zoo list | train NAME | export NAME | check NAME | all`,
`study NAME`, `adopt PATH` and `variant FOLDER`.

The commands of `zoo` also exist at the top level: `lockstep-export train NAME` is
`lockstep-export zoo train NAME`.
"""

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

try:
    import torch

    from lockstep_export.adopt.command import command as adopt
    from lockstep_export.errors import ExportError
    from lockstep_export.precision import KINDS
    from lockstep_export.variants import make_variant
    from lockstep_studies.command import app as studies
    from lockstep_zoo.build_all import build_all
    from lockstep_zoo.models import ZOO
    from lockstep_zoo.pipeline import Pipeline
    from lockstep_zoo.quality import quality
    from lockstep_zoo.scores import table
except ModuleNotFoundError as error:  # installed with the client or the server only
    missing = str(error.name).partition(".")[0]
    if missing.startswith("lockstep"):
        raise
    sys.exit(
        f"lockstep-export needs {missing}: install the extra with pip install 'lockstep-inference[export]',"
        " or run `make setup` in a checkout"
    )

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
    record = build_all(_pipeline(out, work, quick), data, only or (), jobs)
    typer.echo(table(list(record.scores.values())))


app.command("adopt")(adopt)


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
    measure = None if data is None else partial(quality, data=data)
    for known in KINDS:
        if known == kind:
            make_variant(model, known, out, version, measure=measure)
            return
    raise ExportError(f"--kind: unknown kind {kind!r}; available: {', '.join(KINDS)}")


@app.command()
def completion(shell: Annotated[str, typer.Argument(metavar="bash|zsh", help="Your shell.")]) -> None:
    """Prints a script that completes this command: eval "$(lockstep-export completion bash)".

    It has the words in it, as asking this command at each key would import PyTorch each time.
    """
    if shell not in ("bash", "zsh"):
        raise ExportError(f"completion: unknown shell {shell!r}; available: bash, zsh")
    cases = "".join(
        f"    {path!r}{'*' if path else ''}) words={' '.join(words)!r} ;;\n"
        for path, words in sorted(_words(typer.main.get_command(app)), reverse=True)
    )
    bridge = "autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    typer.echo(bridge + _COMPLETION.replace("CASES", cases))


_COMPLETION = """\
_lockstep_export() {
  local path='' word words
  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "$word" in -*) ;; *) path="$path$word " ;; esac
  done
  case "$path" in
CASES  esac
  COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _lockstep_export lockstep-export"""


def _words(command: Any, path: str = "") -> Iterator[tuple[str, list[str]]]:
    """What may follow each path of subcommands: subcommands and options."""
    inner: dict[str, Any] = getattr(command, "commands", {})
    yield (
        path,
        [*inner, *(flag for option in command.params for flag in option.opts if flag[:2] == "--"), "--help"],
    )
    for name, one in inner.items():
        yield from _words(one, f"{path}{name} ")


def main() -> None:
    """The console script: an ExportError is one line on stderr and exit status 1."""
    try:
        app()
    except ExportError as error:
        typer.echo(f"lockstep-export: {error}", err=True)
        sys.exit(1)


def _pipeline(out: Path | None, work: Path, quick: bool) -> Pipeline:
    torch.set_num_threads(1)  # more gain nothing on small tensors, and one thread makes sums reproducible
    if quick:  # a test run must not replace real models
        work = work / "quick"
    return Pipeline(out or (work / "models" if quick else REPOSITORY), work, typer.echo, quick, quiet=False)
