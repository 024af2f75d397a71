"""The pipelined calls against a real server: the same tests for both clients."""

from __future__ import annotations

import queue
import shutil
import socket
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from integration.harness import REPOSITORY, serve
from unit.client.awaited import Awaited

import lockstep_client as lc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from integration.harness import Served

MODEL, VECTORS = "sentiment-lstm", "sentiment-transformer"
TEXTS = [f"a film of {'very ' * (n % 11)}good number {n}" for n in range(500)]


@pytest.fixture(params=[lc.Client, Awaited], ids=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def client(shipped: Served, connect: Any) -> Iterator[Any]:
    with connect(shipped.address) as client:
        yield client


def test_pipelined_texts_are_classified_as_single_ones(client: Any) -> None:
    found = list(client.classify_many(MODEL, (text for text in TEXTS), top_k=1))
    assert [one.number for one in found] == list(range(500))
    assert [one.given for one in found] == TEXTS
    single = [client.classify(MODEL, text)[0].best for text in TEXTS[:20]]
    assert [one.answer.best.name for one in found[:20]] == [label.name for label in single]
    assert all(len(one.answer.labels) == 1 and one.answer.model == MODEL for one in found)


def test_unordered_outcomes_are_complete(client: Any) -> None:
    found = client.classify_many(MODEL, TEXTS, ordered=False, in_flight=64)
    assert sorted(one.number for one in found) == list(range(500))


def test_texts_and_ids_may_be_mixed_and_invalid_ones_fail_alone(client: Any) -> None:
    given = ["fine", [5, 6], " ", [10**9], "dull", 7, "\ud800"]
    found = list(client.classify_many(MODEL, given))
    assert [one.error is None for one in found] == [True, True, False, False, True, False, False]
    assert all(isinstance(one.error, lc.InvalidRequest | None) for one in found)
    fields = [one.error.violations[0].field for one in found if one.error]
    assert fields == ["texts", "ids", "texts", "texts"]
    with pytest.raises(lc.InvalidRequest, match=r"^texts: the text is empty"):
        _ = found[2].answer


def test_an_unknown_model_is_an_error_of_each_item(client: Any) -> None:
    found = list(client.classify_many("nobody", TEXTS[:3]))
    assert [type(one.error) for one in found] == [lc.ModelNotFound] * 3
    assert found[0].error.resource == "nobody"


def test_vectors_and_attention(client: Any) -> None:
    found = list(client.encode_many(VECTORS, TEXTS[:50], attention=True))
    [single] = client.encode(VECTORS, TEXTS[7])
    assert np.allclose(found[7].answer.vector, single.vector, atol=1e-4)
    assert len({one.answer.vector.shape for one in found}) == 1
    assert found[7].answer.attention.shape[-1] == len(found[7].answer.tokens)


def test_tensors_over_one_stream(client: Any) -> None:
    rows: list[Any] = [{"tokens": np.arange(1, 2 + n % 7)[None]} for n in range(200)]
    rows[3] = {"tokens": np.array([[1.5]])}
    rows[4] = {"nothing": np.array([[1]])}
    rows[5] = {"tokens": np.array([[1j]])}
    rows[6] = rows[6]["tokens"]
    found = list(client.infer_many(MODEL, rows, outputs=["logits"], in_flight=32))
    assert [n for n, one in enumerate(found) if one.error] == [3, 4, 5, 6]
    assert all(isinstance(found[n].error, lc.InvalidRequest) for n in (3, 4, 5, 6))
    single = client.infer(MODEL, rows[100], outputs=["logits"])["logits"]
    assert np.allclose(found[100].answer["logits"], single, atol=1e-4)


def test_the_source_is_read_lazily_and_answered_before_it_ends(shipped: Served) -> None:
    """With a Client the source may block: it is read on a separate thread."""
    texts: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    taken = []

    def given() -> Iterator[str]:
        while (text := texts.get()) is not None:
            taken.append(text)
            yield text

    texts.put("one")
    answered = []
    with lc.Client(shipped.address) as client:
        for one in client.classify_many(MODEL, given()):
            answered.append(one.given)
            assert taken == answered
            texts.put("another" if len(answered) < 5 else None)
    assert len(answered) == 5


def test_items_taken_but_unread_are_bounded(client: Any) -> None:
    taken = []

    def given() -> Iterator[str]:
        for text in TEXTS:
            taken.append(text)
            yield text

    for one in client.classify_many(MODEL, given(), in_flight=8):
        assert len(taken) <= one.number + 1 + 8 + 1  # read, in flight, and one waiting for room


def test_leaving_the_loop_cancels_waiting_items(shipped: Served, client: Any) -> None:
    endless = ("a film" for _ in iter(int, 1))
    for one in client.classify_many(MODEL, endless):
        if one.number == 20:
            break
    shipped.wait_idle()


def test_an_exception_of_the_source_is_raised_after_earlier_outcomes(client: Any) -> None:
    def given() -> Iterator[str]:
        yield from TEXTS[:5]
        raise OSError("the disk is gone")

    outcomes = iter(client.classify_many(MODEL, given()))
    assert [next(outcomes).number for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(OSError, match="the disk is gone"):
        next(outcomes)


def test_outcomes_are_read_once(client: Any) -> None:
    outcomes = client.classify_many(MODEL, TEXTS[:2])
    assert len(list(outcomes)) == 2
    with pytest.raises(lc.Cancelled, match="make a new call"):
        list(outcomes)
    left = client.classify_many(MODEL, TEXTS[:2])
    left.close()
    with pytest.raises(lc.Cancelled, match="make a new call"):
        list(left)


def test_an_empty_source_has_no_outcomes(client: Any) -> None:
    assert list(client.classify_many(MODEL, [])) == []


@pytest.mark.parametrize(
    "wrong", [{"in_flight": 0}, {"texts": "one text"}, {"texts": None}, {"texts": 5}, {"model": ""}]
)
def test_invalid_arguments_raise_at_once(client: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(lc.InvalidRequest, match=f"^{next(iter(wrong))}: "):
        client.classify_many(**{"model": MODEL, "texts": TEXTS, **wrong})


def test_a_single_mapping_of_tensors_is_rejected(client: Any) -> None:
    with pytest.raises(lc.InvalidRequest, match=r"^inputs: expected an iterable of inputs, got dict"):
        client.infer_many(MODEL, {"tokens": np.array([[1]])})


def test_a_deadline_applies_to_the_whole_call(client: Any) -> None:
    endless = ("a film" for _ in iter(int, 1))
    with pytest.raises(lc.DeadlineExceeded):
        sum(1 for _ in client.classify_many(MODEL, endless, timeout_s=0.3))


def test_items_rejected_for_overload_are_retried_until_answered(
    serving: Any, connect: Any, tmp_path: Path
) -> None:
    """100 items in flight are half a second of work for this model, and its queue limit is 20 ms."""
    shutil.copytree(REPOSITORY / VECTORS, tmp_path / VECTORS)
    manifest = tmp_path / VECTORS / "model.toml"
    manifest.write_text(manifest.read_text().replace("[batching]\n", "[batching]\nmax_queue_ms = 20\n"))
    served = serving(tmp_path)
    with connect(served.address) as client:
        found = list(client.classify_many(VECTORS, [text * 9 for text in TEXTS[:100]]))
        assert [one.error for one in found] == [None] * 100
    with connect(served.address, retries=0) as client:
        once = list(client.classify_many(VECTORS, [text * 9 for text in TEXTS[:100]]))
        assert {type(one.error) for one in once} <= {lc.Overloaded, type(None)}
        assert any(isinstance(one.error, lc.Overloaded) for one in once)


def test_a_restarted_server_answers_the_remaining_items(connect: Any) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    first = serve(REPOSITORY, only="sentiment-bow", port=port)
    first.__enter__()
    again: list[Any] = []

    def restart() -> None:
        first.__exit__(None, None, None)
        again.append(serve(REPOSITORY, only="sentiment-bow", port=port))
        again[0].__enter__()

    restarting = threading.Thread(target=restart)
    seen = []
    with connect(f"127.0.0.1:{port}") as client:
        for one in client.classify_many("sentiment-bow", TEXTS, in_flight=4):
            seen.append(one)
            if one.number == 10:
                restarting.start()
    restarting.join()
    again[0].__exit__(None, None, None)
    assert [one.given for one in seen] == TEXTS
    assert [one.error for one in seen] == [None] * 500


async def test_an_async_source_is_read_lazily(shipped: Served) -> None:
    async def given() -> AsyncIterator[str]:
        for text in TEXTS[:30]:
            yield text

    async with (
        lc.AsyncClient(shipped.address) as client,
        client.classify_many(MODEL, given(), in_flight=4) as outcomes,
    ):
        assert [one.number async for one in outcomes] == list(range(30))


def test_an_async_source_needs_an_async_client(shipped: Served) -> None:
    async def given() -> AsyncIterator[str]:
        yield "x"

    with lc.Client(shipped.address) as client, pytest.raises(lc.InvalidRequest, match="AsyncClient"):
        list(client.classify_many(MODEL, given()))


async def test_closing_the_client_cancels_outcomes(shipped: Served) -> None:
    client = lc.AsyncClient(shipped.address)
    outcomes = aiter(client.classify_many(MODEL, ("a film" for _ in iter(int, 1))))
    await anext(outcomes)
    await client.close()
    with pytest.raises(lc.Cancelled):
        [one async for one in outcomes]
    shipped.wait_idle()
