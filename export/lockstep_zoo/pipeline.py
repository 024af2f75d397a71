"""Builds a model: from the data folder to a proven model in the repository.

work/<corpus>/*.json, work/<name>.pt  tokenizers and checkpoint: read by the export and by a resumed training
out/<name>/{model.toml, *.json, 1/}   proven; the server loads it
"""

import hashlib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from lockstep_client.progress import ProgressDisplay
from lockstep_export.errors import ExportError, NotTrainedError
from lockstep_export.forms import ModelForms, Parts, export_forms, proofs_of, prove_forms
from lockstep_export.manifest import Table
from lockstep_export.onnx_graph import OnnxGraph
from lockstep_export.parity import Parity
from lockstep_export.publication import MANIFEST, require_writable
from lockstep_zoo.captions.task import CaptionsTask
from lockstep_zoo.checkpoint import TrainingJob, load_trained
from lockstep_zoo.classify.task import ClassifyTask
from lockstep_zoo.models import ZOO, Recipe
from lockstep_zoo.scores import Score
from lockstep_zoo.shakespeare.task import ShakespeareTask
from lockstep_zoo.task import AnyTask, Graphs
from lockstep_zoo.train import train
from lockstep_zoo.translate.task import TranslateTask

VERSION = "1"
QUICK_EPOCHS = 1
TASKS: dict[str, AnyTask] = {
    task.corpus: task for task in (ClassifyTask(), ShakespeareTask(), CaptionsTask(), TranslateTask())
}

Corpora = Mapping[str, Any]  # by name


@dataclass(frozen=True)
class Pipeline:
    """The command line's commands, for the repository `out` and the folder `work` of unfinished files."""

    out: Path
    work: Path
    report: Callable[[str], None]
    quick: bool = False  # little data, one epoch and fewer layers, for a test run
    quiet: bool = True  # show no progress

    def recipe(self, name: str) -> Recipe:
        """The recipe of that name; ExportError with the available names if there is none."""
        if name not in ZOO:
            raise ExportError(f"unknown model {name!r}; available: {', '.join(ZOO)}")
        recipe = ZOO[name]
        if not self.quick:
            return recipe
        return replace(recipe, training=replace(recipe.training, epochs=QUICK_EPOCHS), **recipe.quick)

    def prepare(self, data: Path, *names: str) -> Corpora:
        """The corpora of the named models. All data is read before any tokenizer is trained."""
        tasks = {recipe.corpus: task_of(recipe) for recipe in map(self.recipe, names)}
        texts = {corpus: task.read(data) for corpus, task in tasks.items()}
        for folder in (self.work, self.out):
            require_writable(folder)
        return {
            corpus: task.prepare(texts[corpus], self.work / corpus, self.quick)
            for corpus, task in tasks.items()
        }

    def train(self, name: str, corpora: Corpora) -> None:
        """Trains, or resumes after the last finished epoch."""
        job = self._job(name)
        training_task = task_of(job.recipe).training_task(job.recipe, corpora[job.recipe.corpus])
        train(job, training_task, self.report, quiet=self.quiet)

    def export(self, name: str) -> Parity:
        """Exports the trained weights and publishes the graphs in `out` if their results equal PyTorch's."""
        job = self._job(name)
        module, _ = load_trained(job)
        require_writable(self.out)
        task = task_of(job.recipe)
        forms = task.forms(job.recipe, module, task.load(self._tokenizer_folder(job.recipe)))
        with self._display(name) as display:
            parity = export_forms(forms, self.out / name, display.update)
        return self._report(parity)

    def check(self, name: str) -> Parity:
        """Checks the published graphs again, against PyTorch if trained weights are available."""
        graphs = {file: graph.run for file, graph in graphs_in(self.version(name)).items()}
        module = self.trained(name)
        forms, expected = self.forms(name, module), graphs if module is None else None
        with self._display(name) as display:
            parts = Parts(proofs_of(forms), display.update)
            differences = prove_forms(forms, graphs, expected, parts.begin)
        return self._report(Parity(name, differences))

    def score(self, name: str, corpora: Corpora) -> Score:
        """Measures the published graphs on dev and test."""
        job = self._job(name)
        task = task_of(job.recipe)
        module, progress = load_trained(job)
        figures = task.figures(job.recipe, corpora[task.corpus], graphs_in(self.version(name)))
        return Score(
            model=name,
            task=task.name,
            corpus=task.corpus,
            parameters=sum(weight.numel() for weight in module.parameters()),
            bytes=sum(file.stat().st_size for file in self.version(name).iterdir()),
            measure=figures.measure,
            dev=figures.dev,
            test=figures.test,
            best_epoch=progress.best_epoch,
            train_seconds=round(progress.seconds, 1),
            note=figures.note,
        )

    def make(self, name: str, corpora: Corpora) -> Score:
        """Trains, exports, checks and measures one model."""
        self.train(name, corpora)
        self.export(name)
        return self.score(name, corpora)

    def forms(self, name: str, module: nn.Module | None = None) -> ModelForms:
        """The forms of the published model; with new weights without a `module`."""
        recipe = self.recipe(name)
        task = task_of(recipe)
        tokenizers = task.load(self.out / name)
        sizes = [tokenizer.get_vocab_size() for tokenizer in tokenizers]
        return task.forms(recipe, recipe.build(*sizes) if module is None else module, tokenizers)

    def trained(self, name: str) -> nn.Module | None:
        """The module with its trained weights; None, which is reported, without a checkpoint."""
        try:
            return load_trained(self._job(name))[0]
        except NotTrainedError:
            self.report(f"{name}  no trained weights in {self.work}: comparing the graphs with themselves")
            return None

    def manifest(self, name: str) -> Table:
        """The manifest of the published model."""
        return tomllib.loads((self.out / name / MANIFEST).read_text(encoding="utf-8"))

    def version(self, name: str) -> Path:
        """The folder of the published graphs."""
        return self.out / name / VERSION

    def _display(self, name: str) -> ProgressDisplay:
        return ProgressDisplay(name, quiet=self.quiet)

    def _tokenizer_folder(self, recipe: Recipe) -> Path:
        return self.work / recipe.corpus

    def _job(self, name: str) -> TrainingJob:
        recipe = self.recipe(name)
        task, folder = task_of(recipe), self._tokenizer_folder(recipe)
        files = [folder / file for file in task.tokenizers]
        for file in files:
            if not file.is_file():
                raise NotTrainedError(f"no {file}: run `lockstep-export train {name} --data DIR` first")
        digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
        sizes = tuple(tokenizer.get_vocab_size() for tokenizer in task.load(folder))
        return TrainingJob(recipe, sizes, digest, self.work / f"{name}.pt")

    def _report(self, parity: Parity) -> Parity:
        parity.require()
        compared = f"{len(parity.differences)} comparisons, worst {parity.worst:.1e}"
        self.report(f"{parity.model}  parity holds: {compared}")
        return parity


def graphs_in(folder: Path) -> Graphs:
    """The graphs of a version by file name; NotTrainedError if there are none."""
    files = sorted(folder.glob("*.onnx"))
    if not files:
        raise NotTrainedError(f"no exported model in {folder}: run `lockstep-export export NAME`")
    return {file.name: OnnxGraph(file) for file in files}


def task_of(recipe: Recipe) -> AnyTask:
    """The task for the corpus of `recipe`."""
    return TASKS[recipe.corpus]
