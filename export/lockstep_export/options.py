"""The options of an export beside the axes of the inputs."""

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
    """The options of `export_oneshot` and `export_stepwise`; `ExportOptions` has the defaults."""

    task: Task  # Classify(labels), ClassifyTokens(labels), Encode(), Generate(), Translate(…), Tensors()
    tokenizer: Path | str | Any  # a tokenizer.json, a `tokenizers.Tokenizer`, or a fast one of transformers
    lengths: str | Sequence[str]  # the input [batch] with the length of each row; the server generates it
    mask: str | Sequence[str]  # the input that is true, or 1, for real elements; the server generates it
    padding_mask: str | Sequence[str]  # the input that is true, or 1, for padding; the server generates it
    pad: float | Mapping[str, float]  # the padding value of an input
    ids: Mapping[str, int]  # number of ids of an input, if no nn.Embedding takes it directly
    longest: int | Mapping[str, int]  # the largest size of each length; the server rejects longer rows
    max_rows: int  # rows in a batch
    max_padded_elements: int  # rows x longest of a batch
    version: int
    tolerance: float  # largest difference, divided by the largest value where that is above 1
    exact: bool  # a step's results must not depend on the batch in a single bit
    about: str  # the first line of the manifest
    report: Callable[[str], None]
    progress: bool  # show on stderr how far the export is


@dataclass(frozen=True)
class ExportOptions:
    """The options with defaults."""

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
    tolerance: float = 1e-4  # as in the server's self-test
    exact: bool = False
    about: str = ""
    report: Callable[[str], None] = print
    progress: bool = True


def parse_options(serving: Mapping[str, Any]) -> ExportOptions:
    """The options with defaults.

    Raises:
        DescriptionError: an unknown name, or a number out of range.
    """
    known = [option.name for option in fields(ExportOptions)]
    for name in serving:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"available: {', '.join(known)}"
            raise DescriptionError(f"unknown option {name!r}; {hint}")
    options = ExportOptions(**serving)
    if options.version < 1 or options.max_rows < 1:
        raise DescriptionError("version and max_rows must be integers of at least 1")
    return options


def open_tokenizer(given: Any) -> Tokenizer:
    """The tokenizer from a file, from a transformers tokenizer, or as given."""
    given = getattr(given, "backend_tokenizer", given)
    if isinstance(given, Tokenizer):
        return given
    try:
        return Tokenizer.from_file(str(given))
    except Exception as error:  # `tokenizers` raises nothing narrower
        raise DescriptionError(f"tokenizer: cannot read {given}: {error}; save it with tokenizers") from error
