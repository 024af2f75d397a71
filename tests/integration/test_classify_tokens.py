"""ClassifyTokens: labels for words, tokens and entities, with their places in the text."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import fakes
import grpc
import numpy as np
import pytest
import tagger
from integration.harness import Served, fields, refused, serve
from onnx import helper
from patience import PATIENCE_S

from lockstep_client import AsyncClient, Client, InvalidRequest
from lockstep_proto.v1 import sequences_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lockstep_client import TokenClassification

INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    tagger.write(root)
    classify = tagger.MANIFEST.replace("token-classification", "classify")
    first = tagger.tagger()
    first.graph.node[0].output[0] = "each"
    first.graph.node.append(helper.make_node("ReduceMax", ["each"], ["logits"], axes=[1], keepdims=0))
    del first.graph.output[:]
    first.graph.output.append(fakes.tensor("logits", shape=("batch", 5)))
    per_text = classify.replace(', lengths = {1 = "words"}}\nroles', "}\nroles")
    tagger.write(root, "classifier", first, per_text)
    with serve(root) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[Client]:
    with Client(server.address) as running:
        yield running


def found(answer: TokenClassification) -> list[tuple[str, str]]:
    return [(span.text, span.best.name) for span in answer.spans]


TEXT = "Ada LoveLace lives  in É, Paris"
WORDS = [
    ("Ada", "B-PER"), ("LoveLace", "I-PER"), ("lives", "O"), ("in", "O"), ("É", "O"), (",", "O"),
    ("Paris", "B-LOC"),
]  # fmt: skip


def test_each_word_has_the_label_of_its_first_token_and_its_place(client: Client) -> None:
    [answer] = client.classify_tokens("tagger", TEXT)
    assert found(answer) == WORDS
    assert all(TEXT[span.start : span.end] == span.text for span in answer.spans)
    assert [(span.token, span.tokens) for span in answer.spans][:3] == [(1, 1), (2, 2), (4, 1)]
    assert answer.length == 11  # with [CLS] and [SEP]
    assert len(answer.spans[0].labels) == 1
    expected = np.exp(3) / (np.exp(3) + 4)
    assert answer.spans[0].best.probability == pytest.approx(expected, rel=1e-6)
    assert answer.spans[0].best.score == 3


def test_places_count_code_points_whatever_their_bytes(client: Client) -> None:
    text = "😀 é Paris"
    span = client.classify_tokens("tagger", text)[0].spans[-1]
    assert (span.start, span.end, span.text) == (4, 9, "Paris")
    at = len(text[: span.start].encode())
    assert text.encode()[at : at + 5] == b"Paris"


def test_tokens_words_by_mean_and_by_the_surest_token(client: Client) -> None:
    def spans(aggregation: str) -> list[Any]:
        return list(client.classify_tokens("tagger", "lovelace", aggregation=aggregation, top_k=0)[0].spans)

    love, lace = spans("none")
    assert (love.text, love.best.name, lace.text, lace.best.name) == ("love", "I-PER", "lace", "O")
    assert (lace.start, lace.end, lace.token) == (4, 8, 2)
    (average,), (surest,) = spans("average"), spans("max")
    of, pieces = ({label.name: label.probability for label in span.labels} for span in (average, love))
    for label in lace.labels:
        assert of[label.name] == pytest.approx((pieces[label.name] + label.probability) / 2, rel=1e-6)
    assert surest.labels == love.labels
    assert sum(of.values()) == pytest.approx(1)


def test_neighbouring_words_of_an_entity_are_joined(client: Client) -> None:
    [answer] = client.classify_tokens("tagger", "Ada Lovelace, Ada in New York Paris", entities=True)
    assert found(answer) == [
        ("Ada Lovelace", "PER"),
        ("Ada", "PER"),
        ("New York", "LOC"),
        ("Paris", "LOC"),  # it begins with B
    ]


def test_a_text_answers_alone_as_in_a_batch_of_others(server: Served, client: Client) -> None:
    texts = ["Ada", TEXT, "in Paris , in Paris , in New York in", "é", "lives"]
    alone = [client.classify_tokens("tagger", text)[0].spans for text in texts]
    with server.hold():
        call = server.sequences.ClassifyTokens.future(
            pb.ClassifyTokensRequest(model="tagger", texts=texts, top_k=1), timeout=PATIENCE_S
        )
        server.wait_waiting("tagger", len(texts))
    results = call.result().results
    assert max(result.timings.batch_rows for result in results) > 1
    for result, spans in zip(results, alone, strict=True):
        assert [(s.start, s.end, s.labels[0].name, s.labels[0].probability) for s in result.spans] == [
            (s.start, s.end, s.best.name, pytest.approx(s.best.probability)) for s in spans
        ]


def test_ids_have_a_span_for_each_of_them(client: Client) -> None:
    [answer] = client.classify_tokens(
        "tagger", ids=[[tagger.IDS["ada"], tagger.IDS["lives"], tagger.IDS["par"]]]
    )
    assert [(s.token, s.start, s.text, s.best.name) for s in answer.spans] == [
        (0, 0, "", "B-PER"),
        (1, 0, "", "O"),
        (2, 0, "", "B-LOC"),
    ]
    with pytest.raises(InvalidRequest, match="words of ids are not known"):
        client.classify_tokens("tagger", ids=[[4]], aggregation="first")


def test_many_texts_and_the_asynchronous_client_answer_alike(server: Served, client: Client) -> None:
    texts = [TEXT, " ", "Paris"]
    outcomes = list(client.classify_tokens_many("tagger", texts))
    assert found(outcomes[0].answer) == WORDS
    assert isinstance(outcomes[1].error, InvalidRequest)
    assert found(outcomes[2].answer) == [("Paris", "B-LOC")]

    async def ask() -> Any:
        async with AsyncClient(server.address) as other:
            one = await other.classify_tokens("tagger", TEXT)
            return one, [
                found(outcome.answer) async for outcome in other.classify_tokens_many("tagger", [TEXT])
            ]

    [one], many = asyncio.run(ask())
    assert found(one) == WORDS
    assert many == [WORDS]


def test_each_classification_names_the_other_for_a_model_of_the_other_kind(server: Served) -> None:
    with refused(INVALID, "model", "call ClassifyTokens"):
        server.sequences.Classify(pb.ClassifyRequest(model="tagger", texts=["Ada"]), timeout=PATIENCE_S)
    with refused(INVALID, "model", "its task is 'classify'"):
        server.sequences.ClassifyTokens(
            pb.ClassifyTokensRequest(model="classifier", texts=["Ada"]), timeout=PATIENCE_S
        )
    start, text = pb.FollowRequest(start=pb.FollowStart(model="tagger")), pb.FollowRequest(text="Ada ")
    follow = server.sequences.Follow(iter([start, text]))
    with pytest.raises(grpc.RpcError) as caught:
        list(follow)
    assert fields(caught.value) == ["start.model"]


def test_an_unknown_aggregation_is_refused(server: Served, client: Client) -> None:
    with refused(INVALID, "aggregation", "9 is unknown"):
        server.sequences.ClassifyTokens(
            pb.ClassifyTokensRequest(model="tagger", texts=["Ada"], aggregation=9),  # type: ignore[arg-type]
            timeout=PATIENCE_S,
        )
    with pytest.raises(InvalidRequest, match="none, first, average, max"):
        client.classify_tokens("tagger", "Ada", aggregation="simple")


def test_a_long_text_is_tokenized_on_a_thread_with_its_places(client: Client) -> None:
    with pytest.raises(InvalidRequest, match="limit of 32"):
        client.classify_tokens("tagger", "in " * 600)
    text = " " * 600 + "Ada"
    span = client.classify_tokens("tagger", text)[0].spans[0]
    assert (span.start, span.end) == (600, 603)
    assert all(one.end <= two.start for one, two in pairwise(client.classify_tokens("tagger", TEXT)[0].spans))
