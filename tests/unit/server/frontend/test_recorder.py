"""The requests that are remembered, and the way to the engine's runs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep_server import messages
from lockstep_server.errors import ErrorCode, ServingError, unavailable
from lockstep_server.frontend.recorder import EndedRequest, EndedRequests, Recorder, request_id


def ended(key: int, at: float, seconds: float, model: str = "m", ids: tuple[str, ...] = ()) -> EndedRequest:
    hashes = [hash(one) for one in (*ids, "", "")]
    return EndedRequest(key, model, model, 1, "Classify", "ok", at, seconds, 0.0, 3, hashes[0], hashes[1])


@given(st.lists(st.tuples(st.floats(0, 0.4), st.floats(0, 9), st.sampled_from("ab")), max_size=60))
def test_the_slowest_is_found_however_many_ended_after_it(given: list[tuple[float, float, str]]) -> None:
    now = 0.0
    all_: list[EndedRequest] = []
    requests = EndedRequests(2, lambda: now)
    for key, (pause, seconds, model) in enumerate(given):
        now += pause
        all_.append(ended(key, now - seconds, seconds, model))
        requests.add(all_[-1])
    for model in ("a", "b", ""):
        mine = [one for one in all_ if model in ("", one.model) and one.arrived + one.seconds >= now - 5]
        found = requests.find(model, since_s=5)
        assert [one.seconds for one in found] == sorted((one.seconds for one in found), reverse=True)
        assert {one.key for one in found} <= {one.key for one in mine}
        assert max((one.seconds for one in mine), default=None) == (found[0].seconds if found else None)


def test_a_request_is_found_by_its_id_and_by_the_ids_of_its_caller() -> None:
    requests = EndedRequests(10)
    requests.add(ended(1 << 40, 1.0, 0.5, ids=("mine", "4bf92f3577b34da6a3ce929d0e0e4736")))
    requests.add(ended(5, 1.0, 0.7, ids=("", "")))
    for known in (request_id(1 << 40), "mine", "4bf92f3577b34da6a3ce929d0e0e4736"):
        assert [one.key for one in requests.find(sent_id=known)] == [1 << 40]
    assert requests.find(sent_id="nobody's") == []
    assert requests.find(sent_id="mine", allowed=lambda model: model != "m") == []
    assert "mine" not in repr(requests.find(sent_id="mine"))


def test_nothing_is_kept_with_size_0() -> None:
    requests = EndedRequests(0)
    requests.add(ended(1, 1.0, 0.5))
    assert requests.find() == []


async def test_an_engine_that_is_lost_ends_the_wait_for_its_runs() -> None:
    sent: list[Any] = []
    recorder = Recorder(lambda message: sent.append(message), 10)
    asked = [asyncio.ensure_future(recorder.runs(after)) for after in (3, 4)]
    await asyncio.sleep(0)
    assert [(one.after, one.model) for one in sent] == [(3, ""), (4, "")]
    recorder.answered(messages.RunRecords(sent[1].key, []))
    recorder.engine_lost(unavailable("the engine process died"))
    with pytest.raises(ServingError, match="died") as caught:
        await asked[0]
    assert caught.value.code is ErrorCode.UNAVAILABLE
    assert (await asked[1]).records == []
    recorder.answered(messages.RunRecords(sent[0].key, []))  # too late: nobody waits
