"""How good a variant of a model of the zoo is, beside its original: on the data that the model learnt from.

model's name -> recipe -> trade -> corpus, with the model's own tokenizers -> figures of both
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from lockstep_export.errors import ExportError
from lockstep_export.trade import Figures
from lockstep_export.workshop import graphs_in, trade_of
from lockstep_export.zoo import ZOO


def qualities(model: Path, original: Path, variant: Path, data: Path) -> tuple[Figures, Figures]:
    """Of the graphs in `original` and in `variant`, on dev and test.

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
    trade = trade_of(recipe)
    texts = trade.read(data)
    with TemporaryDirectory() as folder:
        corpus = trade.prepare(texts, Path(folder), quick=False)
        for file in trade.tokenizers:
            if (Path(folder) / file).read_bytes() != (model / file).read_bytes():
                raise ExportError(
                    f"--data: {data} is not what {name!r} learnt from: its {file} comes out otherwise, and"
                    " ids would mean other words"
                )
    first, second = (trade.figures(recipe, corpus, graphs_in(one)) for one in (original, variant))
    return first, second
