"""Log lines as text and as JSON: text from clients cannot leave its field."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import PATIENCE_S

from lockstep_server import logs

WRITES = """
import logging, sys
from lockstep_server import logs
logs.configure("info", sys.argv[1])
log = logging.getLogger("here")
log.info("a request", extra={"fields": {"model": "no\\nsuch model=x", "seconds": 0.5}})
log.debug("below the level")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("failed on %s", "x\\ny")
"""


def written(form: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", WRITES, form], check=True, capture_output=True, text=True, timeout=PATIENCE_S
    )
    return done.stderr.splitlines()


def record(message: str, **fields: object) -> logging.LogRecord:
    result = logging.LogRecord("here", logging.INFO, "", 0, message, (), None)
    result.fields = fields
    return result


def test_a_text_line_has_fields_after_the_message_and_the_traceback_below() -> None:
    request, failure, *trace = written("text")
    assert request.endswith(' INFO here: a request model="no\\nsuch model=x" seconds=0.5')
    assert failure.endswith(" ERROR here: failed on x\\ny")
    assert trace[0].startswith("Traceback")
    assert trace[-1].startswith("ZeroDivisionError")


def test_json_has_one_object_per_line() -> None:
    request, failure = (json.loads(line) for line in written("json"))
    assert request["time"].endswith("Z")
    assert request | {"time": ""} == {
        "time": "", "level": "info", "logger": "here", "message": "a request",
        "model": "no\nsuch model=x", "seconds": 0.5,
    }  # fmt: skip
    assert "ZeroDivisionError" in failure["exception"]


@given(st.text())
def test_any_client_text_stays_on_one_line_and_in_one_field(text: str) -> None:
    line = logs._Text().format(record("a request", model=text, outcome="ok"))
    assert len(line.splitlines()) == 1
    _, _, tail = line.partition(" model=")
    value, rest = tail.split(" ", 1)[0], "outcome=ok"
    if tail.startswith('"'):
        value, end = json.JSONDecoder().raw_decode(tail)
        rest = tail[end + 1 :]
    assert (value, rest) == (text, "outcome=ok")
    assert json.loads(logs._Json().format(record("a request", model=text)))["model"] == text


@pytest.mark.parametrize("control", ["\x1b[31m", "\x9b2J", "\u2028", "\r", "\x00"])
def test_control_characters_are_escaped(control: str) -> None:
    line = logs._Text().format(record(f"unknown model {control}"))
    assert control[0] not in line
