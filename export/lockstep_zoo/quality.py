"""How good a variant of a model of the zoo is, beside its original: on the data that the model learnt from.

model's name -> recipe -> trade -> corpus, with the model's own tokenizers -> figures of both
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from lockstep_export.errors import ExportError
from lockstep_zoo.models import ZOO
from lockstep_zoo.pipeline import graphs_in, task_of
from lockstep_zoo.scores import told


def quality(model: Path, original: Path, variant: Path, data: Path) -> str:
    """The measure of the graphs in `original` and in `variant`, on dev and test, as one sentence.

    Raises:
        ExportError: `model` is not of the zoo, its data is not in `data`, or other data is.
    """
    name = model.resolve().name
    if name not in ZOO:
        raise ExportError(
            f"--data: {name!r} is no model of the zoo, so that nobody here knows how it is measured: ask both"
            " with your own data"
        )
    recipe = ZOO[name]
    trade = task_of(recipe)
    texts = trade.read(data)
    with TemporaryDirectory() as folder:
        corpus = trade.prepare(texts, Path(folder), quick=False)
        for file in trade.tokenizers:
            if (Path(folder) / file).read_bytes() != (model / file).read_bytes():
                raise ExportError(
                    f"--data: {data} is not what {name!r} learnt from: its {file} comes out otherwise, and"
                    " ids would mean other words"
                )
    figures = [trade.figures(recipe, corpus, graphs_in(one)) for one in (original, variant)]
    fp32, narrow = (
        ", ".join(f"{part} {told(one.measure, getattr(one, part))}" for part in ("dev", "test"))
        for one in figures
    )
    return f"{figures[0].measure} {narrow} (fp32: {fp32})"
