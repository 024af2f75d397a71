"""Answers from shared runs are verified: seldom under load, at leisure otherwise, and all if asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from unit.server import sample_models

from lockstep_server.engine.runtime.batching import Batching
from lockstep_server.engine.runtime.verification import Recheck, Verifier

SPEC = sample_models.plain()
RUN_S = 0.002
"""How long each run takes, by the clock of these tests."""


class Model:
    """A verifier of a model that answers 1 alone, and what it is told in company."""

    def __init__(self, share: float) -> None:
        self.now = 0.0
        self.reasons: list[str] = []
        self.verified: list[int] = []
        self.batching = Batching(64, self.reasons.append)
        self.verifier = Verifier(
            share, self.batching, self.batching.withdraw, self.verified.append, clock=lambda: self.now
        )

    def alone(self, value: float = 1.0) -> list[Any]:
        self.now += RUN_S
        return [{"y": np.array([[value]], np.float32)}]

    def rechecks(self, *answers: float, rounding: float = 0.0) -> list[Recheck]:
        return [
            Recheck(
                {"y": np.array([[answer]], np.float32)},
                self.alone,
                lambda: self.alone(1.0 + rounding),
                "x [1, 1]",
            )
            for answer in answers
        ]

    def run(self, *answers: float, **more: float) -> bool:
        """A shared run. Returns whether it was verified at once."""
        self.now += RUN_S
        due = self.verifier.is_due(RUN_S)
        (self.verifier.verify if due else self.verifier.keep)(SPEC, lambda: self.rechecks(*answers, **more))
        return due


def test_share_0_verifies_nothing() -> None:
    model = Model(0.0)
    for _ in range(1000):
        assert not model.run(2, 2)
    model.verifier.verify_pending(lambda: True)
    assert (model.verified, model.reasons) == ([], [])


def test_share_1_verifies_every_answer() -> None:
    model = Model(1.0)
    for _ in range(10):
        assert model.run(*[1.0] * 100)
    assert model.verified == [100] * 10


@pytest.mark.parametrize("share", [0.005, 0.1])
def test_under_load_verification_takes_its_share_of_the_time(share: float) -> None:
    model = Model(share)
    for _ in range(20_000):
        model.run(1, 1, 1, 1)
    spent = sum(model.verified) * RUN_S
    assert 0.5 * share < spent / model.now < share + 4 * RUN_S / 60 + 0.001


def test_a_model_with_few_shared_runs_verifies_one_a_minute() -> None:
    model = Model(1e-9)
    verified = []
    for _ in range(600):  # ten minutes
        model.now += 1
        verified.append(model.run(1, 1))
    assert 9 <= sum(verified) <= 11


def test_a_verification_under_load_is_bounded_in_time() -> None:
    model = Model(0.005)
    assert model.run(*[1.0] * 1000)  # the first
    assert 0 < model.verified[0] * RUN_S < 0.2


def test_an_idle_model_verifies_its_latest_run_until_there_is_work() -> None:
    model = Model(0.005)
    model.run(1, 1)
    assert not model.run(*[1.0] * 10)
    assert model.verifier.pending
    before, left = sum(model.verified), iter([True, True, False])
    model.verifier.verify_pending(lambda: next(left))
    assert sum(model.verified) - before == 3
    assert not model.verifier.pending


def test_an_answer_that_differs_withdraws_batching_and_ends_verification() -> None:
    model = Model(1.0)
    model.run(1, 1.5, 1)
    (reason,) = model.reasons
    assert "'y'" in reason
    assert "by 0.5" in reason
    assert "3 answers" in reason
    assert "x [1, 1]" in reason
    assert not model.batching.allowed
    assert not model.run(1.5)


def test_rounding_errors_of_the_run_s_size_are_no_difference() -> None:
    model = Model(1.0)
    model.run(1.01, 1.01, rounding=0.005)
    assert model.reasons == []
    model.run(1.1, rounding=0.005)
    assert len(model.reasons) == 1


def test_a_request_that_fails_alone_is_no_proof() -> None:
    model = Model(1.0)

    def fails() -> Any:
        raise RuntimeError("the session is closed")

    model.verifier.verify(SPEC, lambda: [Recheck({}, fails, fails, "")])
    assert model.reasons == []
