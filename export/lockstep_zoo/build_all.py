"""Builds all models of the zoo, or some of them, one after the other or in several processes.

names → data read, folders checked → each model built by a Pipeline → record, README and model cards
"""

import hashlib
import multiprocessing
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

import torch

from lockstep_client.progress import ProgressDisplay
from lockstep_zoo.classify import pairs
from lockstep_zoo.model_card import CARD, model_card
from lockstep_zoo.models import ZOO
from lockstep_zoo.pipeline import TASKS, Corpora, Pipeline
from lockstep_zoo.recipe import ClassifierRecipe
from lockstep_zoo.scores import Score, ScoreRecord, read_record, write_record

SUMS = "SHA256SUMS"


def build_all(pipeline: Pipeline, data: Path, names: Sequence[str] = (), jobs: int = 1) -> ScoreRecord:
    """Trains, exports, checks and measures the named models, or all, in `jobs` processes of one thread each.

    Other models keep their recorded figures. README and model cards are written for all models with a record.
    """
    wanted = {pipeline.recipe(name).name for name in names or ZOO}
    chosen = [name for name in ZOO if name in wanted]
    before = read_record(pipeline.out)
    corpora = pipeline.prepare(data, *chosen)
    sizes = {name: TASKS[name].sizes(corpus) for name, corpus in corpora.items()}
    record = before.updated(_made(pipeline, corpora, chosen, jobs), sizes, ZOO)
    _write(pipeline, record)
    return record


def _write(pipeline: Pipeline, record: ScoreRecord) -> None:
    recipes = {name: ZOO[name] for name in record.scores}
    classifiers = {name: recipe for name, recipe in recipes.items() if isinstance(recipe, ClassifierRecipe)}
    write_record(pipeline.out, record, pairs.table(classifiers, pipeline.out))
    for name, recipe in recipes.items():
        text = model_card(recipe, record.scores[name], pipeline.manifest(name), pipeline.version(name))
        (pipeline.out / name / CARD).write_text(text, encoding="utf-8")
    (pipeline.out / SUMS).write_text(hashes(pipeline.out), encoding="utf-8")


def hashes(out: Path) -> str:
    """The hashes of graphs, weights and tokenizers, as `sha256sum` writes them. Manifests may be edited."""
    lines = []
    for file in sorted((*out.glob("*/*.json"), *out.glob("*/[0-9]*/*"))):
        with file.open("rb") as opened:
            lines.append(f"{hashlib.file_digest(opened, 'sha256').hexdigest()}  {file.relative_to(out)}\n")
    return "".join(lines)


def _made(pipeline: Pipeline, corpora: Corpora, names: Sequence[str], jobs: int) -> list[Score]:
    if jobs == 1:
        scores = []
        for index, name in enumerate(names, 1):
            pipeline.report(f"{name}  {index} of {len(names)} models")
            scores.append(pipeline.make(name, corpora))
        return scores
    silent = replace(pipeline, quiet=True)  # progress bars of several processes would overlap
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _enter, (silent, corpora)) as pool:
        futures = {name: pool.submit(_make, name) for name in reversed(names)}  # longest first: they are last
        try:
            with ProgressDisplay(f"{len(names)} models", quiet=pipeline.quiet) as display:
                display.update(0, len(names))
                for done, ended in enumerate(as_completed(futures.values()), 1):
                    display.update(done, len(names), f"{ended.result().model} is made")
            return [futures[name].result() for name in names]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_mine: list[tuple[Pipeline, Corpora]] = []  # of this process


def _enter(pipeline: Pipeline, corpora: Corpora) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent process reports Ctrl-C
    torch.set_num_threads(1)
    _mine.append((pipeline, corpora))


def _make(name: str) -> Score:
    [(pipeline, corpora)] = _mine
    return pipeline.make(name, corpora)
