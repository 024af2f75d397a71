"""Recipes: how a model is built and trained, and what its graphs take and return."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

Outputs = dict[str, Tensor]
Rows = Sequence[Sequence[int]]  # texts as ids


@dataclass(frozen=True)
class Training:
    """Hyperparameters: AdamW, a running mean of the weights, early stopping on the dev part."""

    learning_rate: float
    weight_decay: float = 0.01
    second_moment: float = 0.999  # decay of the mean of squared gradients
    rows: int = 32  # sentences, or streams of text, per step
    epochs: int = 30  # at most
    patience: int = 6  # epochs without improvement on the dev part before training stops
    word_dropout: float = 0.1  # share of words replaced by the unknown word, so that it is trained
    averaging: float = 0.99  # decay of the running mean of the weights; the mean is kept
    clip: float = 1.0  # largest norm of a step's gradient
    declines: bool = False  # the rate rises over the first epoch, then falls along a cosine to the last
    smoothing: float = 0.0  # share of each target's weight that is spread over all tokens
    bfloat16: bool = False  # products in bfloat16 if the processor supports it; weights stay float32
    seed: int = 1


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One model of the zoo."""

    name: str
    about: str  # one line for `zoo list` and the manifest
    build: Callable[..., nn.Module]  # vocabulary sizes → module
    training: Training
    corpus: str  # the training data, and with it the tokenizers
    limits: tuple[str, ...] = ()  # known limits, a sentence each, for the model card
    quick: Mapping[str, Any] = field(default_factory=dict)  # fields that differ in a test run: fewer layers


@dataclass(frozen=True, kw_only=True)
class ClassifierRecipe(Recipe):
    """A text in, one label out: forward(tokens[, companion]) → Outputs, `logits` among them."""

    corpus: str = "sst2"
    activation: Literal["softmax", "sigmoid"] = "softmax"  # turns `logits` into probabilities
    companion: Literal["lengths", "mask"] | None = None  # the second input, which the server generates
    outputs: tuple[str, ...] = ("logits",)
    step: Callable[[nn.Module], nn.Module] | None = None  # trained module → its step-wise form
    states: tuple[str, ...] = ()  # the states of the step
    counts: Callable[[nn.Module, Rows], None] | None = None  # computes the weights that are not trained
    max_words: int = 4096
    max_rows: int = 64
    max_padded_elements: int = 4096
    labels: tuple[str, ...] = ("negative", "positive")


@dataclass(frozen=True, kw_only=True)
class LanguageModelRecipe(Recipe):
    """A text in, its continuation out: forward(tokens[, lengths, states]) → logits per position, states."""

    step: Callable[[nn.Module], nn.Module]  # trained module → the graph of one step
    prefill: Callable[[nn.Module], nn.Module] | None = None  # trained module → the graph of a whole prompt
    states: Mapping[str, tuple[int, int]]  # the states of the step: each [first, rows, last]
    caches: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # each [rows, first, past, last]
    oneshot: Callable[[nn.Module], nn.Module] | None = None  # trained module → logits at all positions
    stretch: int = 100  # length of the stretches of running text in training
    max_prompt: int = 4096
    max_tokens: int | None = None  # if the request sets none; None: the server's default


@dataclass(frozen=True, kw_only=True)
class TranslatorRecipe(Recipe):
    """A text in one language in, its translation out: a module with `encode` and `step`."""

    corpus: str = "multi30k"
    step: Callable[[nn.Module], nn.Module]
    prefill: Callable[[nn.Module], nn.Module]
    max_source: int = 256
    max_target: int = 60  # tokens of a translation when BLEU is measured
