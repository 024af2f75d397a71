"""The texts of a command: its arguments, or standard input."""

from __future__ import annotations

import codecs
import io
import os
import sys
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import BinaryIO

TEXTS_PER_CALL = 32


class InputError(Exception):
    """Invalid command-line input. The message states the problem."""


def text_batches(arguments: Sequence[str], blank: Callable[[int], None]) -> Iterator[list[str]]:
    """Yield the texts in lists of at most 32, each for one call.

    Without arguments, or for `-`, reads one text per line from stdin and yields the lines as they arrive. A
    blank line is no text: `blank` is called with its number, after the lines before it were yielded. Raises
    InputError if there is no text, an argument is empty, or stdin is not UTF-8.
    """
    if arguments and list(arguments) != ["-"]:
        _check_arguments(arguments)
        for start in range(0, len(arguments), TEXTS_PER_CALL):
            yield list(arguments[start : start + TEXTS_PER_CALL])
    elif not arguments and sys.stdin.isatty():
        raise InputError(
            'no text: pass one in quotes, as in lockstep VERB --model M "text", or - to read lines from stdin'
        )
    else:
        yield from _from_lines(sys.stdin.buffer, blank)


def stdin_pieces() -> Iterator[str]:
    """Yield one text from stdin, in pieces as they arrive.

    Raises InputError if stdin is empty or not UTF-8.
    """
    decoder, read, found = codecs.getincrementaldecoder("utf-8")(), _reading(sys.stdin.buffer), False
    try:
        while chunk := read():
            piece = decoder.decode(chunk)
            found = found or not piece.isspace()
            if piece:
                yield piece
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise InputError("standard input is not UTF-8") from None
    if not found:
        raise InputError("no text: standard input is empty")


def _reading(stream: BinaryIO) -> Callable[[], bytes]:
    """A function that reads the available bytes. It bypasses the buffer of a real file: if another thread
    held the buffer's lock at exit, the interpreter could not shut down."""
    try:
        return partial(os.read, stream.fileno(), 1 << 16)
    except io.UnsupportedOperation:
        return partial(stream.read, 1 << 16)


def _check_arguments(arguments: Sequence[str]) -> None:
    for number, text in enumerate(arguments, start=1):
        if not text.strip():
            raise InputError(f"text {number} is empty: expected at least one word")


def _from_lines(stream: BinaryIO, blank: Callable[[int], None]) -> Iterator[list[str]]:
    number = 0
    for lines in _arrived(stream):
        texts: list[str] = []
        for line in lines:
            number += 1
            if line.strip():
                texts.append(_decoded(number, line))
            if texts and (not line.strip() or len(texts) == TEXTS_PER_CALL):
                yield texts
                texts = []
            if not line.strip():
                blank(number)
        if texts:
            yield texts
    if number == 0:
        raise InputError("no text: standard input is empty")


def _arrived(stream: BinaryIO) -> Iterator[list[bytes]]:
    """Yield all complete lines that are available, so that a slow writer gets results line by line."""
    rest = b""
    read = getattr(stream, "read1", stream.read)
    while chunk := read(1 << 16):
        *lines, rest = (rest + chunk).split(b"\n")
        if lines:
            yield lines
    if rest:
        yield [rest]


def _decoded(number: int, line: bytes) -> str:
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise InputError(f"line {number} is not UTF-8") from None
    return text.removesuffix("\r")
