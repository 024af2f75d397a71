"""The account of a stream of many, as tables: what goes, what comes back, what goes again."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep_client import errors, protocol
from lockstep_client.ledger import FIRST_TRIES, PATIENCE_S, ItemTracker

NOW = 100.0


def prepare(given):
    if given == "wrong":
        raise errors.InvalidRequest("texts: wrong")
    return given, len(given)


def check(size):
    if size > 50:
        raise errors.InvalidRequest("too large")


def ledger(*, ordered=True, in_flight=4, most=3, retries=True):
    """Messages are (number of the first, texts); replies are lists of (number, answer)."""
    call = protocol.ManyCall(
        protocol.CLASSIFY_MANY,
        (),
        prepare=prepare,
        group=str.islower,
        write=lambda number, texts: (number, list(texts)),
        read=lambda reply: reply,
        most_in_message=most,
        in_flight=in_flight,
        ordered=ordered,
        timeout_s=1.0,
    )
    return ItemTracker(call, check, retries=retries)


def taken(texts, **how):
    account = ledger(**how)
    for text in texts:
        account.take(text)
    return account


def read(account):
    return list(iter(account.read, None))


def told(account):
    return [(one.number, one.given, one.error or one.answer) for one in read(account)]


def test_what_is_ready_shares_a_message_up_to_its_bounds():
    account = taken("abcdeFg", in_flight=9)
    messages = [account.message(NOW) for _ in range(5)]
    assert messages == [(0, ["a", "b", "c"]), (3, ["d", "e"]), (5, ["F"]), (6, ["g"]), None]


def test_outcomes_come_in_order_or_as_they_come():
    for ordered, first in ((True, []), (False, [(1, "b", "B")])):
        account = taken("ab", ordered=ordered)
        account.message(NOW)
        account.settle([(1, "B")], NOW)
        assert told(account) == first
        account.settle([(0, "A")], NOW)
        assert (0, "a", "A") in told(account)
        account.ended = True
        assert account.finished


def test_no_more_are_taken_than_may_be_in_flight_and_unread():
    account = taken("abcd")
    assert not account.has_room
    account.message(NOW)
    account.settle([(0, "A")], NOW)
    assert not account.has_room
    assert told(account) == [(0, "a", "A")]
    assert account.has_room


def test_what_cannot_be_sent_has_its_outcome_and_the_others_go():
    account = taken(["a", "wrong", "x" * 51, "b"])
    assert account.message(NOW) == (0, ["a", "b"])
    account.settle([(0, "A"), (1, "B")], NOW)
    assert [(n, type(what)) for n, _, what in told(account)] == [
        (0, str), (1, errors.InvalidRequest), (2, errors.InvalidRequest), (3, str),
    ]  # fmt: skip


def test_what_is_refused_goes_again_when_it_was_told_to():
    account = taken("ab")
    account.message(NOW)
    account.settle([(0, errors.Overloaded("full", retry_after_s=3.0)), (1, "B")], NOW)
    assert account.message(NOW) is None
    assert account.due_s(NOW + 1) == pytest.approx(2.0)
    assert account.message(NOW + 3) == (2, ["a"])
    account.settle([(2, "A")], NOW)
    assert [n for n, _, _ in told(account)] == [0, 1]


def test_overload_keeps_fewer_on_their_way_and_answers_more():
    account = taken("abcdefgh", in_flight=8, most=1)
    for _ in range(8):
        account.message(NOW)
    refusal = errors.Overloaded("full")
    account.settle([(n, refusal) for n in range(8)], NOW)
    gone = [account.message(NOW + 10) for _ in range(8)]
    assert len([one for one in gone if one]) == 4
    account.settle([(number, "A") for number, _ in filter(None, gone)], NOW)
    assert len(list(filter(None, (account.message(NOW + 10) for _ in range(8))))) == 4


@pytest.mark.parametrize("retries", [True, False])
def test_refusals_end_in_an_outcome_when_nothing_is_answered_any_more(retries):
    account, now = taken("a", retries=retries), NOW
    while message := account.message(now):
        account.settle([(message[0], errors.Unavailable("loading"))], now)
        now += 1.0
    [(number, _, error)] = told(account)
    assert (number, type(error)) == (0, errors.Unavailable)
    assert now - NOW == pytest.approx(PATIENCE_S + 1 if retries else 1)


def test_a_broken_stream_sends_again_what_had_no_answer():
    account = taken("abcd", most=2)
    account.message(NOW)
    account.settle([(1, "B")], NOW)
    assert account.lost(errors.Unavailable("gone"), NOW) == pytest.approx(0.1)
    assert account.lost(errors.Unavailable("gone"), NOW) == pytest.approx(0.2)
    assert [account.message(NOW), account.message(NOW)] == [(0, ["a", "c"]), (2, ["d"])]
    account.settle([(0, "A"), (1, "C"), (2, "D")], NOW)
    assert [what for _, _, what in told(account)] == ["A", "B", "C", "D"]


def test_some_ends_are_for_good():
    gone = errors.Unavailable("gone")
    assert ledger().lost(errors.Unauthenticated("no token"), NOW) is None
    assert ledger(retries=False).lost(gone, NOW) is None
    never = ledger()
    assert [never.lost(gone, NOW) is None for _ in range(FIRST_TRIES)] == [False, False, False, True]
    once = taken("ab", most=1)
    once.message(NOW)
    once.settle([(0, "A")], NOW)
    assert max(once.lost(gone, NOW) for _ in range(20)) == 2.0
    assert once.lost(gone, NOW + PATIENCE_S) is None


def test_a_stream_that_was_not_asked_for_long_is_as_patient_as_a_new_one():
    account = taken("a")
    account.message(NOW)
    account.settle([(0, "A")], NOW)
    later = NOW + 10 * PATIENCE_S
    assert max(account.lost(errors.Unavailable("gone"), later) for _ in range(2000)) == 2.0
    account.take("b")
    first, _ = account.message(later)
    account.settle([(first, errors.Overloaded("full"))], later)
    again, _ = account.message(later + 1)
    account.settle([(again, errors.Overloaded("full"))], later + PATIENCE_S)
    assert [type(what) for _, _, what in told(account)] == [str, errors.Overloaded]


def test_what_cannot_even_be_read_is_not_waited_for():
    account = taken("a")
    with pytest.raises(TypeError):
        account.take(5)
    account.ended = True
    account.message(NOW)
    account.settle([(0, "A")], NOW)
    assert account.finished


def test_an_answer_to_nothing_is_the_servers_failure():
    with pytest.raises(errors.ServerFailure, match="number 3"):
        taken("a").settle([(3, "?")], NOW)


@given(
    texts=st.lists(st.sampled_from(["a", "bb", "C", "wrong"]), max_size=40),
    fates=st.lists(st.sampled_from(["answer", "refuse", "break", "fail"]), max_size=60),
    ordered=st.booleans(),
    in_flight=st.integers(1, 9),
)
def test_everything_has_one_outcome_whatever_happens(texts, fates, ordered, in_flight):
    account, rest, fates_ = ledger(ordered=ordered, in_flight=in_flight), iter(texts), iter(fates)
    now, flying, seen = NOW, [], []
    while not account.finished or flying:
        while account.has_room and not account.ended:
            given = next(rest, None)
            if given is None:
                account.ended = True
            else:
                account.take(given)
        now += 5.0
        while message := account.message(now):
            flying += range(message[0], message[0] + len(message[1]))
        fate = next(fates_, "answer")
        if fate == "break" and account.lost(errors.Unavailable("gone"), now) is not None:
            flying = []
        elif flying:
            kinds = {"refuse": errors.Overloaded("full"), "fail": errors.ServerFailure("log id")}
            account.settle([(flying.pop(), kinds.get(fate, "answer"))], now)
        seen += [one.number for one in read(account)]
    assert Counter(seen) == Counter(range(len(texts)))
    assert not ordered or seen == sorted(seen)
