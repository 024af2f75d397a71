"""What the workshop needs to know of a task on a corpus: what a recipe names by its `corpus`.

data folder → texts → tokenizers and ids → lesson (train.py) → graph_specs of graphs (onnx.py)
            → differences (parity.py), manifest (manifest.py), figures (scores.py)
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from tokenizers import Tokenizer
from torch import nn

from lockstep_export.graph_spec import GraphSpec
from lockstep_export.manifest import Table
from lockstep_export.onnx_graph import OnnxGraph
from lockstep_export.parity import Difference
from lockstep_zoo.recipe import Recipe
from lockstep_zoo.training_task import TrainingTask

R = TypeVar("R", bound=Recipe)
T = TypeVar("T")  # the texts, as they are in the data folder
C = TypeVar("C")  # the corpus: the same as ids

Graphs = Mapping[str, OnnxGraph]  # by file name


@dataclass(frozen=True)
class Figures:
    """What a trade measures of an exported model."""

    measure: str
    dev: float
    test: float
    note: str = ""


class Task(ABC, Generic[R, T, C]):
    """One task on one corpus. Everything takes the folder in which its tokenizers lie."""

    task: str
    corpus: str  # what recipes name
    tokenizers: tuple[str, ...]  # the files that ship beside the manifest

    @abstractmethod
    def read(self, data: Path) -> T:
        """The texts under `data`, or DataError that says what is missing; quick beside any training."""

    @abstractmethod
    def prepare(self, texts: T, folder: Path, quick: bool) -> C:
        """Learns the tokenizers into `folder` and turns the texts to ids; `quick` takes a few of them."""

    @abstractmethod
    def sizes(self, corpus: C) -> dict[str, int]:
        """How many examples each part holds, for the record."""

    @abstractmethod
    def lesson(self, recipe: R, corpus: C) -> TrainingTask:
        """What `recipe` learns from `corpus`."""

    @abstractmethod
    def graph_specs(self, recipe: R, module: nn.Module) -> list[GraphSpec]:
        """The graphs of a trained module."""

    @abstractmethod
    def manifest(self, recipe: R, tokenizers: list[Tokenizer]) -> Table:
        """model.toml."""

    @abstractmethod
    def compare(
        self, recipe: R, tokenizers: list[Tokenizer], graphs: Graphs, module: nn.Module | None
    ) -> list[Difference]:
        """Every comparison that proves `graphs`, against `module` where there is one."""

    @abstractmethod
    def figures(self, recipe: R, corpus: C, graphs: Graphs) -> Figures:
        """How good the exported graphs are."""

    def load(self, folder: Path) -> list[Tokenizer]:
        """The tokenizers in `folder`."""
        return [Tokenizer.from_file(str(folder / name)) for name in self.tokenizers]


AnyTrade = Task[Any, Any, Any]
