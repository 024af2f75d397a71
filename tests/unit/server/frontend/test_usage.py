"""Bytes are shared among callers, and quotas let through what they say."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep_server.errors import ErrorCode, ServingError
from lockstep_server.frontend.admission import CallShare
from lockstep_server.frontend.callers import Caller
from lockstep_server.frontend.usage import CallerUsage, TokenBucket
from lockstep_server.metrics.families import Metrics

A, B, C = (Caller(name) for name in "abc")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def accepted_bytes(usage: CallerUsage, caller: Caller, size: int) -> int:
    """Hold requests of `size` bytes until one is refused. Returns how many."""
    count = 0
    while usage.no_room(size, caller) is None:
        usage.hold(size, caller)
        count += 1
    return count


# --- bytes ------------------------------------------------------------------------------------------


def test_alone_a_caller_holds_all_and_others_get_their_share() -> None:
    usage = CallerUsage(100)
    assert [accepted_bytes(usage, caller, 10) for caller in (A, B, C)] == [10, 5, 3]
    for _ in range(10):
        usage.free(10, A)
    assert accepted_bytes(usage, A, 10) == 3  # beside others, its share
    assert usage.bytes == 110


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 120)), max_size=60))
def test_all_callers_together_hold_at_most_twice_the_limit(requests: list[tuple[str, int]]) -> None:
    usage, held = CallerUsage(100), dict.fromkeys("abcdefgh", 0)
    for name, size in requests:
        if usage.no_room(size, Caller(name)) is None:
            usage.hold(size, Caller(name))
            held[name] += size
        assert usage.bytes == sum(held.values())
        assert usage.bytes <= max(200, requests[0][1])  # one request alone may have any size


def test_a_caller_has_a_limit_of_its_own() -> None:
    usage = CallerUsage(100)
    small = Caller("small", bytes=20)
    assert accepted_bytes(usage, small, 10) == 2
    error = usage.no_room(10, small)
    assert error is not None
    assert error.code is ErrorCode.QUOTA
    assert "(bytes)" in error.message
    usage.free(10, small)
    usage.free(10, small)
    assert usage.no_room(30, small) is None  # one request alone may be larger


# --- quotas -----------------------------------------------------------------------------------------


@given(
    st.floats(0.1, 1000), st.lists(st.tuples(st.floats(0, 3), st.integers(1, 50)), min_size=1, max_size=60)
)
def test_a_bucket_lets_no_more_through_than_its_rate(rate: float, arrivals: list[tuple[float, int]]) -> None:
    bucket, now, let_through, largest = TokenBucket(rate, 0.0), 0.0, 0, 0
    for pause_s, units in arrivals:
        now += pause_s
        wait_s = bucket.wait_s(now)
        if wait_s == 0:
            bucket.spend(units)
            let_through, largest = let_through + units, max(largest, units)
        else:
            later = TokenBucket(rate, 0.0)
            later._left, later._at = bucket._left, bucket._at
            assert later.wait_s(now + wait_s) == 0, "it passes at the time that was named"
    assert let_through <= rate * now + max(rate, 1) + largest


def test_requests_per_second() -> None:
    clock = Clock()
    usage = CallerUsage(clock=clock)
    caller = Caller("a", requests_per_second=2.0)
    for _ in range(2):
        usage.admit(caller)
    with pytest.raises(ServingError, match="2 requests per second") as caught:
        usage.admit(caller)
    assert caught.value.code is ErrorCode.QUOTA
    assert caught.value.retry_after_s == 0.5
    usage.admit(replace(caller, name="b"))
    clock.now += 0.5
    usage.admit(caller)
    clock.now += 3600  # a pause saves up no more than a second
    usage.admit(caller)
    usage.admit(caller)
    with pytest.raises(ServingError):
        usage.admit(caller)


def test_the_first_request_passes_however_slowly_it_is_counted() -> None:
    """The clock goes on by 1 s each time that it is read, as on a busy machine by less."""
    usage = CallerUsage(clock=map(float, itertools.count()).__next__)
    slow = Caller("slow", requests_per_second=0.01)
    usage.admit(slow)
    with pytest.raises(ServingError, match="requests per second"):
        usage.admit(slow)


def test_a_message_of_several_texts_passes_as_a_whole_and_is_owed() -> None:
    clock = Clock()
    usage, caller = CallerUsage(clock=clock), Caller("a", requests_per_second=2.0)
    call = CallShare()
    for _ in range(64):
        usage.admit(caller, call)
    with pytest.raises(ServingError) as caught:
        usage.admit(caller, CallShare())
    assert caught.value.retry_after_s == pytest.approx(31.5)


def test_elements_of_a_stream_pass_one_by_one() -> None:
    usage, caller = CallerUsage(clock=Clock()), Caller("a", requests_per_second=2.0)
    call = CallShare(is_message=False)
    usage.admit(caller, call)
    usage.admit(caller, call)
    with pytest.raises(ServingError):
        usage.admit(caller, call)


def test_tokens_per_second_count_those_sent_and_those_generated() -> None:
    clock = Clock()
    usage = CallerUsage(clock=clock, metrics=Metrics())
    caller = Caller("a", tokens_per_second=10.0, account="a")
    usage.admit(caller)
    usage.accepted(caller, 4)
    usage.add_tokens(caller, 26)
    with pytest.raises(ServingError, match="tokens per second") as caught:
        usage.admit(caller)
    assert caught.value.retry_after_s == pytest.approx(2.1)
    clock.now += 2.1
    usage.admit(caller)


def test_a_new_rate_holds_at_once() -> None:
    usage, caller = CallerUsage(clock=Clock()), Caller("a", requests_per_second=1.0)
    usage.admit(caller)
    usage.admit(replace(caller, requests_per_second=0.0))
    with pytest.raises(ServingError) as caught:
        usage.admit(replace(caller, requests_per_second=100.0))
    assert caught.value.retry_after_s == 0.01


def test_callers_that_came_long_ago_are_forgotten() -> None:
    clock = Clock()
    usage = CallerUsage(clock=clock)
    for number in range(10_000):
        clock.now += 0.01
        usage.admit(Caller(f"proxy/{number}", requests_per_second=1.0))
    assert len(usage._buckets) <= 4096


# --- metrics ----------------------------------------------------------------------------------------


def test_only_callers_of_the_auth_file_have_metrics() -> None:
    metrics = Metrics()
    usage = CallerUsage(metrics=metrics)
    for name in ("known", "known/behind"):
        usage.accepted(Caller(name, account="known"), 3)
    usage.accepted(Caller("@10.0.0.1"), 3)
    value = metrics.registry.get_sample_value
    assert value("lockstep_caller_requests_total", {"caller": "known"}) == 2
    assert value("lockstep_caller_tokens_total", {"caller": "known"}) == 6
    found = {
        sample.labels["caller"]
        for family in metrics.registry.collect()
        for sample in family.samples
        if "caller" in sample.labels
    }
    assert found == {"known"}
