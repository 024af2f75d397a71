"""Where a model is made: from the data folder to a proven folder of the repository.

work/tokenizer.json, work/<name>.pt   what training leaves: resumed from, exported from
work/<name>.onnx                      exported, not yet proven
out/<name>/{model.toml, tokenizer.json, 1/model.onnx}   proven, what the server loads
"""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tokenizers import Tokenizer
from torch import nn

from lockstep_export.batches import Encoded
from lockstep_export.data import Split, Sst2, read_sst2
from lockstep_export.errors import ExportError, NotTrainedError
from lockstep_export.graph import Graph
from lockstep_export.manifest import manifest
from lockstep_export.onnx import export_onnx
from lockstep_export.parity import Parity, check_parity
from lockstep_export.scores import Score, measure, write_scores
from lockstep_export.tokenizer import VOCABULARY, encode, save_tokenizer, train_tokenizer
from lockstep_export.train import Job, load_trained, train
from lockstep_export.zoo import ZOO, Recipe

VERSION = "1"
QUICK_SENTENCES, QUICK_VOCABULARY, QUICK_EPOCHS = 200, 400, 1
TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Corpus:
    """The data as ids."""

    train: Encoded
    dev: Encoded
    test: Encoded

    def sizes(self) -> dict[str, int]:
        """Sentences in each part."""
        return {"train": len(self.train.ids), "dev": len(self.dev.ids), "test": len(self.test.ids)}


@dataclass(frozen=True)
class Workshop:
    """The verbs of the command line, for one repository `out` and one folder `work` of unfinished things."""

    out: Path
    work: Path
    report: Callable[[str], None]
    quick: bool = False  # a few sentences, few words, one epoch: to see that everything runs, not to serve

    def recipe(self, name: str) -> Recipe:
        """The recipe of that name, or ExportError with the names there are."""
        if name not in ZOO:
            raise ExportError(f"no model {name!r} in the zoo; there are: {', '.join(ZOO)}")
        recipe = ZOO[name]
        if not self.quick:
            return recipe
        return replace(recipe, training=replace(recipe.training, epochs=QUICK_EPOCHS))

    def prepare(self, data: Path) -> Corpus:
        """Reads `data`, trains the tokenizer on its training part and encodes all three."""
        sst2 = read_sst2(data)
        if self.quick:
            sst2 = sst2.head(QUICK_SENTENCES)
        tokenizer = train_tokenizer(sst2.train.texts, QUICK_VOCABULARY if self.quick else VOCABULARY)
        save_tokenizer(tokenizer, self.work / TOKENIZER)
        return _encode(tokenizer, sst2)

    def train(self, name: str, corpus: Corpus) -> None:
        """Trains, or goes on from the last finished epoch."""
        train(self._job(name), corpus.train, corpus.dev, self.report)

    def export(self, name: str) -> Parity:
        """Exports the trained weights; nothing reaches `out` that has not been proven equal."""
        job = self._job(name)
        module, _ = load_trained(job)
        draft = self.work / f"{name}.onnx"
        export_onnx(job.recipe, module, draft)
        parity = self._prove(job.recipe, job.vocabulary, Graph(draft), module)
        self._publish(job, draft)
        return parity

    def check(self, name: str) -> Parity:
        """Proves the published graph again, against PyTorch where the weights are at hand."""
        recipe = self.recipe(name)
        graph = Graph(self.graph_path(name))
        tokenizer = Tokenizer.from_file(str(self.out / name / TOKENIZER))
        return self._prove(recipe, tokenizer.get_vocab_size(), graph, self._trained(name))

    def score(self, name: str, corpus: Corpus) -> Score:
        """Measures the published graph on dev and test."""
        job = self._job(name)
        module, progress = load_trained(job)
        path = self.graph_path(name)
        graph = Graph(path)
        return Score(
            model=name,
            parameters=sum(weight.numel() for weight in module.parameters()),
            bytes=path.stat().st_size,
            dev=measure(job.recipe, graph, corpus.dev),
            test=measure(job.recipe, graph, corpus.test),
            best_epoch=progress.best_epoch,
            train_seconds=round(progress.seconds, 1),
        )

    def everything(self, data: Path) -> list[Score]:
        """Trains, exports, proves and measures the whole zoo, and writes the table."""
        corpus = self.prepare(data)
        scores = []
        for name in ZOO:
            self.train(name, corpus)
            self.export(name)
            scores.append(self.score(name, corpus))
        write_scores(self.out, scores, corpus.sizes())
        return scores

    def graph_path(self, name: str) -> Path:
        """Where the published graph lies."""
        return self.out / name / VERSION / "model.onnx"

    def _job(self, name: str) -> Job:
        recipe, path = self.recipe(name), self.work / TOKENIZER
        if not path.is_file():
            raise NotTrainedError(f"no {path}: run `lockstep-export train {name} --data DIR` first")
        vocabulary = Tokenizer.from_file(str(path)).get_vocab_size()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return Job(recipe, vocabulary, digest, self.work / f"{name}.pt")

    def _trained(self, name: str) -> nn.Module | None:
        try:
            return load_trained(self._job(name))[0]
        except NotTrainedError:
            self.report(f"{name}  no trained weights in {self.work}: only padded rows against the same alone")
            return None

    def _prove(self, recipe: Recipe, vocabulary: int, graph: Graph, module: nn.Module | None) -> Parity:
        parity = check_parity(recipe, vocabulary, graph, module)
        parity.require()
        compared = f"{len(parity.differences)} comparisons, worst {parity.worst:.1e}"
        self.report(f"{recipe.name}  parity holds: {compared}")
        return parity

    def _publish(self, job: Job, draft: Path) -> None:
        path = self.graph_path(job.recipe.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(draft, path)
        folder = path.parent.parent
        shutil.copyfile(self.work / TOKENIZER, folder / TOKENIZER)
        (folder / "model.toml").write_text(manifest(job.recipe, job.vocabulary), encoding="utf-8")


def _encode(tokenizer: Tokenizer, sst2: Sst2) -> Corpus:
    longest = min(recipe.max_words for recipe in ZOO.values())

    def encoded(split: Split) -> Encoded:
        return Encoded(encode(tokenizer, split.texts, longest), split.labels)

    return Corpus(encoded(sst2.train), encoded(sst2.dev), encoded(sst2.test))
