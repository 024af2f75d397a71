"""The interface of a task on a corpus; recipes select one by their `corpus`.

data folder → texts → tokenizers and ids → training task (train.py) → forms (lockstep_export.forms)
            → figures (scores.py)
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from tokenizers import Tokenizer
from torch import nn

from lockstep_export.forms import ModelForms
from lockstep_export.onnx_graph import OnnxGraph
from lockstep_zoo.recipe import Recipe
from lockstep_zoo.training_task import TrainingTask

R = TypeVar("R", bound=Recipe)
T = TypeVar("T")  # the texts of the data folder
C = TypeVar("C")  # the corpus: the texts as ids

Graphs = Mapping[str, OnnxGraph]  # by file name


@dataclass(frozen=True)
class Figures:
    """The figures of an exported model."""

    measure: str
    dev: float
    test: float
    note: str = ""


class Task(ABC, Generic[R, T, C]):
    """One task on one corpus."""

    name: str  # the task of the manifest
    corpus: str  # the name in recipes
    tokenizers: tuple[str, ...]  # file names; the files ship beside the manifest

    @abstractmethod
    def read(self, data: Path) -> T:
        """The texts under `data`; DataError if anything is missing. Quick compared with training."""

    @abstractmethod
    def prepare(self, texts: T, folder: Path, quick: bool) -> C:
        """Trains the tokenizers into `folder` and encodes the texts; `quick` uses only a few of them."""

    @abstractmethod
    def sizes(self, corpus: C) -> dict[str, int]:
        """The number of examples in each part, for the record."""

    @abstractmethod
    def training_task(self, recipe: R, corpus: C) -> TrainingTask:
        """The training task of `recipe` on `corpus`."""

    @abstractmethod
    def forms(self, recipe: R, module: nn.Module, tokenizers: list[Tokenizer]) -> ModelForms:
        """What the exporter needs to know of a trained module: its graphs, states, roles and limits."""

    @abstractmethod
    def figures(self, recipe: R, corpus: C, graphs: Graphs) -> Figures:
        """Measures the exported graphs."""

    def load(self, folder: Path) -> list[Tokenizer]:
        """The tokenizers in `folder`."""
        return [Tokenizer.from_file(str(folder / name)) for name in self.tokenizers]


AnyTask = Task[Any, Any, Any]
