"""When streams join and how much they write, and errors in words."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lockstep_client import errors
from lockstep_ui import problems
from lockstep_ui.lanes import LanesRequest, joins_after, lengths

REQUESTS = st.builds(
    LanesRequest,
    model=st.just("m"),
    streams=st.integers(1, 64),
    max_tokens=st.integers(4, 1000),
    seed=st.integers(0, 99),
)


@given(REQUESTS)
def test_the_first_stream_writes_longest_and_all_others_join_before_it_ends(wanted: LanesRequest) -> None:
    tokens, joins = lengths(wanted), joins_after(wanted)
    assert len(tokens) == len(joins) == wanted.streams
    assert tokens[0] == max(tokens) == wanted.max_tokens
    assert min(tokens) >= 1
    assert joins == sorted(joins)
    assert joins[0] == 0
    assert joins[-1] < wanted.max_tokens


def test_each_error_says_what_to_do() -> None:
    for kind in errors.LockstepError.__subclasses__():
        found = problems.of_error(kind("something is wrong"), "box:1")
        assert found.message.endswith(".")
        assert found.advice.endswith(".")
        assert 400 <= found.status < 600


def test_a_server_that_is_down_is_named() -> None:
    found = problems.of_error(errors.Unreachable("no server at box:1: connection refused"), "box:1")
    assert (found.status, found.message) == (502, "No server answers at box:1.")
    assert "make serve" in found.advice


def test_fields_of_the_rpc_are_not_shown_and_waiting_has_a_time() -> None:
    violation = errors.Violation("texts[0]", "the text is empty; send at least one word")
    empty = errors.InvalidRequest(
        "texts[0]: the text is empty; send at least one word", violations=(violation,)
    )
    assert problems.of_error(empty, "").message == "The text is empty; send at least one word."
    assert "in 3 s" in problems.of_error(errors.Overloaded("full", retry_after_s=2.2), "").advice
