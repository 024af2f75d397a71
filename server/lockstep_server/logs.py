"""Configures logging for both processes of the server: one line per record on stderr, as text or JSON.

A record may have `fields` (`extra={"fields": {…}}`). Text from clients is escaped: it can neither start a
new line nor look like another field.
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
    """Log to stderr.

    Args:
        level: debug, info, warning or error.
        form: "text" or "json".
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    if level == "debug":  # gRPC's own debug log has a line about the event loop for every call
        logging.getLogger("grpc").setLevel(logging.INFO)


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = getattr(record, "fields", {})
    return fields


class _Text(logging.Formatter):
    """Formats `time LEVEL logger: message key=value …`, with a traceback on the lines below."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        line = super().formatMessage(record).translate(_CONTROLS)
        return " ".join((line, *(f"{key}={_field_text(value)}" for key, value in _fields(record).items())))


def _field_text(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


class _Json(logging.Formatter):
    """Formats one JSON object per line, in ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.gmtime(record.created)
        line: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', at)}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
