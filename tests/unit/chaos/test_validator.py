"""The validator passes a right history, and finds everything that is put into it to be wrong."""

from __future__ import annotations

import math

import pytest
from chaos.history import End, Fault, History, Level, Reply, Sent
from chaos.sabotage import CONTROLS
from chaos.validator import findings, grows

UNAVAILABLE = frozenset({"UNAVAILABLE"})


def history() -> History:
    """Two calls, a cancelled stream, a message that failed with the engine, and an invalid request."""
    total = {
        ("lockstep_accepted_total", (("model", "m"),)): 3.0,
        ("lockstep_requests_total", (("method", "Infer"), ("outcome", "ok"))): 2.0,
        ("lockstep_requests_total", (("method", "Generate"), ("outcome", "cancelled"))): 1.0,
        ("grpc_server_started_total", (("grpc_method", "Infer"),)): 3.0,
        ("grpc_server_handled_total", (("grpc_code", "OK"), ("grpc_method", "Infer"))): 2.0,
        ("grpc_server_handled_total", (("grpc_code", "INVALID_ARGUMENT"), ("grpc_method", "Infer"))): 1.0,
    }
    return History(
        events=[
            Sent(0.0, 1, "Infer", (1.0, 2), model="m", weight=1),
            Sent(0.0, 2, "Infer", (3.0, 4), model="m", weight=1),
            Sent(0.1, 3, "Generate", (7, 8, 9), frozenset({"CANCELLED"}), weight=1),
            Reply(0.2, 2, (3.00001, 4)),
            Reply(0.2, 3, (7,)),
            Reply(0.3, 1, (1.0,)),
            Reply(0.3, 1, (2,)),
            End(0.3, 2, "OK"),
            End(0.3, 1, "OK"),
            Reply(0.4, 3, (8,)),
            End(0.4, 3, "CANCELLED"),
            Sent(1.0, 4, "ModelStreamInfer", (5.0,), is_call=False),
            End(1.5, 4, "UNAVAILABLE"),
            Sent(1.0, 5, "Infer", None, frozenset({"INVALID_ARGUMENT"})),
            End(1.0, 5, "INVALID_ARGUMENT"),
        ],
        faults=[Fault(1.2, 2.0, "kill", UNAVAILABLE)],
        levels=[Level("descriptors", 20, 20), Level("MB", 100, 140, slack=64)],
        counted=({}, total),
    )


def kinds(one: History) -> set[str]:
    return {finding.kind for finding in findings(one)}


def test_a_right_history_has_no_findings() -> None:
    assert findings(history()) == []


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_is_found(name: str) -> None:
    change, kind = CONTROLS[name]
    assert kind in kinds(change(history()))


def test_an_answer_to_an_invalid_request_is_found() -> None:
    one = history()
    one.events[-1:] = [Reply(1.0, 5, (1,)), End(1.0, 5, "OK")]
    assert kinds(one) == {"wrong answer", "status", "counter"}


@pytest.mark.parametrize(
    "fault",
    [
        Fault(1.2, 2.0, "kill", frozenset({"NOT_FOUND"})),  # another status
        Fault(1.2, 2.0, "unload", UNAVAILABLE, model="other"),
        Fault(1.6, 2.0, "kill", UNAVAILABLE),  # after the end
        Fault(0.0, 0.4, "kill", UNAVAILABLE),  # over before
    ],
)
def test_a_fault_explains_only_what_it_can_have_caused(fault: Fault) -> None:
    one = history()
    one.faults = [fault]
    assert kinds(one) == {"status"}


def test_a_fault_that_was_not_recovered_from_is_found() -> None:
    one = history()
    one.faults[0] = one.faults[0]._replace(ended=math.inf)
    assert kinds(one) == {"no recovery"}


def test_a_part_of_another_answer_is_wrong_also_if_the_request_was_cut_off() -> None:
    one = history()
    one.events[9] = Reply(0.4, 3, (9,))
    assert kinds(one) == {"wrong answer"}


def test_memory_may_grow_within_its_slack_only() -> None:
    one = history()
    one.levels[1] = Level("MB", 100, 165, slack=64)
    assert kinds(one) == {"leak"}


def test_memory_that_grows_with_requests_is_found_and_that_of_caches_is_not() -> None:
    requests = [9000.0 * at for at in range(1, 21)]
    leaking = [(one, 80 + 130 * one / (1 << 20)) for one in requests]
    filling = [(one, min(100.0, 80 + one / 4000)) for one in requests]
    assert [one.kind for one in grows(leaking)] == ["leak"]
    assert grows(filling) == []
    assert grows(leaking[:4]) == []  # too few rounds to tell


def test_fewer_answers_counted_than_callers_got_is_found() -> None:
    one = history()
    assert one.counted is not None
    name = ("lockstep_requests_total", (("method", "Infer"), ("outcome", "ok")))
    one.counted = ({name: 1.0, ("lockstep_accepted_total", (("model", "m"),)): 1.0}, one.counted[1])
    assert kinds(one) == {"counter"}
