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

from lockstep_zoo.classify import pairs
from lockstep_zoo.model_card import CARD, model_card
from lockstep_zoo.models import ZOO
from lockstep_zoo.pipeline import TRADES, Corpora, Pipeline
from lockstep_zoo.progress import no_progress
from lockstep_zoo.recipe import ClassifierRecipe
from lockstep_zoo.scores import Score, ScoreRecord, read_record, write_record


def build_all(workshop: Pipeline, data: Path, names: Sequence[str] = (), jobs: int = 1) -> ScoreRecord:
    """Trains, exports, proves and measures the named models, or all, in `jobs` processes of one thread.

    Models that are not named keep what was recorded of them. Page and cards are written for all that have a
    record.
    """
    wanted = {workshop.recipe(name).name for name in names or ZOO}
    chosen = [name for name in ZOO if name in wanted]
    before = read_record(workshop.out)
    corpora = workshop.prepare(data, *chosen)
    sizes = {corpus: TRADES[corpus].sizes(learnt) for corpus, learnt in corpora.items()}
    record = before.updated(_made(workshop, corpora, chosen, jobs), sizes, ZOO)
    _write(workshop, record)
    return record


def _write(workshop: Pipeline, record: ScoreRecord) -> None:
    recipes = {name: ZOO[name] for name in record.scores}
    classifiers = {name: recipe for name, recipe in recipes.items() if isinstance(recipe, ClassifierRecipe)}
    write_record(workshop.out, record, pairs.table(classifiers, workshop.out))
    for name, recipe in recipes.items():
        text = model_card(recipe, record.scores[name], workshop.manifest(name), workshop.version(name))
        (workshop.out / name / CARD).write_text(text, encoding="utf-8")


def _made(workshop: Pipeline, corpora: Corpora, names: Sequence[str], jobs: int) -> list[Score]:
    if jobs == 1:
        return [workshop.make(name, corpora) for name in names]
    silent = replace(workshop, bars=no_progress)  # bars of several processes would write over one another
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _enter, (silent, corpora)) as pool:
        futures = {name: pool.submit(_make, name) for name in reversed(names)}  # the longest stand last
        try:
            return [futures[name].result() for name in names]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_mine: list[tuple[Pipeline, Corpora]] = []  # what this process works with


def _enter(workshop: Pipeline, corpora: Corpora) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is told once, by the process that started us
    torch.set_num_threads(1)
    _mine.append((workshop, corpora))


def _make(name: str) -> Score:
    [(workshop, corpora)] = _mine
    return workshop.make(name, corpora)
