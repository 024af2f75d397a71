"""What the tools need to know of a model: how to build and train it, what its graphs take and give."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

Outputs = dict[str, Tensor]
Rows = Sequence[Sequence[int]]  # texts as ids


@dataclass(frozen=True)
class RecipeOutput:
    """One tensor that the graph gives. Axis 0 is the batch; `word_axes` grow with the text."""

    name: str
    word_axes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Training:
    """How to fit: AdamW, a running mean of the weights, early stopping on the dev part."""

    learning_rate: float
    weight_decay: float = 0.01
    second_moment: float = 0.999  # decay of the mean of squared gradients
    rows: int = 32  # sentences, or streams of text, per step
    epochs: int = 30  # at most
    patience: int = 6  # epochs without a better dev part before training stops
    word_dropout: float = 0.1  # share of words replaced by the unknown word, so that it has a meaning
    averaging: float = 0.99  # decay of the running mean of the weights, which is what is kept
    clip: float = 1.0  # largest norm of a step's gradient
    declines: bool = False  # the rate rises over the first epoch and falls along a cosine to the last
    smoothing: float = 0.0  # share of each target's weight that is spread over all pieces
    bfloat16: bool = False  # products in bfloat16 where the processor has them; weights stay float32
    seed: int = 1


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One model of the zoo."""

    name: str
    about: str  # one line for `zoo list` and the manifest
    build: Callable[..., nn.Module]  # the sizes of its vocabularies → module
    training: Training
    corpus: str  # what it learns from, and with it the tokenizers that it reads by
    limits: tuple[str, ...] = ()  # what to know before relying on it: a sentence each, for the card


@dataclass(frozen=True, kw_only=True)
class ClassifierRecipe(Recipe):
    """A text in, one label out: forward(tokens[, companion]) → Outputs, `logits` among them."""

    corpus: str = "sst2"
    activation: Literal["softmax", "sigmoid"] = "softmax"  # what turns `logits` into probabilities
    companion: Literal["lengths", "mask"] | None = None  # the second input, which the server fills in
    outputs: tuple[RecipeOutput, ...] = (RecipeOutput("logits"),)
    step: Callable[[nn.Module], nn.Module] | None = None  # trained module → its step-wise face
    states: tuple[str, ...] = ()  # what that carries from step to step
    counts: Callable[[nn.Module, Rows], None] | None = (
        None  # takes from the training texts what is not fitted
    )
    max_words: int = 4096
    max_rows: int = 64
    max_padded_elements: int = 4096
    labels: tuple[str, ...] = ("negative", "positive")

    def gives(self, name: str) -> bool:
        """Whether the graph has an output of this name."""
        return any(output.name == name for output in self.outputs)


@dataclass(frozen=True, kw_only=True)
class LanguageModelRecipe(Recipe):
    """A text in, what may follow out: forward(tokens[, lengths, states]) → logits at every place, states."""

    step: Callable[[nn.Module], nn.Module]  # trained module → the graph of one step
    prefill: Callable[[nn.Module], nn.Module] | None = None  # trained module → the graph of a whole prompt
    states: Mapping[str, tuple[int, int]]  # what a step carries: each [first, rows, last]
    oneshot: Callable[[nn.Module], nn.Module] | None = None  # trained module → logits at every place at once
    stretch: int = 100  # elements of a running text that a training step looks back over
    max_prompt: int = 4096
    max_tokens: int | None = None  # where a request names no limit; None leaves it to the server


@dataclass(frozen=True, kw_only=True)
class TranslatorRecipe(Recipe):
    """A text in one language in, the same in another out: a module that can `encode` and `step`."""

    corpus: str = "multi30k"
    step: Callable[[nn.Module], nn.Module]
    prefill: Callable[[nn.Module], nn.Module]
    max_source: int = 256
    max_pieces: int = 60  # of a translation in measuring
