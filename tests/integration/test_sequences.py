"""Classify and Encode with the shipped models."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from integration.harness import Served, refused
from patience import PATIENCE_S

from lockstep_client import Client
from lockstep_proto.v1 import sequences_pb2 as pb

TEXTS = ("a lovely , moving film .", "dull", "it is too long and too loud , and i left before the end .")
MODELS = ("sentiment-bow", "sentiment-lstm", "sentiment-bilstm", "sentiment-transformer")


def classify(server: Served, model: str, **more: Any) -> pb.ClassifyReply:
    return server.sequences.Classify(pb.ClassifyRequest(model=model, **more), timeout=PATIENCE_S)


@pytest.mark.parametrize("model", MODELS)
def test_probabilities_add_up_and_the_most_probable_comes_first(shipped: Served, model: str) -> None:
    reply = classify(shipped, model, texts=TEXTS)
    assert (reply.model, reply.version, len(reply.results)) == (model, "1", 3)
    for result in reply.results:
        probabilities = [label.probability for label in result.labels]
        assert {(label.name, label.index) for label in result.labels} == {("negative", 0), ("positive", 1)}
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert probabilities == sorted(probabilities, reverse=True)


@pytest.mark.parametrize("model", MODELS)
def test_several_texts_get_the_answers_of_single_calls(shipped: Served, model: str) -> None:
    together = classify(shipped, model, texts=TEXTS).results
    for text, one in zip(TEXTS, together, strict=True):
        (single,) = classify(shipped, model, texts=[text]).results
        assert single.length == one.length
        assert [label.index for label in single.labels] == [label.index for label in one.labels]
        assert [label.score for label in one.labels] == pytest.approx(
            [label.score for label in single.labels], rel=1e-3, abs=1e-4
        )


@pytest.mark.parametrize("model", MODELS)
def test_the_models_know_good_from_bad(shipped: Served, model: str) -> None:
    good, bad = classify(
        shipped, model, texts=["a wonderful , moving film .", "a terrible , boring mess ."]
    ).results
    assert (good.labels[0].name, bad.labels[0].name) == ("positive", "negative")


def test_top_k_keeps_the_most_probable(shipped: Served) -> None:
    everything = classify(shipped, "sentiment-lstm", texts=TEXTS).results
    first = classify(shipped, "sentiment-lstm", texts=TEXTS, top_k=1).results
    assert [len(one.labels) for one in first] == [1, 1, 1]
    assert [one.labels[0].name for one in first] == [one.labels[0].name for one in everything]


def test_ids_get_the_same_answer_as_their_text(shipped: Served) -> None:
    from integration.harness import REPOSITORY
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(REPOSITORY / "sentiment-lstm" / "tokenizer.json"))
    ids = [pb.Ids(ids=tokenizer.encode(text).ids) for text in TEXTS]
    by_ids = classify(shipped, "sentiment-lstm", ids=ids).results
    by_text = classify(shipped, "sentiment-lstm", texts=TEXTS).results
    assert [one.length for one in by_ids] == [one.length for one in by_text] == [len(row.ids) for row in ids]
    for one, other in zip(by_ids, by_text, strict=True):
        assert one.labels[0].score == pytest.approx(other.labels[0].score, rel=1e-3, abs=1e-4)


def test_timings_contain_queue_compute_and_batch_rows(shipped: Served) -> None:
    for result in classify(shipped, "sentiment-lstm", texts=TEXTS).results:
        assert result.timings.steps == 1
        assert result.timings.compute_seconds > 0
        assert result.timings.queue_seconds >= 0
        assert result.timings.batch_rows >= 1


def test_encode_returns_a_vector_for_each_text(shipped: Served) -> None:
    reply = shipped.sequences.Encode(
        pb.EncodeRequest(model="sentiment-bilstm", texts=TEXTS), timeout=PATIENCE_S
    )
    sizes = {len(one.vector) for one in reply.results}
    assert len(reply.results) == 3
    assert len(sizes) == 1
    assert sizes.pop() > 1
    assert not any(one.HasField("attention") or one.tokens for one in reply.results)


def test_attention_is_cut_to_each_text_and_its_rows_sum_to_one(shipped: Served) -> None:
    request = pb.EncodeRequest(model="sentiment-transformer", texts=TEXTS, attention=True)
    for one in shipped.sequences.Encode(request, timeout=PATIENCE_S).results:
        *_, queries, keys = shape = list(one.attention.shape)
        assert len(shape) == 4
        assert queries == keys == one.length == len(one.tokens)
        values = list(one.attention.values)
        rows = [sum(values[i : i + keys]) for i in range(0, len(values), keys)]
        assert rows == pytest.approx([1.0] * len(rows), abs=1e-3)


def test_attention_from_a_model_without_it_is_an_error(shipped: Served) -> None:
    request = pb.EncodeRequest(model="sentiment-lstm", texts=TEXTS, attention=True)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "model", "roles.attention"):
        shipped.sequences.Encode(request, timeout=PATIENCE_S)


def test_the_client_returns_the_answers_of_the_server(shipped: Served) -> None:
    with Client(shipped.address) as client:
        results = client.classify("sentiment-lstm", list(TEXTS))
        assert [one.best.name for one in results] == [
            one.labels[0].name for one in classify(shipped, "sentiment-lstm", texts=TEXTS).results
        ]
        assert {one.name for one in client.models()} >= {*MODELS, "sentiment-lstm.step"}
        assert client.health("").serving
        assert client.infer("sentiment-bow", {"tokens": [[1, 2, 3]]})["logits"].shape == (1, 2)
