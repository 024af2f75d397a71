"""Outcomes of gRPC statuses."""

from __future__ import annotations

import grpc
import pytest

from lockstep_load.outcome import RequestOutcome, outcome_of


@pytest.mark.parametrize("code", grpc.StatusCode)
def test_only_status_ok_is_outcome_ok(code: grpc.StatusCode) -> None:
    assert (outcome_of(code) is RequestOutcome.OK) == (code is grpc.StatusCode.OK)


def test_a_message_that_is_too_large_is_invalid_and_not_overload() -> None:
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    assert outcome_of(code, "the queue is full") is RequestOutcome.OVERLOADED
    assert outcome_of(code, "Received message larger than max (9 vs. 4)") is RequestOutcome.INVALID
