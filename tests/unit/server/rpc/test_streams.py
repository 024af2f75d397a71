"""Chunks that wait for one another are joined into one message."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lockstep_server.port import Chunk
from lockstep_server.rpc.streams import join

chunks_ = st.lists(
    st.lists(st.tuples(st.integers(0, 99), st.text("ab é", min_size=1, max_size=2)), min_size=1, max_size=5),
    min_size=1,
    max_size=6,
)


def chunk(tokens: list[tuple[int, str]], source: tuple[str, ...] = ()) -> Chunk:
    return Chunk(
        7,
        [token for token, _ in tokens],
        "".join(text for _, text in tokens),
        [-float(token) for token, _ in tokens],
        [np.full(3, token) for token, _ in tokens],
        tuple(text for _, text in tokens),
        source,
    )


def test_nothing_joins_to_nothing() -> None:
    assert join([]) is None


@given(chunks_)
def test_joined_chunks_say_what_one_chunk_of_all_would(parts: list[list[tuple[int, str]]]) -> None:
    source = ("the", "source")
    joined = join([chunk(part, source if i == 0 else ()) for i, part in enumerate(parts)])
    whole = chunk([token for part in parts for token in part], source)
    assert joined is not None
    assert joined._replace(attention=()) == whole._replace(attention=())
    np.testing.assert_array_equal(joined.attention, whole.attention)
