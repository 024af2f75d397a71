"""ClassifyMany and EncodeMany over plain gRPC: numbering, failures, limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from integration.harness import refused
from patience import PATIENCE_S

from lockstep_proto.v1 import sequences_pb2 as pb

if TYPE_CHECKING:
    from integration.harness import Served

MODEL = "sentiment-lstm"
TEXTS = [f"a film of {'very ' * (n % 11)}good" for n in range(200)]


OVERLOADED = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]


def classify_many(served: Served, *requests: pb.ClassifyRequest) -> dict[int, Any]:
    """The outcomes of a stream by number; checks that each number occurs once.

    Sends all again while one is rejected for overload, as a client would.
    """
    while True:
        outcomes = classify_once(served, *requests)
        if not any(one.failure.code == OVERLOADED for one in outcomes.values()):
            return outcomes


def classify_once(served: Served, *requests: pb.ClassifyRequest) -> dict[int, Any]:
    outcomes: dict[int, Any] = {}
    for reply in served.sequences.ClassifyMany(iter(requests), timeout=PATIENCE_S):
        for one in reply.outcomes:
            assert one.number not in outcomes
            outcomes[one.number] = one
            if one.HasField("classification"):
                assert (reply.model, reply.version) == (requests[0].model, "1")
    return outcomes


def request(*texts: str, model: str = MODEL, **more: Any) -> pb.ClassifyRequest:
    return pb.ClassifyRequest(model=model, texts=texts, **more)


def test_each_text_gets_the_answer_of_a_single_call(shipped: Served) -> None:
    found = classify_many(shipped, request(*TEXTS[:120], top_k=1), *(request(text) for text in TEXTS[120:]))
    assert sorted(found) == list(range(200))
    for number in (0, 7, 119, 120, 199):
        [single] = shipped.sequences.Classify(request(TEXTS[number])).results
        [*labels] = found[number].classification.labels
        assert len(labels) == (1 if number < 120 else 2)
        assert labels[0].name == single.labels[0].name
        assert labels[0].score == pytest.approx(single.labels[0].score, abs=1e-4)
        assert found[number].classification.length == single.length


def test_an_invalid_text_fails_by_itself_and_names_its_field(shipped: Served) -> None:
    ids = pb.ClassifyRequest(model=MODEL, ids=[pb.Ids(ids=[5, 6]), pb.Ids(ids=[10**9]), pb.Ids()])
    found = classify_many(shipped, request("good", " ", "long " * 9000), ids, request("dull"))
    failures = {n: one.failure for n, one in sorted(found.items()) if one.HasField("failure")}
    wrong = {1: "texts[1]", 2: "texts[2]", 4: "ids[1]", 5: "ids[2]"}
    assert {n: failure.field for n, failure in failures.items()} == wrong, failures
    assert sorted(found) == list(range(7))
    for number, field in wrong.items():
        assert failures[number].code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        assert failures[number].message.startswith(f"{field}: ")


def test_an_unknown_model_fails_its_texts_only(shipped: Served) -> None:
    found = classify_many(shipped, request("a"), request("a", "b", model="nobody"), request("b"))
    assert found[0].HasField("classification")
    assert found[3].HasField("classification")
    for number in (1, 2):
        assert found[number].failure.code == grpc.StatusCode.NOT_FOUND.value[0]
        assert found[number].failure.resource == "nobody"


def test_texts_that_cannot_start_before_their_queue_timeout_are_rejected(shipped: Served) -> None:
    hurried = request(*["a few words"] * 40, queue_timeout_seconds=1e-6)
    with shipped.hold():
        first = shipped.sequences.Classify.future(request("good"))
        shipped.wait_waiting(MODEL, 1)
        outcomes = classify_once(shipped, hurried)
    assert {one.failure.code for one in outcomes.values()} == {OVERLOADED}
    assert first.result().results[0].length == 1


def test_a_message_without_texts_ends_the_stream(shipped: Served) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "texts"):
        classify_many(shipped, request("good"), pb.ClassifyRequest(model=MODEL))


def test_encode_many_returns_vectors_and_attention(shipped: Served) -> None:
    encode = pb.EncodeRequest(model="sentiment-transformer", texts=["a fine film", " "], attention=True)
    found = {}
    for reply in shipped.sequences.EncodeMany(iter([encode]), timeout=PATIENCE_S):
        found.update({one.number: one for one in reply.outcomes})
    [single] = shipped.sequences.Encode(pb.EncodeRequest(model=encode.model, texts=encode.texts[:1])).results
    assert np.allclose(found[0].encoding.vector, single.vector, atol=1e-4)
    assert found[0].encoding.tokens == ["a", "fine", "film"]
    assert found[0].encoding.attention.shape[-1] == 3
    assert found[1].failure.field == "texts[1]"


def test_texts_beyond_the_in_flight_limit_wait_and_complete(serving: Any) -> None:
    from integration.harness import REPOSITORY

    served = serving(REPOSITORY, only="sentiment-bow", max_stream_inflight=4)
    found = classify_many(served, *(request(text, model="sentiment-bow") for text in TEXTS))
    assert sorted(found) == list(range(200))
    assert all(one.HasField("classification") for one in found.values())


def test_a_cancelled_stream_cancels_its_waiting_texts(shipped: Served) -> None:
    stream = shipped.sequences.ClassifyMany(iter([request(*TEXTS)]), timeout=PATIENCE_S)
    next(iter(stream))
    stream.cancel()
    shipped.wait_idle()


def test_every_text_of_a_rejected_message_is_counted(shipped: Served) -> None:
    def count() -> float:
        named = {"method": "ClassifyMany", "code": "bad_input"}
        return shipped.metric("lockstep_refused_total", model=MODEL, version="1", **named)

    before = count()
    found = classify_many(shipped, request(*TEXTS[:5], queue_timeout_seconds=-1))
    assert [one.HasField("failure") for one in found.values()] == [True] * 5
    assert count() - before == 5
