"""Every request ends exactly once, with the answer it gets alone: `make chaos` in short, and its controls."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from chaos.run import chaos_server, run
from chaos.sabotage import CONTROLS
from chaos.validator import findings
from patience import limit_s

if TYPE_CHECKING:
    from chaos.run import Outcome

FAULTS = ("reload", "kill", "unload", "pause", "reload")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """One round of calls and faults. The plan depends on the seed only, what meets when does not."""
    with chaos_server(tmp_path_factory.mktemp("chaos"), slow_s=0.002, stall_s=limit_s(10)) as server:
        return asyncio.run(
            run(server, seed=15, requests=1, seconds=600, per_round=600, each=6, faults=FAULTS)
        )


def test_every_request_ends_once_and_rightly_and_all_is_back(outcome: Outcome) -> None:
    assert outcome.found == []
    assert outcome.rounds == 1
    assert sum(outcome.faults.values()) == len(FAULTS)
    assert outcome.by_status["OK"] > 300
    assert outcome.by_status["CANCELLED"] > 20
    assert len(outcome.by_rpc) >= 20


@pytest.mark.parametrize("name", CONTROLS)
def test_the_validator_would_have_found_it(outcome: Outcome, name: str) -> None:
    change, kind = CONTROLS[name]
    assert outcome.last is not None
    assert kind in {one.kind for one in findings(change(outcome.last))}
