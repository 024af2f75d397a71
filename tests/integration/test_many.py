"""ClassifyMany and EncodeMany as any gRPC client meets them: numbers, failures, order, many at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from integration.harness import PATIENCE_S, refused

from lockstep_proto.v1 import sequences_pb2 as pb

if TYPE_CHECKING:
    from integration.harness import Served

MODEL = "sentiment-lstm"
TEXTS = [f"a film of {'very ' * (n % 11)}good" for n in range(200)]


def classified(served: Served, *requests: pb.ClassifyRequest) -> dict[int, Any]:
    """The outcomes of a stream by number; each number comes once."""
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


def test_each_text_is_answered_as_a_call_for_it_alone_is(shipped: Served) -> None:
    found = classified(shipped, request(*TEXTS[:120], top_k=1), *(request(text) for text in TEXTS[120:]))
    assert sorted(found) == list(range(200))
    for number in (0, 7, 119, 120, 199):
        [alone] = shipped.sequences.Classify(request(TEXTS[number])).results
        [*labels] = found[number].classification.labels
        assert len(labels) == (1 if number < 120 else 2)
        assert labels[0].name == alone.labels[0].name
        assert labels[0].score == pytest.approx(alone.labels[0].score, abs=1e-4)
        assert found[number].classification.length == alone.length


def test_a_wrong_text_fails_alone_and_names_its_field(shipped: Served) -> None:
    ids = pb.ClassifyRequest(model=MODEL, ids=[pb.Ids(ids=[5, 6]), pb.Ids(ids=[10**9]), pb.Ids()])
    found = classified(shipped, request("good", " ", "long " * 9000), ids, request("dull"))
    failures = {n: one.failure for n, one in sorted(found.items()) if one.HasField("failure")}
    wrong = {1: "texts[1]", 2: "texts[2]", 4: "ids[1]", 5: "ids[2]"}
    assert {n: failure.field for n, failure in failures.items()} == wrong, failures
    assert sorted(found) == list(range(7))
    for number, field in wrong.items():
        assert failures[number].code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        assert failures[number].message.startswith(f"{field}: ")


def test_a_model_that_is_not_there_fails_its_texts_only(shipped: Served) -> None:
    found = classified(shipped, request("a"), request("a", "b", model="nobody"), request("b"))
    assert found[0].HasField("classification")
    assert found[3].HasField("classification")
    for number in (1, 2):
        assert found[number].failure.code == grpc.StatusCode.NOT_FOUND.value[0]
        assert found[number].failure.resource == "nobody"


def test_what_the_door_refuses_says_when_to_come_back(shipped: Served) -> None:
    hurried = request(*["many words of it " * 40] * 400, queue_timeout_seconds=1e-6)
    codes = {one.failure.code for one in classified(shipped, hurried).values() if one.HasField("failure")}
    assert codes <= {grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], grpc.StatusCode.DEADLINE_EXCEEDED.value[0]}
    assert codes


def test_a_message_without_texts_ends_the_stream(shipped: Served) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "texts"):
        classified(shipped, request("good"), pb.ClassifyRequest(model=MODEL))


def test_vectors_and_attention_come_in_the_same_way(shipped: Served) -> None:
    asked = pb.EncodeRequest(model="sentiment-transformer", texts=["a fine film", " "], attention=True)
    found = {}
    for reply in shipped.sequences.EncodeMany(iter([asked]), timeout=PATIENCE_S):
        found.update({one.number: one for one in reply.outcomes})
    [alone] = shipped.sequences.Encode(pb.EncodeRequest(model=asked.model, texts=asked.texts[:1])).results
    assert np.allclose(found[0].encoding.vector, alone.vector, atol=1e-4)
    assert found[0].encoding.tokens == ["a", "fine", "film"]
    assert found[0].encoding.attention.shape[-1] == 3
    assert found[1].failure.field == "texts[1]"


def test_more_than_may_be_in_flight_wait_their_turn(serving: Any) -> None:
    from integration.harness import REPOSITORY

    served = serving(REPOSITORY, only="sentiment-bow", max_stream_inflight=4)
    found = classified(served, *(request(text, model="sentiment-bow") for text in TEXTS))
    assert sorted(found) == list(range(200))
    assert all(one.HasField("classification") for one in found.values())


def test_who_leaves_takes_what_waits_along(shipped: Served) -> None:
    stream = shipped.sequences.ClassifyMany(iter([request(*TEXTS)]), timeout=PATIENCE_S)
    next(iter(stream))
    stream.cancel()
    shipped.wait_idle()


def test_every_text_of_a_message_that_is_refused_counts(shipped: Served) -> None:
    def counted() -> float:
        named = {"method": "ClassifyMany", "code": "bad_input"}
        return shipped.metric("lockstep_refused_total", model=MODEL, version="1", **named)

    before = counted()
    found = classified(shipped, request(*TEXTS[:5], queue_timeout_seconds=-1))
    assert [one.HasField("failure") for one in found.values()] == [True] * 5
    assert counted() - before == 5
