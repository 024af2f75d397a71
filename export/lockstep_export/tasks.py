"""What a served model does, and which of its outputs is what: the manifest's task, labels and roles."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lockstep_export.errors import DescriptionError
from lockstep_export.manifest import Table


@dataclass(frozen=True)
class Tensors:
    """Tensors in, tensors out: nothing but the tensor API."""

    name = "tensor"
    main = "output"  # what its only output is called where the module gives no names

    def roles(self) -> Table:
        """No output has a role."""
        return {}

    def check(self, widths: dict[str, int | None]) -> None:
        """Any output will do."""


@dataclass(frozen=True)
class Classify:
    """Texts or ids in, labels out. `labels` in the order of the scores."""

    labels: Sequence[str]
    scores: str = "logits"
    activation: Literal["softmax", "sigmoid", "none"] = "softmax"
    name = "classify"

    @property
    def main(self) -> str:
        """The scores."""
        return self.scores

    def roles(self) -> Table:
        """What turns the scores into probabilities belongs to them."""
        return {"scores": self.scores, "activation": self.activation}

    def check(self, widths: dict[str, int | None]) -> None:
        """One score for each label; of two labels, one score will do with a sigmoid."""
        _require(self.scores, "scores", widths)
        width, labels = widths[self.scores], len(self.labels)
        alone = self.activation == "sigmoid" and width == 1 and labels == 2
        if width != labels and not alone:
            raise DescriptionError(
                f"labels: there are {labels}, but {self.scores!r} gives {width} scores a row; make them equal"
                ' (or of two labels give one score, with activation="sigmoid")'
            )


@dataclass(frozen=True)
class Encode:
    """Texts or ids in, a vector out, and on request what it attended to."""

    vector: str = "vector"
    attention: str = ""
    name = "encode"

    @property
    def main(self) -> str:
        """The vector."""
        return self.vector

    def roles(self) -> Table:
        """Attention only where there is some."""
        return {"vector": self.vector} | ({"attention": self.attention} if self.attention else {})

    def check(self, widths: dict[str, int | None]) -> None:
        """Both are there."""
        _require(self.vector, "vector", widths)
        if self.attention:
            _require(self.attention, "attention", widths)


@dataclass(frozen=True)
class Generate:
    """A prompt in, a text out, step by step. `begin` starts an empty prompt and `end` ends a text: ids."""

    scores: str = "logits"
    begin: int | None = None
    end: int | None = None
    max_tokens: int = 512  # where a request does not say
    name = "generate"

    @property
    def main(self) -> str:
        """The scores of the next token."""
        return self.scores

    def roles(self) -> Table:
        """What scores the next token."""
        return {"scores": self.scores}

    def check(self, widths: dict[str, int | None]) -> None:
        """Scores are there."""
        _require(self.scores, "scores", widths)


Task = Tensors | Classify | Encode | Generate


def _require(output: str, role: str, widths: dict[str, int | None]) -> None:
    if output not in widths:
        raise DescriptionError(
            f"{role}: the module gives no {output!r}, but {', '.join(widths)}; name one of these"
            f' ({role}="{next(iter(widths))}"), or name what it gives with outputs=(...)'
        )
