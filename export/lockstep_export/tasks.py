"""The tasks of a model, with the roles of its outputs: task, labels and roles of the manifest."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lockstep_export.errors import DescriptionError
from lockstep_export.manifest import Table


@dataclass(frozen=True)
class Tensors:
    """Tensors in, tensors out: served by the tensor API only."""

    name = "tensor"
    main = "output"  # the name of a single unnamed output

    def roles(self) -> Table:
        """None."""
        return {}

    def check(self, widths: dict[str, int | None]) -> None:
        """Accepts any outputs."""


@dataclass(frozen=True)
class Classify:
    """Texts or ids in, labels out. `labels` are in the order of the scores. A `vector` and `attention` are
    returned on request if the module has them."""

    labels: Sequence[str]
    scores: str = "logits"
    activation: Literal["softmax", "sigmoid", "none"] = "softmax"
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

    def check(self, widths: dict[str, int | None]) -> None:
        """One score per label; with a sigmoid, one score for two labels is accepted."""
        _require(self.scores, "scores", widths)
        for role, output in (("vector", self.vector), ("attention", self.attention)):
            if output:
                _require(output, role, widths)
        width, labels = widths[self.scores], len(self.labels)
        single_score = self.activation == "sigmoid" and width == 1 and labels == 2
        if width != labels and not single_score:
            raise DescriptionError(
                f"labels: {labels} given, but {self.scores!r} has {width} scores per row; make them equal (or"
                ' return one score for two labels, with activation="sigmoid")'
            )


@dataclass(frozen=True)
class Encode:
    """Texts or ids in, a vector out, and attention weights on request."""

    vector: str = "vector"
    attention: str = ""
    name = "encode"

    @property
    def main(self) -> str:
        """The vector."""
        return self.vector

    def roles(self) -> Table:
        """The vector, and the attention if the model has one."""
        return {"vector": self.vector} | ({"attention": self.attention} if self.attention else {})

    def check(self, widths: dict[str, int | None]) -> None:
        """The outputs exist."""
        _require(self.vector, "vector", widths)
        if self.attention:
            _require(self.attention, "attention", widths)


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

    def check(self, widths: dict[str, int | None]) -> None:
        """The scores exist."""
        _require(self.scores, "scores", widths)


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
    name = "translate"

    @property
    def main(self) -> str:
        """The scores of the next token."""
        return self.scores

    def roles(self) -> Table:
        """The scores, and the attention over the source if the module has one."""
        return {"scores": self.scores} | ({"attention": self.attention} if self.attention else {})

    def check(self, widths: dict[str, int | None]) -> None:
        """The outputs exist."""
        _require(self.scores, "scores", widths)
        if self.attention:
            _require(self.attention, "attention", widths)


Task = Tensors | Classify | Encode | Generate | Translate


def _require(output: str, role: str, widths: dict[str, int | None]) -> None:
    if output not in widths:
        raise DescriptionError(
            f"{role}: the module returns no {output!r}; it returns {', '.join(widths)}; use one of these"
            f' ({role}="{next(iter(widths))}"), or name the outputs with outputs=(...)'
        )
