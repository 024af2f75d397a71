"""Streams of both clients against the fake server: results, cancellation and errors."""

from __future__ import annotations

import asyncio
import gc
import math
import queue
import threading
from typing import Any

import grpc
import numpy as np
import pytest
from patience import PATIENCE_S
from unit.client.fake_streams import GENERATED

import lockstep_client as lc
from lockstep_proto.v1 import sequences_pb2 as pb

TIMINGS = lc.Timings(0.25, 0.5, 4, 2.5, prefill_s=0.125, first_token_s=0.375)


@pytest.fixture
def stuck(server):
    """Streams stall after their first message."""
    held = threading.Event()
    server.streams.generated[1:] = [held]
    yield held
    held.set()


# --- results -----------------------------------------------------------------------------------------


def test_generate_yields_parts_and_joins_them(client):
    stream = client.generate("sentiment", "ROMEO:")
    parts = list(stream)
    assert [(p.tokens, p.text, p.reason) for p in parts] == [
        ((4, 5), "ab", ""),
        ((6,), "\nc", ""),
        ((7,), "d", "LENGTH"),
    ]
    assert [(p.timings, p.seed) for p in parts] == [(None, None), (None, None), (TIMINGS, 11)]
    assert stream.result() == lc.Generation(
        "ab\ncd", (4, 5, 6, 7), (-0.5, -0.25, -1.0, -2.0), "LENGTH", TIMINGS, 11, notice="unbatched"
    )


def test_generate_sends_its_arguments(server, client):
    client.generate(
        "other", "ROMEO:", max_tokens=0, temperature=0.0, top_k=5, top_p=0.5, seed=0, stop="x",
        log_probabilities=True, version="2", priority=3,
    ).result()  # fmt: skip
    client.generate("other", ids=np.array([1, 2]), stop=["a", "b"]).result()
    client.generate("other").result()
    one, two, three = server.requests
    expected = pb.GenerateRequest(
        model="other", version="2", text="ROMEO:", max_tokens=0, temperature=0, top_k=5, top_p=0.5, seed=0,
        stop=["x"], log_probabilities=True, priority=3,
    )  # fmt: skip
    assert one == expected
    assert two == pb.GenerateRequest(model="other", ids=pb.Ids(ids=[1, 2]), stop=["a", "b"])
    assert three == pb.GenerateRequest(model="other", text="")


DECODING: Any = {
    "repetition_penalty": 1.5, "presence_penalty": 0.5, "no_repeat": 3, "min_tokens": 2,
    "logit_bias": {7: -1.0}, "forbidden": [8], "beams": 4, "length_penalty": 2.0, "early_stopping": True,
}  # fmt: skip


def test_options_of_decoding_are_sent_as_they_are(server, client):
    client.generate("other", "x", top_log_probabilities=3, **DECODING).result()
    client.translate("other", "x", **DECODING).result()
    generated, translated = server.requests
    assert generated.decoding == translated.decoding == pb.Decoding(**DECODING)
    assert generated.top_log_probabilities == 3


def test_samples_arrive_mixed_and_are_joined_apart(server, client):
    ends: Any = {"reason": pb.STOP_REASON_LENGTH, "seed": 3}
    server.streams.generated = [
        pb.GenerateReply(tokens=[4], text="a", sample=1),
        pb.GenerateReply(tokens=[5], text="b"),
        pb.GenerateReply(tokens=[6], text="c", sample=1, **ends),
        pb.GenerateReply(tokens=[7], text="d", **ends),
    ]
    whole = client.generate("other", "x", samples=2).result()
    assert server.requests[0].samples == 2
    assert (whole.text, [one.text for one in whole.samples]) == ("bd", ["bd", "ac"])


def test_options_of_decoding_are_checked(client):
    with pytest.raises(TypeError, match=r"'beam'.*beams"):
        client.generate("other", "x", beam=3)
    with pytest.raises(lc.InvalidRequest, match="beams"):
        client.generate("other", "x", beams=-1)
    with pytest.raises(lc.InvalidRequest, match="decoding"):
        client.generate("other", "x", forbidden=["no id"])


def test_alternatives_and_top_tokens_are_in_the_result(server, client):
    server.streams.generated = [
        pb.GenerateReply(
            tokens=[4], text="a", reason=pb.STOP_REASON_END,
            top=[pb.TopTokens(ids=[4, 5], log_probabilities=[-0.5, -1], texts=["a", "b"])],
            alternatives=[pb.Alternative(tokens=[4], text="a", score=-0.5, reason=pb.STOP_REASON_END)],
        )
    ]  # fmt: skip
    whole = client.generate("other", "x").result()
    assert whole.alternatives == (lc.Alternative("a", (4,), -0.5, "END"),)
    assert whole.top == (lc.TopTokens((4, 5), (-0.5, -1.0), ("a", "b")),)


def test_translate_joins_text_and_attention(server, client):
    whole = client.translate("sentiment", "a man", attention=True).result()
    assert (whole.text, whole.tokens, whole.reason) == ("un homme", (8, 9, 3), "END")
    assert (whole.source_tokens, whole.pieces) == (("a", "man"), ("un", "homme", "</s>"))
    assert whole.attention.tolist() == [[0.75, 0.25], [0.25, 0.75], [0.5, 0.5]]
    assert whole.timings == TIMINGS
    assert server.requests[0] == pb.TranslateRequest(model="sentiment", text="a man", attention=True)


def test_a_translation_without_attention_has_none(server, client):
    server.streams.translated = [pb.TranslateReply(text="un", tokens=[8], reason=pb.STOP_REASON_END)]
    whole = client.translate("sentiment", ids=[1, 2], max_tokens=4).result()
    assert (whole.text, whole.attention, whole.source_tokens) == ("un", None, ())
    assert server.requests[0] == pb.TranslateRequest(model="sentiment", ids=pb.Ids(ids=[1, 2]), max_tokens=4)


def test_follow_predicts_after_each_element(server, client):
    predictions = client.follow("sentiment", "a fine  film", top_k=2, version="1").result()
    assert [(p.position, p.element, p.id) for p in predictions] == [
        (1, "a", 11),
        (2, "fine", 12),
        (3, "film", 13),
    ]
    first = predictions[0]
    assert (first.best.name, first.best.probability, first.computed_elements) == ("positive", 0.75, 1)
    assert first.timings == lc.Timings(0.0, 0.001, 1, 1.0)
    assert server.requests == [pb.FollowStart(model="sentiment", version="1", top_k=2)]


def test_follow_accepts_texts_ids_and_flushes(server, client):
    pieces = ["un", "real ", np.array([7, 8]), "half", lc.FLUSH, "way"]
    assert [p.element for p in client.follow("sentiment", pieces)] == ["unreal", "#7", "#8", "half", "way"]
    assert [m.WhichOneof("message") for m in server.streams.received] == [
        "text", "text", "ids", "text", "flush", "text"
    ]  # fmt: skip


def test_follow_predicts_while_pieces_still_arrive(server):
    words: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    words.put("a ")
    with lc.Client(server.address) as client, client.follow("sentiment", iter(words.get, None)) as stream:
        seen = []
        for prediction in stream:
            seen.append(prediction.element)
            words.put("fine " if len(seen) == 1 else None)
    assert seen == ["a", "fine"]


async def test_async_follow_predicts_while_pieces_still_arrive(server):
    words: asyncio.Queue[str | None] = asyncio.Queue()

    async def pieces():
        while word := await words.get():
            yield word

    await words.put("a ")
    seen = []
    async with lc.AsyncClient(server.address) as client:
        async for prediction in client.follow("sentiment", pieces()):
            seen.append(prediction.element)
            await words.put("fine " if len(seen) == 1 else None)
    assert seen == ["a", "fine"]


def test_no_piece_is_no_prediction(client):
    assert client.follow("sentiment", []).result() == []


# --- cancellation -------------------------------------------------------------------------------------


def test_a_break_cancels_on_the_server(server, client, stuck):
    stream = client.generate("sentiment", "x")
    for part in stream:
        assert part.text == "ab"
        break
    assert server.streams.left.wait(PATIENCE_S)
    with pytest.raises(lc.Cancelled, match="closed before its end"):
        stream.result()


def test_an_exception_in_the_loop_cancels_on_the_server(server, client, stuck):
    stream = client.generate("sentiment", "x")
    with pytest.raises(ZeroDivisionError):
        [1 / 0 for _ in stream]
    assert server.streams.left.wait(PATIENCE_S)


def test_the_end_of_a_with_cancels_on_the_server(server, client, stuck):
    with client.generate("sentiment", "x"):
        assert server.request_received.wait(PATIENCE_S)
    assert server.streams.left.wait(PATIENCE_S)


def test_close_cancels_on_the_server(server, client, stuck):
    stream = client.generate("sentiment", "x")
    assert server.request_received.wait(PATIENCE_S)
    stream.close()
    assert server.streams.left.wait(PATIENCE_S)
    with pytest.raises(lc.Cancelled):
        list(stream)


def test_dropping_the_stream_cancels_on_the_server(server, connect, stuck):
    with connect(server.address) as client:
        for parts in (iter(client.generate("sentiment", "x")),):
            next(parts)
        del parts
        gc.collect()
        assert server.streams.left.wait(PATIENCE_S)


def test_dropping_the_stream_cancels_while_it_waits_for_pieces(server):
    words: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    with lc.Client(server.address) as client:
        stream = client.follow("sentiment", iter(words.get, None))
        assert server.request_received.wait(PATIENCE_S)
        del stream
        assert server.streams.left.wait(PATIENCE_S)
        words.put(None)


def test_a_stream_read_to_its_end_is_not_cancelled(server, client):
    with client.generate("sentiment", "x") as stream:
        assert stream.result() == stream.result()
    assert server.streams.ended.wait(PATIENCE_S)
    assert not server.streams.left.is_set()


def test_close_from_another_thread_ends_the_reader(server, stuck):
    with lc.Client(server.address) as client, client.generate("sentiment", "x") as stream:
        parts = iter(stream)
        next(parts)
        threading.Timer(0.05, stream.close).start()
        with pytest.raises(lc.Cancelled, match="closed before"):
            next(parts)


async def test_close_from_another_task_ends_the_reader(server, stuck):
    async with lc.AsyncClient(server.address) as client, client.generate("sentiment", "x") as stream:
        reading = asyncio.create_task(stream.result())
        await asyncio.to_thread(server.request_received.wait, PATIENCE_S)
        await stream.close()
        with pytest.raises(lc.Cancelled, match="closed before"):
            await reading


@pytest.mark.parametrize("held", [True, False], ids=["held", "not held"])
async def test_an_async_break_cancels_on_the_server(server, stuck, held):
    async with lc.AsyncClient(server.address) as client:
        stream = client.generate("sentiment", "x") if held else None
        async for part in stream or client.generate("sentiment", "x"):
            assert part.text == "ab"
            break
        assert await asyncio.to_thread(server.streams.left.wait, PATIENCE_S)


async def test_an_exception_in_an_async_loop_cancels_on_the_server(server, stuck):
    async with lc.AsyncClient(server.address) as client:
        with pytest.raises(ZeroDivisionError):
            [1 / 0 async for _ in client.generate("sentiment", "x")]
        assert await asyncio.to_thread(server.streams.left.wait, PATIENCE_S)


async def test_cancelling_the_reader_cancels_on_the_server(server, stuck):
    async with lc.AsyncClient(server.address) as client:
        reading = asyncio.create_task(client.generate("sentiment", "x").result())
        assert await asyncio.to_thread(server.request_received.wait, PATIENCE_S)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert await asyncio.to_thread(server.streams.left.wait, PATIENCE_S)


def test_closing_the_client_ends_its_streams(server, stuck):
    client = lc.Client(server.address)
    parts = iter(client.generate("sentiment", "x"))
    next(parts)
    client.close()
    with pytest.raises(lc.Cancelled):
        next(parts)
    with pytest.raises(lc.Cancelled, match="closed"):
        client.generate("sentiment", "x")


# --- errors -------------------------------------------------------------------------------------------


def test_an_error_is_raised_after_the_parts_before_it(server, client, failure):
    server.streams.generated[1:] = [failure(grpc.StatusCode.FAILED_PRECONDITION, "evicted")]
    stream = client.generate("sentiment", "x")
    seen: list[str] = []
    with pytest.raises(lc.SequenceLost, match="evicted"):
        seen.extend(part.text for part in stream)
    assert seen == ["ab"]
    with pytest.raises(lc.SequenceLost):
        stream.result()


def test_a_stream_is_retried_before_its_first_message(server, client, failure):
    server.failures += [failure(grpc.StatusCode.UNAVAILABLE, "loading")] * 2
    assert client.generate("sentiment", "x").result().text == "ab\ncd"
    assert len(server.requests) == 3


def test_a_stream_is_not_retried_after_its_first_message(server, client, failure):
    server.streams.generated[1:] = [failure(grpc.StatusCode.UNAVAILABLE, "draining")]
    with pytest.raises(lc.Unavailable, match="draining"):
        client.generate("sentiment", "x").result()
    assert len(server.requests) == 1


def test_a_follow_is_not_retried_after_its_first_message(server, client, failure):
    server.streams.followed = [pb.FollowReply(), failure(grpc.StatusCode.UNAVAILABLE, "draining")]
    with pytest.raises(lc.Unavailable, match="draining"):
        client.follow("sentiment", "x y").result()
    assert len(server.requests) == 1


async def test_a_client_that_is_still_writing_gets_the_status_of_the_server(server, failure):
    server.streams.followed = [pb.FollowReply(), failure(grpc.StatusCode.FAILED_PRECONDITION, "evicted")]
    async with lc.AsyncClient(server.address) as client:
        for _ in range(5):
            stream = client.follow("sentiment", ["word " * 400] * 200)
            with pytest.raises(lc.SequenceLost, match="evicted"):
                await stream.result()


def test_a_deadline_ends_a_stream_and_names_it(server, client, stuck):
    with pytest.raises(lc.DeadlineExceeded, match=r"no end of the stream from .* within 0\.2 s"):
        client.generate("sentiment", "x", timeout_s=0.2).result()


def test_the_default_deadline_applies_to_streams(server, connect, stuck):
    with connect(server.address, timeout_s=0.2) as client, pytest.raises(lc.DeadlineExceeded):
        client.generate("sentiment", "x").result()


def test_an_infinite_timeout_sets_no_deadline(server, connect):
    with connect(server.address, timeout_s=0.001) as client:
        assert client.generate("sentiment", "x", timeout_s=math.inf).result().seed == 11


def test_an_unknown_model_is_named(client):
    with pytest.raises(lc.ModelNotFound) as caught:
        client.translate("nothing", "a").result()
    assert caught.value.resource == "nothing"


def test_an_exception_of_the_pieces_is_raised_to_the_reader(client):
    def pieces():
        yield "a "
        raise LookupError("no more words")

    stream = client.follow("sentiment", pieces())
    with pytest.raises(LookupError, match="no more words"):
        stream.result()
    with pytest.raises(LookupError):
        stream.result()


@pytest.mark.parametrize("piece", [3, "\ud800", [2**70], ["a"]])
def test_an_invalid_piece_is_raised_to_the_reader(client, piece):
    with pytest.raises(lc.InvalidRequest, match="pieces"):
        client.follow("sentiment", ["a ", piece]).result()


def test_a_blocking_client_rejects_async_pieces(server):
    async def pieces():
        yield "a"

    with lc.Client(server.address) as client, pytest.raises(lc.InvalidRequest, match="AsyncClient"):
        client.follow("sentiment", pieces()).result()


def test_a_stream_without_a_last_part_is_a_server_failure(server, client):
    server.streams.generated = list(GENERATED[:1])
    with pytest.raises(lc.ServerFailure, match="without a reason"):
        client.generate("sentiment", "x").result()
    server.streams.translated = []
    with pytest.raises(lc.ServerFailure, match="without a reason"):
        client.translate("sentiment", "x").result()


def test_ragged_attention_is_a_server_failure(server, client):
    rows = [pb.AttentionRow(weights=[1]), pb.AttentionRow(weights=[0.5, 0.5])]
    server.streams.translated = [pb.TranslateReply(attention=rows, reason=pb.STOP_REASON_END)]
    with pytest.raises(lc.ServerFailure, match="unequal"):
        client.translate("sentiment", "x", attention=True).result()


def test_an_unknown_stop_reason_still_ends_the_stream(server, client):
    server.streams.generated = [pb.GenerateReply(reason=9)]  # type: ignore[arg-type]
    assert client.generate("sentiment", "x").result().reason == "UNKNOWN"


@pytest.mark.parametrize(
    ("verb", "arguments", "field"),
    [
        ("generate", {"prompt": "a", "ids": [1]}, "prompt"),
        ("generate", {"prompt": 3}, "prompt"),
        ("generate", {"ids": ["a"]}, "ids"),
        ("generate", {"max_tokens": -1}, "max_tokens"),
        ("generate", {"max_tokens": 1 << 32}, "max_tokens"),
        ("generate", {"seed": -1}, "seed"),
        ("generate", {"seed": 1 << 64}, "seed"),
        ("generate", {"top_k": -1}, "top_k"),
        ("generate", {"stop": ["a", 3]}, "stop"),
        ("translate", {}, "text"),
        ("translate", {"text": "a", "ids": [1]}, "text"),
        ("follow", {"pieces": "a", "top_k": -1}, "top_k"),
    ],
)
def test_an_invalid_argument_names_its_field_and_is_not_sent(server, client, verb, arguments, field):
    with pytest.raises(lc.InvalidRequest, match=f"^{field}: "):
        getattr(client, verb)("sentiment", **arguments)
    assert server.requests == []


def test_a_piece_above_the_message_limit_is_an_error(server, connect):
    with connect(server.address, max_message_bytes=100) as client:
        with pytest.raises(lc.InvalidRequest, match="above the limit"):
            client.follow("sentiment", ["a" * 200]).result()
        with pytest.raises(lc.InvalidRequest, match="above the limit"):
            client.generate("sentiment", "a" * 200)
