"""What the tools need to know of a model: how to build and train it, what its graph takes and gives."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

Outputs = dict[str, Tensor]


@dataclass(frozen=True)
class Output:
    """One tensor that the graph gives. Axis 0 is the batch; `word_axes` grow with the text."""

    name: str
    word_axes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Training:
    """How to fit: AdamW, batches of similar length, early stopping on dev accuracy."""

    learning_rate: float
    weight_decay: float = 0.01
    rows: int = 32  # sentences per step
    epochs: int = 30  # at most
    patience: int = 6  # epochs without a better dev accuracy before training stops
    word_dropout: float = 0.1  # share of words replaced by the unknown word, so that it has a meaning
    averaging: float = 0.99  # decay of the running mean of the weights, which is what is kept
    seed: int = 1


@dataclass(frozen=True)
class Recipe:
    """One model of the zoo."""

    name: str
    about: str  # one line for `zoo list` and the manifest
    build: Callable[[int], nn.Module]  # vocabulary size → module; forward(tokens[, companion]) → Outputs
    training: Training
    activation: Literal["softmax", "sigmoid"]  # what turns `logits` into probabilities
    companion: Literal["lengths", "mask"] | None = None  # the second input, which the server fills in
    outputs: tuple[Output, ...] = (Output("logits"),)
    max_words: int = 4096
    max_rows: int = 64
    max_padded_elements: int = 4096
    labels: tuple[str, ...] = ("negative", "positive")

    def gives(self, name: str) -> bool:
        """Whether the graph has an output of this name."""
        return any(output.name == name for output in self.outputs)
