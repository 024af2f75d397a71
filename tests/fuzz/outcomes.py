"""What became of one input: a kind, which must be an allowed one, and a reason to tell outcomes apart."""

from __future__ import annotations

import re
from typing import NamedTuple

ANSWERS = frozenset({
    "OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "PERMISSION_DENIED",
    "UNIMPLEMENTED", "DEADLINE_EXCEEDED",
})  # fmt: skip
"""Statuses that a request may end with, whatever its bytes are."""

_VARYING = re.compile(r"'[^']*'|\"[^\"]*\"|[\d.]+|/\S+")


class Outcome(NamedTuple):
    """`kind` is a status, "loaded", "LoadError", the name of another exception, "crash" or "hang"."""

    kind: str
    reason: str = ""

    @property
    def signature(self) -> str:
        """The outcome without what varies in its reason: names, numbers, paths."""
        return f"{self.kind}: {_VARYING.sub('…', self.reason)[:80]}"
