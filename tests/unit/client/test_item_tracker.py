"""ItemTracker as tables: messages sent, results received, items sent again."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep_client import errors, protocol
from lockstep_client.item_tracker import CONNECT_ATTEMPTS, STALL_TIMEOUT_S, ItemTracker

NOW = 100.0


def prepare(given):
    if given == "wrong":
        raise errors.InvalidRequest("texts: wrong")
    return given, len(given)


def check(size):
    if size > 50:
        raise errors.InvalidRequest("too large")


def write(number: int, texts: Any) -> Any:
    return number, list(texts)


def make_tracker(*, ordered=True, in_flight=4, most=3, retries=True):
    """Messages are (number of the first, texts); replies are lists of (number, answer)."""
    call = protocol.ManyCall(
        protocol.CLASSIFY_MANY,
        (),
        prepare=prepare,
        group=str.islower,
        write=write,
        read=lambda reply: reply,
        most_in_message=most,
        in_flight=in_flight,
        ordered=ordered,
        timeout_s=1.0,
    )
    return ItemTracker(call, check, retries=retries)


def tracker_with(texts, **options):
    tracker = make_tracker(**options)
    for text in texts:
        tracker.take(text)
    return tracker


def read(tracker):
    return list(iter(tracker.next_outcome, None))


def outcomes(tracker):
    return [(outcome.number, outcome.given, outcome.error or outcome.answer) for outcome in read(tracker)]


def test_ready_items_share_a_message_up_to_its_limits():
    tracker = tracker_with("abcdeFg", in_flight=9)
    messages = [tracker.message(NOW) for _ in range(5)]
    assert messages == [(0, ["a", "b", "c"]), (3, ["d", "e"]), (5, ["F"]), (6, ["g"]), None]


def test_outcomes_are_delivered_in_order_or_as_they_arrive():
    for ordered, first in ((True, []), (False, [(1, "b", "B")])):
        tracker = tracker_with("ab", ordered=ordered)
        tracker.message(NOW)
        tracker.settle([(1, "B")], NOW)
        assert outcomes(tracker) == first
        tracker.settle([(0, "A")], NOW)
        assert (0, "a", "A") in outcomes(tracker)
        tracker.ended = True
        assert tracker.finished


def test_items_in_flight_and_unread_are_bounded():
    tracker = tracker_with("abcd")
    assert not tracker.has_room
    tracker.message(NOW)
    tracker.settle([(0, "A")], NOW)
    assert not tracker.has_room
    assert outcomes(tracker) == [(0, "a", "A")]
    assert tracker.has_room


def test_an_invalid_item_fails_alone():
    tracker = tracker_with(["a", "wrong", "x" * 51, "b"])
    assert tracker.message(NOW) == (0, ["a", "b"])
    tracker.settle([(0, "A"), (1, "B")], NOW)
    assert [(n, type(what)) for n, _, what in outcomes(tracker)] == [
        (0, str), (1, errors.InvalidRequest), (2, errors.InvalidRequest), (3, str),
    ]  # fmt: skip


def test_a_rejected_item_is_sent_again_after_the_retry_delay():
    tracker = tracker_with("ab")
    tracker.message(NOW)
    tracker.settle([(0, errors.Overloaded("full", retry_after_s=3.0)), (1, "B")], NOW)
    assert tracker.message(NOW) is None
    assert tracker.wait_s(NOW + 1) == pytest.approx(2.0)
    assert tracker.message(NOW + 3) == (2, ["a"])
    tracker.settle([(2, "A")], NOW)
    assert [n for n, _, _ in outcomes(tracker)] == [0, 1]


def test_overload_halves_the_window_and_results_enlarge_it():
    tracker = tracker_with("abcdefgh", in_flight=8, most=1)
    for _ in range(8):
        tracker.message(NOW)
    refusal = errors.Overloaded("full")
    tracker.settle([(n, refusal) for n in range(8)], NOW)
    gone = [tracker.message(NOW + 10) for _ in range(8)]
    assert len([outcome for outcome in gone if outcome]) == 4
    tracker.settle([(number, "A") for number, _ in filter(None, gone)], NOW)
    assert len(list(filter(None, (tracker.message(NOW + 10) for _ in range(8))))) == 4


@pytest.mark.parametrize("retries", [True, False])
def test_rejections_become_outcomes_after_the_stall_timeout(retries):
    tracker, now = tracker_with("a", retries=retries), NOW
    while message := tracker.message(now):
        tracker.settle([(message[0], errors.Unavailable("loading"))], now)
        now += 1.0
    [(number, _, error)] = outcomes(tracker)
    assert (number, type(error)) == (0, errors.Unavailable)
    assert now - NOW == pytest.approx(STALL_TIMEOUT_S + 1 if retries else 1)


def test_items_without_a_result_are_sent_again_after_a_break():
    tracker = tracker_with("abcd", most=2)
    tracker.message(NOW)
    tracker.settle([(1, "B")], NOW)
    assert tracker.stream_broke(errors.Unavailable("gone"), NOW) == pytest.approx(0.1)
    assert tracker.stream_broke(errors.Unavailable("gone"), NOW) == pytest.approx(0.2)
    assert [tracker.message(NOW), tracker.message(NOW)] == [(0, ["a", "c"]), (2, ["d"])]
    tracker.settle([(0, "A"), (1, "C"), (2, "D")], NOW)
    assert [what for _, _, what in outcomes(tracker)] == ["A", "B", "C", "D"]


def test_some_errors_are_final():
    gone = errors.Unavailable("gone")
    assert make_tracker().stream_broke(errors.Unauthenticated("no token"), NOW) is None
    assert make_tracker(retries=False).stream_broke(gone, NOW) is None
    unreachable = make_tracker()
    assert [unreachable.stream_broke(gone, NOW) is None for _ in range(CONNECT_ATTEMPTS)] == [
        False,
        False,
        False,
        True,
    ]
    once = tracker_with("ab", most=1)
    once.message(NOW)
    once.settle([(0, "A")], NOW)
    assert max(once.stream_broke(gone, NOW) for _ in range(20)) == 2.0
    assert once.stream_broke(gone, NOW + STALL_TIMEOUT_S) is None


def test_the_stall_timeout_starts_anew_after_an_idle_time():
    tracker = tracker_with("a")
    tracker.message(NOW)
    tracker.settle([(0, "A")], NOW)
    later = NOW + 10 * STALL_TIMEOUT_S
    assert max(tracker.stream_broke(errors.Unavailable("gone"), later) for _ in range(2000)) == 2.0
    tracker.take("b")
    first, _ = tracker.message(later)
    tracker.settle([(first, errors.Overloaded("full"))], later)
    retried, _ = tracker.message(later + 1)
    tracker.settle([(retried, errors.Overloaded("full"))], later + STALL_TIMEOUT_S)
    assert [type(what) for _, _, what in outcomes(tracker)] == [str, errors.Overloaded]


def test_an_item_that_raises_in_prepare_is_not_waited_for():
    tracker = tracker_with("a")
    with pytest.raises(TypeError):
        tracker.take(5)
    tracker.ended = True
    tracker.message(NOW)
    tracker.settle([(0, "A")], NOW)
    assert tracker.finished


def test_a_result_for_an_unknown_number_is_a_server_failure():
    with pytest.raises(errors.ServerFailure, match="number 3"):
        tracker_with("a").settle([(3, "?")], NOW)


@given(
    texts=st.lists(st.sampled_from(["a", "bb", "C", "wrong"]), max_size=40),
    fates=st.lists(st.sampled_from(["answer", "refuse", "break", "fail"]), max_size=60),
    ordered=st.booleans(),
    in_flight=st.integers(1, 9),
)
def test_every_item_has_exactly_one_outcome(texts, fates, ordered, in_flight):
    tracker, rest, fates_ = make_tracker(ordered=ordered, in_flight=in_flight), iter(texts), iter(fates)
    now = NOW
    flying: list[Any] = []
    seen: list[Any] = []
    while not tracker.finished or flying:
        while tracker.has_room and not tracker.ended:
            given = next(rest, None)
            if given is None:
                tracker.ended = True
            else:
                tracker.take(given)
        now += 5.0
        while message := tracker.message(now):
            flying += range(message[0], message[0] + len(message[1]))
        fate = next(fates_, "answer")
        if fate == "break" and tracker.stream_broke(errors.Unavailable("gone"), now) is not None:
            flying = []
        elif flying:
            kinds = {"refuse": errors.Overloaded("full"), "fail": errors.ServerFailure("log id")}
            tracker.settle([(flying.pop(), kinds.get(fate, "answer"))], now)
        seen += [outcome.number for outcome in read(tracker)]
    assert Counter(seen) == Counter(range(len(texts)))
    assert not ordered or seen == sorted(seen)
