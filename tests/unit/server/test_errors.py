"""Errors are plain data."""

from __future__ import annotations

import pickle

import pytest

from lockstep_server.errors import ErrorCode, ServingError, bad_input, not_found, overloaded, unavailable


@pytest.mark.parametrize(
    "error",
    [bad_input("x", "why"), not_found("m/1", "why"), overloaded("why", 0.25), unavailable("why"),
     ServingError(ErrorCode.FAILED, "why")],
)  # fmt: skip
def test_an_error_crosses_a_process_whole(error: ServingError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert vars(again) == vars(error)
    assert str(again) == str(error)


def test_a_message_begins_with_its_field() -> None:
    assert bad_input("x", "is missing").message == "x: is missing"
