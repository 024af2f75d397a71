"""What a module learns from, and how well it has learnt: all that the trainer knows of a task."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


class TrainingTask(ABC):
    """What a module learns from, and how well it has learnt."""

    def begin(self, module: nn.Module) -> None:  # noqa: B027
        """Gives a new module what it takes from the data without fitting: nothing, for most."""

    @abstractmethod
    def batches(self, chance: torch.Generator) -> Iterator[Any]:
        """One epoch."""

    @abstractmethod
    def count(self) -> int:
        """How many batches an epoch has."""

    @abstractmethod
    def loss(self, module: nn.Module, batch: Any, chance: torch.Generator) -> Tensor:
        """The mean loss of a batch, a scalar."""

    @abstractmethod
    def quality(self, module: nn.Module) -> float:
        """How well `module` does on the dev part: more is better."""

    @abstractmethod
    def tell(self, quality: float) -> str:
        """`quality` in a reader's words."""
