"""The interface between the trainer and a task."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


class TrainingTask(ABC):
    """The batches, the loss and the dev figure of a task."""

    def begin(self, module: nn.Module) -> None:  # noqa: B027
        """Initialises weights that are computed from the data, not trained; does nothing by default."""

    @abstractmethod
    def batches(self, rng: torch.Generator) -> Iterator[Any]:
        """The batches of one epoch."""

    @abstractmethod
    def count(self) -> int:
        """The number of batches in an epoch."""

    @abstractmethod
    def loss(self, module: nn.Module, batch: Any, rng: torch.Generator) -> Tensor:
        """The mean loss of a batch, a scalar."""

    @abstractmethod
    def quality(self, module: nn.Module) -> float:
        """The figure of `module` on the dev part: higher is better."""

    @abstractmethod
    def format_quality(self, quality: float) -> str:
        """`quality` with its unit, for the log."""
