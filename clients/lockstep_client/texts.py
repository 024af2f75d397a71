"""The texts that a command is given: its arguments, or what comes on standard input."""

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

MOST_IN_A_CALL = 32


class InputError(Exception):
    """The texts cannot be asked about; the message says which, and why."""


def given(arguments: Sequence[str]) -> Iterator[list[str]]:
    """The texts in lists of at most 32, each fit for one call.

    No arguments, or `-` alone: one text a line from stdin, passed on as the lines come. InputError for no
    text at all, an empty one, or bytes that are not UTF-8.
    """
    if arguments and list(arguments) != ["-"]:
        _check_arguments(arguments)
        for start in range(0, len(arguments), MOST_IN_A_CALL):
            yield list(arguments[start : start + MOST_IN_A_CALL])
    elif not arguments and sys.stdin.isatty():
        raise InputError(
            'no text: give one in quotes, or - to read lines, as in: lockstep VERB --model M "text"'
        )
    else:
        yield from _from_lines(sys.stdin.buffer)


def arriving() -> Iterator[str]:
    """One text from stdin, in pieces as they come; InputError for nothing, or bytes that are not UTF-8."""
    decoder, read, found = codecs.getincrementaldecoder("utf-8")(), _reading(sys.stdin.buffer), False
    try:
        while some := read():
            piece = decoder.decode(some)
            found = found or not piece.isspace()
            if piece:
                yield piece
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise InputError("standard input is not UTF-8") from None
    if not found:
        raise InputError("no text: standard input is empty")


def _reading(stream: BinaryIO) -> Callable[[], bytes]:
    """Reads what is there. From the file itself where there is one: another thread may read at exit, and a
    buffer that it holds would stop the interpreter from ending."""
    try:
        return partial(os.read, stream.fileno(), 1 << 16)
    except io.UnsupportedOperation:
        return partial(stream.read, 1 << 16)


def _check_arguments(arguments: Sequence[str]) -> None:
    for number, text in enumerate(arguments, start=1):
        if not text.strip():
            raise InputError(f"text {number} is empty: give at least one word")


def _from_lines(stream: BinaryIO) -> Iterator[list[str]]:
    number = 0
    for lines in _arrived(stream):
        for start in range(0, len(lines), MOST_IN_A_CALL):
            chunk = lines[start : start + MOST_IN_A_CALL]
            yield [_decoded(number + i, line) for i, line in enumerate(chunk, start=1)]
            number += len(chunk)
    if number == 0:
        raise InputError("no text: standard input is empty")


def _arrived(stream: BinaryIO) -> Iterator[list[bytes]]:
    """Whole lines, as many as are there at a time, so that a slow writer is answered line by line."""
    rest = b""
    read = getattr(stream, "read1", stream.read)
    while some := read(1 << 16):
        *lines, rest = (rest + some).split(b"\n")
        if lines:
            yield lines
    if rest:
        yield [rest]


def _decoded(number: int, line: bytes) -> str:
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise InputError(f"line {number} is not UTF-8") from None
    if not text.strip():
        raise InputError(f"line {number} is empty: each line is one text")
    return text.removesuffix("\r")
