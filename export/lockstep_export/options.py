"""What may be said of a model beside the axes of its inputs."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypedDict

from tokenizers import Tokenizer

from lockstep_export.errors import DescriptionError
from lockstep_export.tasks import Task, Tensors

LONGEST = 512


class ServingOptions(TypedDict, total=False):
    """What may be said of a model beside its axes; `Choices` has the defaults."""

    task: Task  # Classify(labels), Encode(), Generate(), Tensors()
    tokenizer: Path | str | Any  # a tokenizer.json, a `tokenizers.Tokenizer`, or a fast one of transformers
    lengths: str | Sequence[str]  # the input [batch] that tells how long each row is: the server fills it in
    mask: str | Sequence[str]  # the input that is true, or 1, on real elements: likewise
    padding_mask: str | Sequence[str]  # the input that is true, or 1, on padding: likewise
    pad: float | Mapping[str, float]  # what an input is padded with
    ids: Mapping[str, int]  # of an input of ids: one past the largest; where no nn.Embedding tells
    longest: int | Mapping[str, int]  # the largest of each length; more is refused
    max_rows: int  # rows that share a run
    max_padded_elements: int  # rows x longest of a run
    version: int
    tolerance: float  # largest difference, of the largest value where that is above one
    about: str  # one line for the manifest
    report: Callable[[str], None]


@dataclass(frozen=True)
class ExportOptions:
    """What was said, with defaults for what was not."""

    task: Task = field(default_factory=Tensors)
    tokenizer: Any = None
    lengths: str | Sequence[str] = ()
    mask: str | Sequence[str] = ()
    padding_mask: str | Sequence[str] = ()
    pad: float | Mapping[str, float] = 0
    ids: Mapping[str, int] | None = None
    longest: int | Mapping[str, int] = LONGEST
    max_rows: int = 64
    max_padded_elements: int = 4096
    version: int = 1
    tolerance: float = 1e-4  # what the server's own self-test allows
    about: str = ""
    report: Callable[[str], None] = print


def parse_options(serving: Mapping[str, Any]) -> ExportOptions:
    """What was said, with defaults.

    Raises:
        DescriptionError: a name or a number that does not fit.
    """
    known = [one.name for one in fields(ExportOptions)]
    for name in serving:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
            raise DescriptionError(f"{name!r} is not known; {hint}")
    choices = ExportOptions(**serving)
    if choices.version < 1 or choices.max_rows < 1:
        raise DescriptionError("version and max_rows are whole numbers of 1 or more")
    return choices


def open_tokenizer(given: Any) -> Tokenizer:
    """A tokenizer from a file, from transformers, or as it is."""
    given = getattr(given, "backend_tokenizer", given)
    if isinstance(given, Tokenizer):
        return given
    try:
        return Tokenizer.from_file(str(given))
    except Exception as error:  # `tokenizers` raises nothing narrower
        raise DescriptionError(
            f"tokenizer: {given} cannot be read: {error}; save it with tokenizers"
        ) from error
