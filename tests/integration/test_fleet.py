"""Three servers behind HAProxy keep the promises of docs/scaling.md: `make fleet` in short."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fleet.experiments import kill, lost_by_failure, lost_by_restart, restart, stall
from fleet.load import load
from fleet.processes import HAPROXY, NAMES, Fleet, write_models
from patience import PATIENCE_S, limit_s

from lockstep_client.metrics_text import scrape

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed: apt install haproxy")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    models = tmp_path_factory.mktemp("fleet") / "models"
    models.mkdir()
    write_models(models)
    with Fleet(models, delay_s=limit_s(2.0)) as started:  # a busy HAProxy notices later
        yield started


def test_a_rolling_restart_fails_no_call_and_ends_no_stream_and_loses_no_sequence(fleet: Fleet) -> None:
    with load(fleet.address, fleet.servers["s1"].address) as history:
        restarts = [restart(fleet, history, name) for name in NAMES]
    assert lost_by_restart(history) == []
    for name in NAMES:
        streams = [call for call in history.of("stream") if call.server == name]
        (began,) = [one.began for one in restarts if one.server == name]
        assert any(call.began < began < call.ended for call in streams), "no stream was open at its stop"
    assert len({call.server for call in history.of("step")}) == len(NAMES)
    moved = [scrape(f"127.0.0.1:{one.metrics_port}", PATIENCE_S) for one in fleet.servers.values()]
    assert any(page.select("lockstep_sequence_moves_total", result="in") for page in moved)


def test_a_stalled_server_is_taken_out_and_only_what_it_held_fails(fleet: Fleet) -> None:
    with load(fleet.address, fleet.servers["s2"].address) as history:
        stalled = stall(fleet, history, "s1")
    assert lost_by_failure(history, stalled) == []
    assert any(call.server == "s1" for call in history.failed("stream")), "it held no stream"


def test_a_killed_server_loses_what_it_held_and_nothing_else(fleet: Fleet) -> None:
    with load(fleet.address, fleet.servers["s1"].address) as history:
        killed = kill(fleet, history, "s3")
    assert lost_by_failure(history, killed) == []
    assert any(call.server == "s3" for call in history.failed("stream")), "it held no stream"
