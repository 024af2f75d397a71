"""Errors are plain data that can be pickled."""

from __future__ import annotations

import pickle

import pytest

from lockstep_server.errors import ErrorCode, ServingError, bad_input, not_found, overloaded, unavailable


@pytest.mark.parametrize(
    "error",
    [bad_input("x", "why"), not_found("m/1", "why"), overloaded("why", 0.25), unavailable("why"),
     ServingError(ErrorCode.FAILED, "why")],
)  # fmt: skip
def test_an_error_keeps_all_its_fields_when_pickled(error: ServingError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)


def test_a_message_begins_with_its_field() -> None:
    assert bad_input("x", "is missing").message == "x: is missing"
