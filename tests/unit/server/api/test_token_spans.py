"""Spans are labelled and joined as Hugging Face's pipeline for token classification does it."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.server import sample_models

from lockstep_proto.v1 import sequences_pb2 as pb
from lockstep_server import messages
from lockstep_server.api import token_spans
from lockstep_server.model.manifest import Manifest, RolesSection, TensorSection
from lockstep_server.model.spec import ModelSpec
from lockstep_server.text.tokenizer import TokenPlace

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC")
SPEC = ModelSpec(
    "m",
    1,
    Manifest(task="token-classification", labels=LABELS, roles=RolesSection(scores="y")),
    (),
    (sample_models.tensor("y", TensorSection(0, {1: "words"}), ("n", "w", len(LABELS))),),
)
STRATEGIES = {
    "none": pb.AGGREGATION_NONE,
    "simple": pb.AGGREGATION_NONE,
    "first": pb.AGGREGATION_FIRST,
    "average": pb.AGGREGATION_AVERAGE,
    "max": pb.AGGREGATION_MAX,
}


@pytest.fixture(scope="module")
def pipeline() -> Any:
    """The pipeline's own aggregation, without a model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip("transformers")
        bare: Any = object.__new__(transformers.TokenClassificationPipeline)
    bare.tokenizer = SimpleNamespace(convert_tokens_to_string=" ".join)
    bare.model = SimpleNamespace(config=SimpleNamespace(id2label=dict(enumerate(LABELS))))
    return bare


def theirs(pipeline: Any, strategy: str, scores: Any, places: list[TokenPlace]) -> list[tuple[Any, ...]]:
    from transformers.pipelines.token_classification import AggregationStrategy

    exponents = np.exp(scores - scores.max(-1, keepdims=True))
    tokens: list[dict[str, Any]] = [
        {"word": "x", "start": place.start, "end": place.end, "is_subword": not place.begins_word}
        for place in places
    ]
    for index, row in enumerate(exponents / exponents.sum(-1, keepdims=True)):
        tokens[index] |= {"scores": row, "index": index}
    found = pipeline.aggregate(tokens, AggregationStrategy(strategy))
    named = [(one.get("entity_group", one.get("entity")), one) for one in found]
    return [(one["start"], one["end"], name, one["score"]) for name, one in named if name != "O"]


@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=60)
@given(data=st.data())
def test_spans_equal_those_of_the_pipeline(pipeline: Any, strategy: str, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 9))
    begins = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    places = [TokenPlace(i, 2 * i, 2 * i + 1, i == 0 or begins[i]) for i in range(count)]
    best = data.draw(st.lists(st.integers(0, len(LABELS) - 1), min_size=count, max_size=count))
    scores = np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=(1, count, len(LABELS)))
    scores[0, range(count), best] += 2
    event = messages.Event(key=1, outputs={"y": scores.astype(np.float32)})
    inference: Any = SimpleNamespace(text="x" * 2 * count, encoded=SimpleNamespace(places=places))
    request = pb.ClassifyTokensRequest(aggregation=STRATEGIES[strategy], entities=strategy != "none", top_k=1)
    ours = [
        (span.start, span.end, span.labels[0].name, pytest.approx(span.labels[0].probability, rel=1e-5))
        for span in token_spans._classification(SPEC, request, event, inference).spans
        if span.labels[0].name != "O"
    ]
    assert theirs(pipeline, strategy, scores[0].astype(np.float32), places) == ours
