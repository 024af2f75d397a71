"""What the log says of requests, and what it does not."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from lockstep_server import messages
from lockstep_server.errors import ErrorCode, ServingError, bad_input, overloaded
from lockstep_server.frontend.registry import ModelRegistry
from lockstep_server.frontend.request_log import RequestLog
from lockstep_server.frontend.tracing import RequestSummary, Trace
from lockstep_server.metrics.families import Metrics
from lockstep_server.model.manifest import Manifest
from lockstep_server.model.spec import ModelSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

SPEC = ModelSpec("lm.step", 3, (), (), Manifest(), model="lm")
TIMINGS = messages.RequestTimings(0.25, 0.5, 3, 8.0)
SECRET = "nobody may read this"


class Kept(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def lines() -> Iterator[list[logging.LogRecord]]:
    kept, log = Kept(), logging.getLogger("lockstep_server.frontend.request_log")
    log.addHandler(kept)
    log.setLevel(logging.DEBUG)
    yield kept.records
    log.removeHandler(kept)
    log.setLevel(logging.NOTSET)


def ended(error: ServingError | None = None, outcome: str = "") -> RequestSummary:
    event = messages.Event(1, None, error, TIMINGS, 12)
    outcome = outcome or (error.code.value if error else "ok")
    return RequestSummary(SPEC, "Classify", "texts[0]", SECRET, False, 0.0, 1.0, outcome, event)


def fields(record: logging.LogRecord) -> dict[str, Any]:
    found: dict[str, Any] = record.fields  # type: ignore[attr-defined]
    return found


def test_a_request_that_ended_well_is_told_at_debug(lines: list[logging.LogRecord]) -> None:
    RequestLog().ended(ended(), Trace("ab" * 16))
    (line,) = lines
    assert line.levelno == logging.DEBUG
    assert fields(line) == {
        "model": "lm", "version": "3", "method": "Classify", "outcome": "ok", "seconds": 1.0,
        "queue_seconds": 0.25, "compute_seconds": 0.5, "runs": 3, "rows": 8.0, "length": 12,
        "trace_id": "ab" * 16,
    }  # fmt: skip


@pytest.mark.parametrize(("outcome", "level"), [("cancelled", logging.DEBUG), ("deadline", logging.INFO)])
def test_a_failure_is_told_at_info_and_leaving_is_none(
    lines: list[logging.LogRecord], outcome: str, level: int
) -> None:
    error = None if outcome == "cancelled" else ServingError(ErrorCode(outcome), "too late")
    RequestLog().ended(ended(error, outcome), None)
    assert [line.levelno for line in lines] == [level]


def test_a_refusal_says_why(lines: list[logging.LogRecord]) -> None:
    RequestLog().refused("lm", "3", "Generate", overloaded("the wait would be 600 ms", 0.1))
    assert fields(lines[0]) == {
        "model": "lm", "version": "3", "method": "Generate", "code": "overloaded",
        "why": "the wait would be 600 ms",
    }  # fmt: skip


def test_no_text_of_a_caller_is_told(lines: list[logging.LogRecord]) -> None:
    request_log = RequestLog()
    request_log.ended(ended(), None)
    request_log.ended(ended(bad_input("texts[0]", f"{SECRET!r} does not fit")), None)
    request_log.refused("lm", "3", "Classify", bad_input("texts[0]", f"{SECRET!r} does not fit"))
    assert len(lines) == 3
    assert fields(lines[2])["field"] == "texts[0]"
    assert all(SECRET not in str(fields(line)) + line.getMessage() for line in lines)


def test_no_name_that_a_caller_made_up_is_told(lines: list[logging.LogRecord]) -> None:
    async def changed(_: ModelRegistry) -> None: ...

    registry = ModelRegistry(Metrics(), changed, RequestLog())
    with pytest.raises(ServingError):
        registry.resolve(SECRET, SECRET, "Classify")
    assert fields(lines[0])["code"] == "not_found"
    assert SECRET not in str(fields(lines[0])) + lines[0].getMessage()


def test_texts_are_told_where_they_are_asked_for_and_are_cut(lines: list[logging.LogRecord]) -> None:
    request_log = RequestLog(texts=True)
    request_log.ended(ended()._replace(text="x" * 5000), None)
    request_log.refused("lm", "3", "Classify", bad_input("texts[0]", f"{SECRET!r} does not fit"))
    assert fields(lines[0])["text"] == "x" * 400
    assert SECRET in fields(lines[1])["why"]


def test_at_debug_no_line_is_left_out(lines: list[logging.LogRecord]) -> None:
    request_log = RequestLog(clock=lambda: 0.0)
    for _ in range(1000):
        request_log.ended(ended(ServingError(ErrorCode.FAILED, "broken")), None)
    assert len(lines) == 1000


def test_an_overload_does_not_flood_the_log(lines: list[logging.LogRecord]) -> None:
    logging.getLogger("lockstep_server.frontend.request_log").setLevel(logging.INFO)
    now = 0.0
    request_log = RequestLog(clock=lambda: now)
    for _ in range(1000):
        request_log.refused("lm", "3", "Classify", overloaded("full", 0.1))
    written = len(lines)
    assert written <= 60
    now = 10.0
    request_log.refused("lm", "3", "Classify", overloaded("full", 0.1))
    assert fields(lines[-1])["unlogged"] == 1000 - written
    request_log.refused("lm", "3", "Classify", overloaded("full", 0.1))
    assert "unlogged" not in fields(lines[-1])


def test_who_does_not_listen_pays_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lockstep_server.frontend.request_log")
    assert not RequestLog().listens("ok")
    assert RequestLog().listens("failed")
