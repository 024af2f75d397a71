"""The whole zoo, or some of it, made at once: one model after the other, or several processes side by side.

names → texts read, places tried → each made by a workshop → the record, the page and the cards
"""

import multiprocessing
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch

from lockstep_export.bars import no_bars
from lockstep_export.card import write_cards
from lockstep_export.classify import pairs
from lockstep_export.scores import Record, Score, read_record, write_record
from lockstep_export.workshop import Corpora, Workshop, trade_of
from lockstep_export.zoo import ZOO
from lockstep_export.zoo.recipe import Classifier


def make(workshop: Workshop, data: Path, names: Sequence[str] = (), jobs: int = 1) -> Record:
    """Trains, exports, proves and measures the named models, or all, in `jobs` processes of one thread.

    Models that are not named keep what was recorded of them. Page and cards are written for all that have a
    record.
    """
    chosen = [name for name in ZOO if name in {workshop.recipe(one).name for one in names or ZOO}]
    before = read_record(workshop.out)
    corpora = workshop.prepare(data, *chosen)
    sizes = {
        corpus: trade_of(workshop.recipe(name)).sizes(corpora[corpus]) for name, corpus in _corpora(chosen)
    }
    record = before.with_(_made(workshop, corpora, chosen, jobs), sizes, ZOO)
    classifiers = {
        name: recipe
        for name, recipe in ZOO.items()
        if name in record.scores and isinstance(recipe, Classifier)
    }
    write_record(workshop.out, record, pairs.table(classifiers, workshop.out))
    manifests = {name: workshop.manifest(name) for name in record.scores}
    write_cards(workshop.out, ZOO, list(record.scores.values()), manifests)
    return record


def _corpora(names: Sequence[str]) -> list[tuple[str, str]]:
    """A model of each corpus, and the corpus."""
    return [(name, corpus) for corpus, name in {ZOO[name].corpus: name for name in names}.items()]


def _made(workshop: Workshop, corpora: Corpora, names: Sequence[str], jobs: int) -> list[Score]:
    if jobs == 1:
        return [workshop.make(name, corpora) for name in names]
    silent = replace(workshop, bars=no_bars)  # bars of several processes would write over one another
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _enter, (silent, corpora)) as pool:
        futures = {name: pool.submit(_make, name) for name in reversed(names)}  # the longest stand last
        try:
            return [futures[name].result() for name in names]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_mine: list[tuple[Workshop, Corpora]] = []  # what this process works with


def _enter(workshop: Workshop, corpora: Corpora) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is told once, by the process that started us
    torch.set_num_threads(1)
    _mine.append((workshop, corpora))


def _make(name: str) -> Score:
    [(workshop, corpora)] = _mine
    return workshop.make(name, corpora)
