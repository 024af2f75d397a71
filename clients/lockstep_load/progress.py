"""A run's seconds as JSON lines, as they pass: what is known a moment after each has ended.

Requests that are answered later still count in the report, in the second that they were due in.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

from lockstep_load import documents

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from lockstep_load.counts import RunCounts
    from lockstep_load.plan import LoadProfile

DELAY_S = 0.25


class ProgressLines:
    """Writes to a file, or to stdout for "-". Use it in a `with`.

    Where lines cannot be written any more they end, and the run goes on.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO = sys.stdout if str(path) == "-" else path.open("w", encoding="utf-8")
        self._failed: Exception | None = None
        self._next = 0
        self._counts: RunCounts | None = None
        self.title = ""

    def begin(self, load: LoadProfile, counts: RunCounts) -> None:
        self._counts, self._next, self._end_s = counts, 0, load.seconds

    def update(self) -> None:
        assert self._counts is not None
        while self._next + 1 + DELAY_S <= self._counts.now_s and self._next < self._end_s:
            self._write(self._next)
            self._next += 1

    def end(self) -> None:
        assert self._counts is not None
        for number in range(self._next, max(self._counts.seconds, default=-1) + 1):
            self._write(number)

    def _write(self, number: int) -> None:
        if self._failed:
            return
        assert self._counts is not None
        line = documents.second_document(number, self._counts.second(number))
        line.pop("histogram")
        try:
            self._file.write(json.dumps({"run": self.title, **line}) + "\n")
            self._file.flush()
        except (OSError, ValueError) as error:  # the reader has gone, or the disk is full: the run goes on
            self._failed = error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is sys.stdout:
            return
        with suppress(OSError):  # of what is left of lines that could not be written
            self._file.close()
        if self._failed:
            print(f"lockstep: {self._path} ends before the run: {self._failed}", file=sys.stderr)
