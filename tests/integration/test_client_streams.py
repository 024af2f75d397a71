"""Streams of both clients against a real server and the shipped models."""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from patience import wait_until

import lockstep_client as lc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from integration.harness import Served

WRITER, TRANSLATOR, TRANSFORMER = "shakespeare-char-lstm", "translate-en-fr", "sentiment-transformer"
STEPPERS = ("sentiment-rnn", "sentiment-gru", "sentiment-lstm")
SENTENCE = "a dull start , but then a wonderful and moving film"
SOURCE = "A man in a blue shirt is standing on a ladder ."


@pytest.fixture
def client(shipped: Served) -> Iterator[lc.Client]:
    with lc.Client(shipped.address) as client:
        yield client


def text(client: lc.Client, seed: int = 7, **more: Any) -> lc.Generation:
    options: dict[str, Any] = {"max_tokens": 60, "temperature": 0.8, **more}
    return client.generate(WRITER, "ROMEO:", seed=seed, **options).result()


# --- generate -----------------------------------------------------------------------------------------


def test_one_seed_gives_one_text(client: lc.Client) -> None:
    one, again, other = text(client), text(client), text(client, seed=8)
    assert one.text == again.text != other.text
    assert (one.reason, len(one.tokens), one.seed) == ("LENGTH", 60, 7)
    assert one.timings.steps >= 59
    assert one.timings.first_token_s > 0


def test_a_drawn_seed_reproduces_its_text(client: lc.Client) -> None:
    drawn = client.generate(WRITER, "ROMEO:", max_tokens=40).result()
    again = client.generate(WRITER, "ROMEO:", max_tokens=40, seed=drawn.seed).result()
    assert again.text == drawn.text


async def test_one_seed_gives_one_text_when_batched(shipped: Served, client: lc.Client) -> None:
    unbatched = text(client)
    async with lc.AsyncClient(shipped.address) as many:
        streams = [
            many.generate(WRITER, "ROMEO:", seed=7 + n, max_tokens=60, temperature=0.8) for n in range(16)
        ]
        made = await asyncio.gather(*(stream.result() for stream in streams))
    assert made[0].text == unbatched.text
    assert len({one.text for one in made}) == 16


def test_parts_join_to_the_text(client: lc.Client) -> None:
    stream = client.generate(WRITER, "ROMEO:", seed=7, max_tokens=60, log_probabilities=True)
    parts = list(stream)
    whole = stream.result()
    assert "".join(part.text for part in parts) == whole.text
    assert [part.reason for part in parts if part.reason] == [parts[-1].reason] == ["LENGTH"]
    assert len(whole.log_probabilities) == len(whole.tokens)
    assert all(value <= 0 for value in whole.log_probabilities)


def test_a_text_ends_before_its_stop_string(client: lc.Client) -> None:
    whole = text(client, max_tokens=200).text
    word = whole.split()[2]
    stopped = text(client, max_tokens=200, stop=word)
    assert stopped.reason == "STOP"
    assert stopped.text == whole[: whole.index(word)]


def test_an_empty_prompt_starts_with_the_models_start_token(client: lc.Client) -> None:
    assert client.generate(WRITER, seed=1, max_tokens=10).result().reason == "LENGTH"


def test_leaving_a_stream_frees_its_slot(shipped: Served, client: lc.Client) -> None:
    for part in client.generate(WRITER, "ROMEO:", max_tokens=4000):
        assert part.text
        break
    wait_until(lambda: len(shipped.app.requests) == 0, "the stream has left the server")
    shipped.wait_idle()


async def test_cancelling_a_reader_frees_its_slot(shipped: Served) -> None:
    async with lc.AsyncClient(shipped.address) as client:
        stream = client.generate(WRITER, "ROMEO:", max_tokens=4000)
        reading = asyncio.create_task(stream.result())
        await asyncio.to_thread(wait_until, lambda: len(shipped.app.requests) == 1, "the stream is under way")
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    shipped.wait_idle()


def test_a_deadline_ends_generation(client: lc.Client) -> None:
    with pytest.raises(lc.DeadlineExceeded):
        client.generate(WRITER, "ROMEO:", max_tokens=65_536, timeout_s=0.2).result()


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 2.0}, "top_p"),
        ({"stop": [""]}, "stop"),
        ({"ids": [10_000]}, "ids"),
    ],
)
def test_an_invalid_argument_names_its_field(client: lc.Client, wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(lc.InvalidRequest) as caught:
        client.generate(WRITER, **wrong).result()
    assert any(field in violation.field for violation in caught.value.violations)


@pytest.mark.parametrize("model", ["sentiment-lstm", TRANSLATOR])
def test_only_a_language_model_continues_a_text(client: lc.Client, model: str) -> None:
    with pytest.raises(lc.InvalidRequest, match=model):
        client.generate(model, "x").result()


# --- translate ----------------------------------------------------------------------------------------


def test_a_translation_has_attention(client: lc.Client) -> None:
    stream = client.translate(TRANSLATOR, SOURCE, attention=True)
    parts = list(stream)
    whole = stream.result()
    assert "homme" in whole.text
    assert whole.reason == "END"
    assert "".join(part.text for part in parts) == whole.text
    assert whole.attention is not None
    assert whole.attention.shape == (len(whole.pieces), len(whole.source_tokens))
    assert len(whole.pieces) == len(whole.tokens)
    assert whole.attention.sum(axis=1) == pytest.approx(np.ones(len(whole.pieces)), abs=1e-3)


def test_attention_does_not_change_the_translation(client: lc.Client) -> None:
    plain = client.translate(TRANSLATOR, SOURCE, beams=1).result()
    assert plain.attention is None
    assert plain.text == client.translate(TRANSLATOR, SOURCE, attention=True).result().text


def test_the_shipped_translator_has_beams_unless_a_request_wants_the_first_token_early(
    client: lc.Client,
) -> None:
    searched = list(client.translate(TRANSLATOR, SOURCE))
    assert len(searched) == 1
    assert len(searched[0].alternatives) == 4
    assert searched[0].text == client.translate(TRANSLATOR, SOURCE, beams=4).result().text
    greedy = client.translate(TRANSLATOR, SOURCE, beams=1).result()
    assert not greedy.alternatives


def test_a_source_that_is_too_long_is_rejected(client: lc.Client) -> None:
    with pytest.raises(lc.InvalidRequest, match="256"):
        client.translate(TRANSLATOR, "word " * 400).result()


# --- follow -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", STEPPERS)
def test_the_last_step_equals_the_whole_text(client: lc.Client, model: str) -> None:
    predictions = client.follow(model, SENTENCE).result()
    (whole,) = client.classify(model, SENTENCE)
    assert [one.position for one in predictions] == list(range(1, whole.length + 1))
    assert [one.element for one in predictions] == SENTENCE.split()
    assert {one.computed_elements for one in predictions} == {1}
    assert predictions[-1].best.index == whole.best.index
    assert predictions[-1].best.score == pytest.approx(whole.best.score, rel=1e-3, abs=1e-4)


def test_a_transformer_re_encodes_every_prefix(client: lc.Client) -> None:
    predictions = client.follow(TRANSFORMER, SENTENCE).result()
    assert [one.computed_elements for one in predictions] == list(range(1, len(predictions) + 1))
    (whole,) = client.classify(TRANSFORMER, SENTENCE)
    assert predictions[-1].best.score == pytest.approx(whole.best.score, rel=1e-3, abs=1e-4)


def test_pieces_make_the_same_sequence_however_they_are_cut(client: lc.Client) -> None:
    whole = client.follow("sentiment-lstm", SENTENCE).result()
    ids = [one.id for one in whole]
    cuts: tuple[list[Any], ...] = (
        list(SENTENCE),
        [word + " " for word in SENTENCE.split()],
        [ids[:3], ids[3:]],
        ["a dull start", lc.FLUSH, " , but then a ", ids[7:]],
    )
    for pieces in cuts:
        again = client.follow("sentiment-lstm", pieces).result()
        assert [(one.id, one.best) for one in again] == [(one.id, one.best) for one in whole]


def test_a_prediction_arrives_before_the_next_word_is_sent(client: lc.Client) -> None:
    words: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    rest = iter([*(f"{word} " for word in SENTENCE.split()), None])
    words.put(next(rest))
    received = []
    for prediction in client.follow("sentiment-gru", iter(words.get, None)):
        received.append(prediction.element)
        words.put(next(rest))
    assert received == SENTENCE.split()


def test_concurrent_sequences_are_independent(client: lc.Client) -> None:
    separate = [one.best.score for one in client.follow("sentiment-lstm", SENTENCE)]
    both: list[list[float]] = [[], []]

    def follow(into: list[float], sentence: str) -> None:
        into.extend(one.best.score for one in client.follow("sentiment-lstm", sentence))

    others = " ".join(reversed(SENTENCE.split()))
    threads = [
        threading.Thread(target=follow, args=pair) for pair in zip(both, (SENTENCE, others), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert both[0] == pytest.approx(separate, abs=1e-4)
    assert both[1] != pytest.approx(separate, abs=1e-2)


def test_a_language_model_predicts_its_next_tokens(client: lc.Client) -> None:
    predictions = client.follow(WRITER, "to be", top_k=3).result()
    assert [one.element for one in predictions] == list("to be")
    assert all(len(one.labels) == 3 for one in predictions)


def test_leaving_a_follow_frees_its_resources(shipped: Served, client: lc.Client) -> None:
    words: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    words.put("a dull ")
    for prediction in client.follow("sentiment-rnn", iter(words.get, None)):
        if prediction.position == 2:
            break
    words.put(None)
    shipped.wait_idle()


@pytest.mark.parametrize(("model", "error"), [(TRANSLATOR, lc.InvalidRequest), ("nobody", lc.ModelNotFound)])
def test_a_model_that_cannot_be_followed_is_an_error(
    client: lc.Client, model: str, error: type[lc.LockstepError]
) -> None:
    with pytest.raises(error, match=model):
        client.follow(model, "x").result()


# --- steps of the tensor API --------------------------------------------------------------------------


def test_a_sequence_of_tensors_equals_a_follow(client: lc.Client) -> None:
    followed = client.follow("sentiment-lstm", SENTENCE).result()
    (token,) = client.metadata("sentiment-lstm.step").inputs
    last = len(followed) - 1
    for at, one in enumerate(followed):
        value = np.full([abs(size) for size in token.shape], one.id, np.int64)
        answer = client.infer(
            "sentiment-lstm.step",
            {token.name: value},
            sequence_id="a sequence",
            sequence_start=at == 0,
            sequence_end=at == last,
        )
        sign = 1 if one.best.name == "positive" else -1
        assert sign * answer["logits"].item() == pytest.approx(abs(one.best.score), rel=1e-3, abs=1e-4)


def test_a_step_without_a_start_is_an_error(client: lc.Client) -> None:
    (token,) = client.metadata("sentiment-lstm.step").inputs
    value = np.full([abs(size) for size in token.shape], 5, np.int64)
    with pytest.raises(lc.SequenceLost, match="sequence"):
        client.infer("sentiment-lstm.step", {token.name: value}, sequence_id=99)


def test_statistics_count_requests(client: lc.Client) -> None:
    (before,) = client.model_statistics("sentiment-gru")
    client.classify("sentiment-gru", [SENTENCE, "dull"])
    (after,) = client.model_statistics("sentiment-gru")
    assert after.success.count > before.success.count
    assert after.rows - before.rows == 2
    assert after.last_inference_s >= before.last_inference_s


def test_model_control_is_denied_by_default(client: lc.Client) -> None:
    for call in (client.load_model, client.unload_model):
        with pytest.raises(lc.Denied, match="model-control"):
            call("sentiment-bow")


def test_results_have_the_model_and_version(client: lc.Client) -> None:
    written = text(client)
    translated = client.translate(TRANSLATOR, SOURCE).result()
    predicted = client.follow("sentiment-lstm", SENTENCE).result()
    answered_by = [(one.model, one.version) for one in (written, translated, predicted[0])]
    assert answered_by == [(WRITER, "1"), (TRANSLATOR, "1"), ("sentiment-lstm", "1")]
    parts = list(client.generate(WRITER, "x", max_tokens=20, seed=1, version="1"))
    assert {part.version for part in parts[:-1]} <= {""}
    assert parts[-1].version == "1"


def test_different_streams_share_one_client(client: lc.Client) -> None:
    streams = (
        client.generate(WRITER, "ROMEO:", seed=7, max_tokens=50),
        client.translate(TRANSLATOR, SOURCE),
        client.follow("sentiment-lstm", SENTENCE),
    )
    seen = [0, 0, 0]
    for parts in itertools.zip_longest(*streams):
        for kind, part in enumerate(parts):
            seen[kind] += part is not None
    assert all(seen)
