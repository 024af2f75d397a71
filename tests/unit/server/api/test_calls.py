"""Messages that arrive are bounded in memory: the newest of the calls that take long are refused."""

from __future__ import annotations

from lockstep_server.api.calls import ArrivingCalls, Call
from lockstep_server.errors import ErrorCode, ServingError
from lockstep_server.frontend.callers import Caller


class _Process:
    """A clock and a memory that a test sets."""

    def __init__(self) -> None:
        self.now, self.resident = 0.0, 1000
        self.arriving = ArrivingCalls(400, 100, lambda: self.resident, lambda: self.now)

    def later(self) -> None:
        self.now += 0.06
        self.arriving.check()


class _Call(Call):
    def __init__(self, begun: float, caller: Caller) -> None:
        self.begun, self.caller, self.refusal = begun, caller, None

    def end(self, refusal: ServingError) -> None:
        assert self.refusal is None
        self.refusal = refusal


def begun(process: _Process, count: int, caller: str = "") -> list[_Call]:
    calls = [_Call(process.now, Caller(caller)) for _ in range(count)]
    for call in calls:
        process.arriving.calls[call] = None
    return calls


def refused(calls: list[_Call]) -> list[bool]:
    return [call.refusal is not None for call in calls]


def test_the_newest_are_refused_once_the_process_has_grown_too_much() -> None:
    process = _Process()
    process.later()
    calls = begun(process, 6)
    process.later()
    process.resident += 400
    process.later()
    assert refused(calls) == [False] * 6
    process.resident += 1
    process.later()
    assert refused(calls) == [False] * 4 + [True] * 2  # four of the largest fit
    error = calls[-1].refusal
    assert error is not None
    assert (error.code, error.retry_after_s) == (ErrorCode.OVERLOADED, 1.0)
    process.later()
    assert refused(calls[:4]) == [False] * 4


def test_a_caller_with_many_calls_gives_way_to_one_with_few() -> None:
    process = _Process()
    process.later()
    calls: dict[str, list[_Call]] = {}
    for name, count in (("greedy", 10), ("meek", 2)):
        calls[name] = begun(process, count, name)
    process.later()
    process.resident += 401
    process.later()
    assert refused(calls["meek"]) == [False] * 2
    assert refused(calls["greedy"]) == [False] * 2 + [True] * 8


def test_what_has_just_begun_is_not_refused() -> None:
    process = _Process()
    process.later()
    begun(process, 4)
    process.later()
    process.resident += 1000
    late = begun(process, 4)
    process.now += 0.01
    process.arriving.check()
    assert refused(late) == [False] * 4
    process.later()
    assert refused(late) == [True] * 4


def test_growth_counts_from_when_nothing_was_arriving() -> None:
    process = _Process()
    process.resident = 5000
    process.later()
    calls = begun(process, 6)
    process.later()
    assert not any(refused(calls))


def test_a_message_that_is_there_makes_room_and_looks_at_the_others() -> None:
    process = _Process()
    process.later()
    calls = begun(process, 6)
    process.later()
    process.resident += 1000
    process.now += 0.06
    process.arriving.end(calls[0])  # the event loop had no time to check
    assert refused(calls) == [False] * 5 + [True]
