"""Writes one JSON line per second during a run, shortly after the second has ended.

Requests answered later are missing from these lines; the report counts them in the second they were due.
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
    """Writes to a file, or to stdout for "-". Use it as a context manager.

    A write error ends the output, not the run.
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
        line = documents.to_json(documents.second_result(number, self._counts.second(number)))
        line.pop("histogram")
        try:
            self._file.write(json.dumps({"run": self.title, **line}) + "\n")
            self._file.flush()
        except (OSError, ValueError) as error:  # closed pipe or full disk: the run continues
            self._failed = error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is sys.stdout:
            return
        with suppress(OSError):  # the buffer could not be flushed; reported below
            self._file.close()
        if self._failed:
            print(f"lockstep: {self._path} is incomplete: {self._failed}", file=sys.stderr)
