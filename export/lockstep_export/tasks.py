"""The tasks of a model, with the roles of its outputs: task, labels and roles of the manifest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lockstep_export.axes import BATCH
from lockstep_export.errors import DescriptionError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lockstep_export.axes import ModuleOutput
    from lockstep_export.manifest import Table

    Outputs = Mapping[str, ModuleOutput]

Activation = Literal["softmax", "sigmoid", "none"]
Pooling = Literal["", "mean", "first", "last", "max"]
MOST_BEAMS = 64
"""Rows of a run, as far as the server goes."""


@dataclass(frozen=True)
class Tensors:
    """Tensors in, tensors out: served by the tensor API only."""

    name = "tensor"
    main = "output"  # the name of a single unnamed output

    def roles(self) -> Table:
        """None."""
        return {}

    def check(self, outputs: Outputs) -> None:
        """Accepts any outputs."""


@dataclass(frozen=True)
class Classify:
    """Texts or ids in, labels out. `labels` are in the order of the scores. A `vector` and `attention` are
    returned on request if the module has them."""

    labels: Sequence[str]
    scores: str = "logits"
    activation: Activation = "softmax"
    vector: str = ""
    attention: str = ""
    name = "classify"

    @property
    def main(self) -> str:
        """The scores."""
        return self.scores

    def roles(self) -> Table:
        """The scores, the activation that turns them into probabilities, and what the module has besides."""
        more = {"vector": self.vector, "attention": self.attention}
        return {
            "scores": self.scores,
            "activation": self.activation,
            **{role: output for role, output in more.items() if output},
        }

    def check(self, outputs: Outputs) -> None:
        """One score per label; with a sigmoid, one score for two labels is accepted."""
        _require(self.scores, "scores", outputs)
        for role, output in (("vector", self.vector), ("attention", self.attention)):
            if output:
                _require(output, role, outputs)
        _check_labels(self.labels)
        if length := _varying(outputs[self.scores]):
            raise DescriptionError(
                f"scores: {self.scores!r} has scores for each of {length!r}, and Classify needs one row of"
                " scores for a text. For labels per word, use task=ClassifyTokens(labels); else return"
                " [batch, labels]"
            )
        _check_width(self, outputs)
        if self.vector:
            _check_vector(self.vector, "", outputs)


@dataclass(frozen=True)
class ClassifyTokens:
    """Texts in, labels for each word or token out: scores [batch, words, labels]. `labels` are in the order
    of the scores."""

    labels: Sequence[str]
    scores: str = "logits"
    activation: Activation = "softmax"
    name = "token-classification"

    @property
    def main(self) -> str:
        """The scores."""
        return self.scores

    def roles(self) -> Table:
        """The scores, and the activation that turns them into probabilities."""
        return {"scores": self.scores, "activation": self.activation}

    def check(self, outputs: Outputs) -> None:
        """One row of scores per word, one score per label."""
        _require(self.scores, "scores", outputs)
        _check_labels(self.labels)
        output = outputs[self.scores]
        if len(output.shape) != 3 or not _varying(output) or output.axes.names[-1]:
            raise DescriptionError(
                f"scores: {self.scores!r} is {_describe(output)}, and ClassifyTokens needs the scores of each"
                " word: return [batch, words, labels], or use task=Classify(labels) for one row of scores"
            )
        _check_width(self, outputs)


@dataclass(frozen=True)
class Transcribe:
    """Frames in, text out, by connectionist temporal classification (CTC): scores [batch, frames, labels].
    `labels` are the texts of the scores, in order; that of the blank, at index `blank`, is not read."""

    labels: Sequence[str]
    blank: int = 0
    scores: str = "logits"
    name = "ctc"

    @property
    def main(self) -> str:
        """The scores."""
        return self.scores

    def roles(self) -> Table:
        """The scores."""
        return {"scores": self.scores}

    def check(self, outputs: Outputs) -> None:
        """One score per label, in each frame or in a step's."""
        _require(self.scores, "scores", outputs)
        _check_labels(self.labels)
        if not 0 <= self.blank < len(self.labels):
            raise DescriptionError(
                f"blank: {self.blank} is no index of the {len(self.labels)} labels; list the blank among them"
            )
        output = outputs[self.scores]
        if output.axes.names[-1]:
            raise DescriptionError(
                f"scores: {self.scores!r} is {_describe(output)}, and Transcribe needs the scores of each"
                " frame: return [batch, frames, labels]"
            )
        _check_width(self, outputs)


@dataclass(frozen=True)
class Encode:
    """Texts or ids in, a vector out, and attention weights on request. `pooling` makes one vector of the
    module's vectors for each word: their mean, the first, the last or the maximum, over real words only.
    `normalise` scales the vector to length 1. The server does both."""

    vector: str = "vector"
    attention: str = ""
    pooling: Pooling = ""
    normalise: bool = False
    name = "encode"

    @property
    def main(self) -> str:
        """The vector."""
        return self.vector

    def roles(self) -> Table:
        """The vector, and the attention if the model has one."""
        return {"vector": self.vector} | ({"attention": self.attention} if self.attention else {})

    def output_keys(self, output: str) -> Table:
        """The keys of an output in the manifest beside its axes."""
        keys = {"pooling": self.pooling, "normalise": self.normalise} if output == self.vector else {}
        return {key: value for key, value in keys.items() if value}

    def check(self, outputs: Outputs) -> None:
        """The outputs exist, and the vector is one per row, or one per word that is pooled."""
        _require(self.vector, "vector", outputs)
        if self.attention:
            _require(self.attention, "attention", outputs)
        _check_vector(self.vector, self.pooling, outputs)


@dataclass(frozen=True)
class Generate:
    """A prompt in, a text out, step by step. `begin` is the id that an empty prompt starts from, `end` the id
    that ends a text."""

    scores: str = "logits"
    begin: int | None = None
    end: int | None = None
    max_tokens: int | None = 512  # if the request sets none; None: the server's default
    name = "generate"

    @property
    def main(self) -> str:
        """The scores of the next token."""
        return self.scores

    def roles(self) -> Table:
        """The scores."""
        return {"scores": self.scores}

    def check(self, outputs: Outputs) -> None:
        """The scores exist."""
        _require(self.scores, "scores", outputs)


@dataclass(frozen=True)
class Translate:
    """A source in, its translation out, step by step: a prefill reads the source. `tokenizer=` is that of the
    source, `target` that of the translation; `begin` and `end` are ids of the target."""

    target: Any
    begin: int
    end: int
    scores: str = "logits"
    attention: str = ""
    max_tokens: int | None = 512  # if the request sets none; None: the server's default
    beams: int = 1  # of requests that send no number of them
    name = "translate"

    @property
    def main(self) -> str:
        """The scores of the next token."""
        return self.scores

    def roles(self) -> Table:
        """The scores, and the attention over the source if the module has one."""
        return {"scores": self.scores} | ({"attention": self.attention} if self.attention else {})

    def check(self, outputs: Outputs) -> None:
        """The outputs exist."""
        _require(self.scores, "scores", outputs)
        if self.attention:
            _require(self.attention, "attention", outputs)
        if not 1 <= self.beams <= MOST_BEAMS:
            raise DescriptionError(f"beams: {self.beams} given; use 1, which is greedy, to {MOST_BEAMS}")


Task = Tensors | Classify | ClassifyTokens | Transcribe | Encode | Generate | Translate


def _require(output: str, role: str, outputs: Outputs) -> None:
    if output not in outputs:
        raise DescriptionError(
            f"{role}: the module returns no {output!r}; it returns {', '.join(outputs)}; use one of these"
            f' ({role}="{next(iter(outputs))}"), or name the outputs with outputs=(...)'
        )


def _check_labels(labels: Sequence[str]) -> None:
    named = not isinstance(labels, str) and all(isinstance(label, str) and label for label in labels)
    if not named or not labels:
        raise DescriptionError(f'labels: {labels!r} given; name each score: labels=["negative", "positive"]')


def _check_width(task: Classify | ClassifyTokens | Transcribe, outputs: Outputs) -> None:
    width, labels = outputs[task.scores].width, len(task.labels)
    single_score = getattr(task, "activation", "") == "sigmoid" and width == 1 and labels == 2
    if width != labels and not single_score:
        raise DescriptionError(
            f"labels: {labels} given, but {task.scores!r} has {width} scores per row; make them equal (or"
            ' return one score for two labels, with activation="sigmoid")'
        )


def _check_vector(vector: str, pooling: str, outputs: Outputs) -> None:
    output = outputs[vector]
    length = _varying(output)
    if length and not pooling:
        raise DescriptionError(
            f"vector: {vector!r} is {_describe(output)}, a vector for each of {length!r}, and a text needs"
            ' one: use task=Encode(…, pooling="mean"), "first", "last" or "max", or pool in the module'
        )
    if pooling not in ("", "mean", "first", "last", "max"):
        raise DescriptionError(f'pooling: {pooling!r} is unknown; use "mean", "first", "last" or "max"')
    if pooling and (not length or len(output.shape) != 3 or output.axes.names[-1]):
        raise DescriptionError(
            f"pooling: {vector!r} is {_describe(output)}, and pooling needs a vector for each word, [batch,"
            " words, width]; omit pooling, or name another output"
        )


def _varying(output: ModuleOutput) -> str:
    """The length along which an output varies; "" if its rows have one size."""
    return next((name for name in output.axes.names if name not in ("", BATCH)), "")


def _describe(output: ModuleOutput) -> str:
    sizes = zip(output.axes.names, output.shape, strict=True)
    return "[" + ", ".join(name or str(size) for name, size in sizes) + "]"
