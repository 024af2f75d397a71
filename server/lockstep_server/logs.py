"""How both processes of a server write their log: lines on stderr, as text or as JSON.

A record may carry `fields` (`extra={"fields": {…}}`). What callers make up is escaped: it neither
begins a line of its own nor looks like another field.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_CONTROLS |= {0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t", 0x2028: "\\u2028", 0x2029: "\\u2029"}
_PLAIN = re.compile(r"[\w.:/+\[\]@-]+", re.ASCII)


def configure(level: str, form: str = "text") -> None:
    """
    Args:
        form: "text" or "json".
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    if level == "debug":  # gRPC would tell of every call that it has a loop
        logging.getLogger("grpc").setLevel(logging.INFO)


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    found: Mapping[str, Any] = getattr(record, "fields", {})
    return found


class _Text(logging.Formatter):
    """`time LEVEL logger: message key=value …`; a traceback follows on lines of its own."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        line = super().formatMessage(record).translate(_CONTROLS)
        return " ".join((line, *(f"{key}={_told(value)}" for key, value in _fields(record).items())))


def _told(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


class _Json(logging.Formatter):
    """One object a line, all in ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.gmtime(record.created)
        told: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', at)}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str)
