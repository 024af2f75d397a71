"""Parsing of `traceparent`, as the W3C Trace Context recommendation defines it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep_server.frontend import tracing

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    "header",
    [f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-03", f"cc-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-01-more"],
)
def test_a_sampled_traceparent_gives_its_trace_id(header: str) -> None:
    assert tracing.sampled_trace_id(header) == TRACE


@pytest.mark.parametrize(
    "header",
    [
        "",
        f"00-{TRACE}-{SPAN}-00",  # not sampled
        f"00-{TRACE}-{SPAN}-02",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",  # version 00 has four fields
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f" 00-{TRACE}-{SPAN}-01",
    ],
)
def test_unsampled_and_malformed_headers_give_no_trace_id(header: str) -> None:
    assert tracing.sampled_trace_id(header) == ""


@given(st.text())
def test_no_header_value_raises(header: str) -> None:
    assert len(tracing.sampled_trace_id(header)) in (0, 32)


def test_a_trace_begins_if_the_metadata_has_a_traceparent() -> None:
    others = [("user-agent", "x"), ("some-bin", b"\xff")]
    assert tracing.begin("/a/B", others) is None
    trace = tracing.begin("/a/B", [*others, ("traceparent", f"00-{TRACE}-{SPAN}-01")])
    assert trace is not None
    assert trace.id == TRACE
