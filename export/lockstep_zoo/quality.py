"""Measures a variant of a model of the zoo and its original on the data that the model was trained on.

model's name → recipe → task → corpus, with the model's own tokenizers → figures of both
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from lockstep_export.errors import ExportError
from lockstep_zoo.models import ZOO
from lockstep_zoo.pipeline import graphs_in, task_of
from lockstep_zoo.scores import format_score


def quality(model: Path, original: Path, variant: Path, data: Path) -> str:
    """The measure of the graphs in `original` and in `variant` on dev and test, as text.

    Raises:
        ExportError: `model` is not in the zoo, or `data` does not hold the data that it was trained on.
    """
    name = model.resolve().name
    if name not in ZOO:
        raise ExportError(
            f"--data: {name!r} is not a model of the zoo; compare it and its variant on your own data"
        )
    recipe = ZOO[name]
    task = task_of(recipe)
    texts = task.read(data)
    with TemporaryDirectory() as folder:
        corpus = task.prepare(texts, Path(folder), quick=False)
        for file in task.tokenizers:
            if (Path(folder) / file).read_bytes() != (model / file).read_bytes():
                raise ExportError(
                    f"--data: {data} is not the data of {name!r}: its {file} would differ, so that ids would"
                    " have other meanings"
                )
    figures = [task.figures(recipe, corpus, graphs_in(one)) for one in (original, variant)]
    fp32, narrow = (
        ", ".join(f"{part} {format_score(figure.measure, getattr(figure, part))}" for part in ("dev", "test"))
        for figure in figures
    )
    return f"{figures[0].measure} {narrow} (fp32: {fp32})"
