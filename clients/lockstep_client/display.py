"""Output of the commands: a table on a terminal, plain lines in a pipe, or JSON lines.

A plain line has tab-separated columns with the text last, for `cut` and `awk`.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    from lockstep_client.results import (
        Classification,
        Encoding,
        Health,
        ModelState,
        TokenClassification,
        Transcript,
    )
    from lockstep_client.stream_results import (
        Alternative,
        Generation,
        GenerationPart,
        Prediction,
        Translation,
        TranslationPart,
    )

    WithNotice = (
        Classification | TokenClassification | Encoding | Transcript | Generation | Translation | Prediction
    )


_FEW_NUMBERS = 8


def json_line(value: Any) -> None:
    """Print a result's fields, or a dict, as one JSON object on one line."""
    readable = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    _line(json.dumps(value, ensure_ascii=not readable, default=_to_json))


def alternatives(found: Sequence[Alternative]) -> None:
    """Print the texts of a beam search with their scores, best first."""
    if found:
        _rows(("score", "text"), [(f"{one.score:.4f}", one.text) for one in found])


def classifications(texts: Sequence[str], answers: Sequence[Classification]) -> None:
    """Print a row per label of each text."""
    rows = [
        (label.name, f"{label.probability:.4f}", text)
        for text, answer in zip(texts, answers, strict=True)
        for label in answer.labels
    ]
    _rows(("label", "probability", "text"), rows)


def transcript(answer: Transcript, file: str) -> None:
    """Print a row: the text and the file that it was read in."""
    _line("\t".join((_printable(answer.text), file)))
    notices([answer])


def token_classifications(texts: Sequence[str], answers: Sequence[TokenClassification]) -> None:
    """Print a row per label of each span of each text."""
    rows = [
        (f"{span.start}:{span.end}", label.name, f"{label.probability:.4f}", span.text, text)
        for text, answer in zip(texts, answers, strict=True)
        for span in answer.spans
        for label in span.labels
    ]
    _rows(("place", "label", "probability", "word", "text"), rows)


def encodings(texts: Sequence[str], answers: Sequence[Encoding]) -> None:
    """Print the vectors (on a terminal only their size and first elements), then the strongest attention."""
    if sys.stdout.isatty():
        rows = [
            (str(a.vector.size), _first_elements(a), text) for text, a in zip(texts, answers, strict=True)
        ]
        _rows(("dimensions", "vector", "text"), rows)
    else:
        for text, answer in zip(texts, answers, strict=True):
            _line("\t".join((" ".join(f"{x:.6g}" for x in answer.vector.tolist()), _one_line(text))))
    for answer in answers:
        if answer.attention is not None:
            _rows(("token", "attends to", "weight"), list(_strongest_attention(answer)))


class StreamedText:
    """Prints a streamed text as it arrives, or a JSON line per part."""

    def __init__(self, as_json: bool) -> None:
        self._as_json, self._last = as_json, ""

    def part(self, part: GenerationPart | TranslationPart) -> None:
        """Print one part. Parts without tokens and text are skipped."""
        if self._as_json:
            if part.tokens or part.text:
                json_line({"piece" if k == "text" else k: v for k, v in vars(part).items() if _in_part(k, v)})
        elif part.text:
            sys.stdout.write(part.text)
            sys.stdout.flush()
            self._last = part.text[-1]

    def end(self) -> None:
        """End the last line. An empty text prints an empty line."""
        if self._last != "\n":
            _line("")


def _numbers(array: npt.NDArray[Any]) -> str:
    """The first numbers of an array; of a larger one, its shape too."""
    few = " ".join(
        f"{number:.6g}" if array.dtype.kind == "f" else str(number) for number in array.ravel()[:_FEW_NUMBERS]
    )
    return few if array.size <= _FEW_NUMBERS else f"{few} … {list(array.shape)}"


def prediction(item: Prediction) -> None:
    """Print a row for one element: position, element, label, probability, elements computed, milliseconds."""
    best = item.labels[0] if item.labels else None
    label, probability = (best.name, f"{best.probability:.4f}") if best else ("", "")
    computed, compute_ms = str(item.computed_elements), f"{item.timings.compute_s * 1e3:.3f}"
    if item.text or item.outputs:
        found = [_printable(item.text)] if item.text else []
        found += [f"{name}={_numbers(array)}" for name, array in item.outputs.items()]
        _line("\t".join((str(item.position), *found, computed, compute_ms)))
        return
    if sys.stdout.isatty():
        bar, element = "█" * round(20 * best.probability) if best else "", _printable(item.element)
        _line(
            f"{item.position:>5}  {element:<16} {_printable(label):<12} {probability:>6} {bar:<20}"
            f"  computed {computed:>4} in {compute_ms} ms"
        )
    else:
        cells = (_printable(item.element), _printable(label), probability, computed, compute_ms)
        _line("\t".join((str(item.position), *cells)))


def note(text: str) -> None:
    """Print a dimmed remark on a terminal."""
    Console().print(Text(text, style="dim"))


def models(states: Iterable[ModelState]) -> None:
    """Print a row per version of each model."""
    _rows(("model", "version", "state", "reason"), [(s.name, s.version, s.state, s.reason) for s in states])


def health(answer: Health) -> None:
    """Print the status, after the model's name if there is one."""
    _line("\t".join(filter(None, [answer.model, answer.status])))


def notices(answers: Iterable[WithNotice]) -> None:
    """Print the server's notices on stderr, each once."""
    for notice in dict.fromkeys(a.notice for a in answers if a.notice):
        print(f"lockstep: {notice}", file=sys.stderr)


def _rows(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    if not sys.stdout.isatty():
        for row in rows:
            _line("\t".join(map(_one_line, row)))
        return
    table = Table(*header)
    for row in rows:
        table.add_row(*(Text(_one_line(cell)) for cell in row))
    Console().print(table)


def _line(text: str) -> None:
    print(text, flush=True)


def _printable(element: str) -> str:
    """The element with white space made visible: elements of character models may be spaces or newlines."""
    return repr(element)[1:-1].replace(" ", "␣") if element.isspace() else element


def _one_line(cell: str) -> str:
    return " ".join(cell.split()) if any(c in cell for c in "\t\r\n") else cell


def _first_elements(answer: Encoding) -> str:
    shown = " ".join(f"{x:.3f}" for x in answer.vector[:4].tolist())
    return f"{shown} …" if answer.vector.size > 4 else shown


def _strongest_attention(answer: Encoding) -> Iterable[tuple[str, ...]]:
    """For each token, the token that it attends to most, averaged over layers and heads, and the weight."""
    attention = answer.attention
    if attention is None or attention.ndim < 2 or not attention.size:
        return
    weights = attention.reshape(-1, *attention.shape[-2:]).mean(axis=0)
    tokens = answer.tokens or tuple(f"#{i}" for i in range(max(weights.shape)))
    for token, row in zip(tokens, weights, strict=False):
        at = int(np.argmax(row))
        yield token, tokens[at] if at < len(tokens) else f"#{at}", f"{row[at]:.3f}"


def _in_part(key: str, value: Any) -> bool:
    """Whether to print the field with a part: it is set, and does not describe the whole result."""
    if key in ("reason", "timings", "seed", "notice", "model", "version", "alternatives"):
        return False
    if key == "sample":
        return bool(value)
    return value is not None and not (isinstance(value, tuple) and not value)


def _to_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON serializable")
