"""ClassifyTokens: labels for the words or tokens of a text.

scores [tokens, labels], places of the tokens in the text → probabilities → spans of words → entities → reply
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lockstep_proto.v1 import sequences_pb2 as pb

from ..errors import bad_input
from ..frontend.loop_watch import off_loop
from ..text.tokenizer import TokenPlace
from . import replies, texts
from .replies import Ranked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .. import messages
    from ..frontend.inference_request import InferenceRequest
    from ..model.spec import ModelSpec

    Array = np.ndarray[Any, Any]

_OUTSIDE = "O"
"""The label of tokens that belong to no entity, in all schemes of tags (IOB, IOB2, IOE, BILOU)."""


_STEPS_PER_TOKEN = 10


class _Span(NamedTuple):
    """Neighbouring tokens, by their indices and their place in the text."""

    start: int
    end: int
    token: int
    tokens: int


def outputs(spec: ModelSpec, request: pb.ClassifyTokensRequest) -> tuple[str, ...]:
    """The output names that ClassifyTokens needs.

    Raises:
        ServingError: BAD_INPUT, the model has no scores for tokens, or the aggregation is invalid.
    """
    if not spec.classifies_tokens:
        task = spec.manifest.task
        raise bad_input(
            "model",
            f"model {spec.name!r} has no labels for words: its task is {task!r}, not token-classification",
        )
    known = pb.Aggregation.values()
    if request.aggregation not in known:
        raise bad_input("aggregation", f"{request.aggregation} is unknown; send one from 0 to {max(known)}")
    of_words = request.aggregation not in (pb.AGGREGATION_UNSPECIFIED, pb.AGGREGATION_NONE)
    if request.ids and of_words:
        raise bad_input("aggregation", "the words of ids are not known; send texts, or AGGREGATION_NONE")
    return (spec.manifest.roles.scores,)


async def classification(
    spec: ModelSpec, request: pb.ClassifyTokensRequest, event: messages.Event, inference: InferenceRequest
) -> pb.TokenClassification:
    """The result of one text or row of ids."""
    scores = texts.output_of(event, spec.manifest.roles.scores)
    tokens = scores.size // max(scores.shape[-1], 1)
    steps = _STEPS_PER_TOKEN * tokens + replies.ranking_steps(scores, tokens, request.top_k)
    return await off_loop(steps, _classification, spec, request, event, inference)


def _classification(
    spec: ModelSpec, request: pb.ClassifyTokensRequest, event: messages.Event, inference: InferenceRequest
) -> pb.TokenClassification:
    manifest, text = spec.manifest, inference.text or ""
    tensor = spec.output(manifest.roles.scores)
    rows = texts.output_of(event, manifest.roles.scores).take(
        0, axis=(tensor and tensor.spec.batch_axis) or 0
    )
    scores, probabilities = replies.with_probabilities(rows, manifest)
    encoded, aggregation = inference.encoded, request.aggregation
    if encoded is None or encoded.places is None:
        places, aggregation = [TokenPlace(i, 0, 0, True) for i in range(len(rows))], pb.AGGREGATION_NONE
    else:
        places = encoded.places
    spans = _spans(places, of_words=aggregation != pb.AGGREGATION_NONE)
    if spans:
        scores, probabilities = _aggregated(spans, scores, probabilities, aggregation)
    else:
        scores, probabilities = scores[:0], probabilities[:0]
    top_k = 1 if request.entities else request.top_k
    ranked = replies.ranked(scores, probabilities, manifest.labels, top_k)
    if request.entities:
        spans, ranked = _entities(spans, [row[0] for row in ranked])
    found = [
        pb.LabeledSpan(
            start=span.start,
            end=span.end,
            text=text[span.start : span.end],
            labels=replies.messages_of(labels),
            token=span.token,
            tokens=span.tokens,
        )
        for span, labels in zip(spans, ranked, strict=True)
    ]
    return pb.TokenClassification(spans=found, length=event.length, timings=replies.timings(event))


def _spans(places: Sequence[TokenPlace], *, of_words: bool) -> list[_Span]:
    """A span for each token, or for each word."""
    if not of_words:
        return [_Span(place.start, place.end, place.token, 1) for place in places]
    spans: list[_Span] = []
    for place in places:
        if place.is_blank:
            continue
        if place.begins_word or not spans:
            spans.append(_Span(place.start, place.end, place.token, 1))
        else:
            first = spans[-1]
            spans[-1] = first._replace(end=max(first.end, place.end), tokens=place.token - first.token + 1)
    return spans


def _aggregated(
    spans: Sequence[_Span], scores: Array, probabilities: Array, aggregation: int
) -> tuple[Array, Array]:
    """Scores and probabilities of spans, [spans, labels], from those of the tokens, [tokens, labels]."""
    firsts = np.array([span.token for span in spans])
    if aggregation in (pb.AGGREGATION_AVERAGE, pb.AGGREGATION_MAX):
        counts = np.array([span.tokens for span in spans])
        starts = np.cumsum(counts) - counts
        tokens = np.repeat(firsts - starts, counts) + np.arange(counts.sum())
        if aggregation == pb.AGGREGATION_AVERAGE:
            of_spans = (
                np.add.reduceat(each[tokens], starts) / counts[:, None] for each in (scores, probabilities)
            )
            return next(of_spans), next(of_spans)
        best = probabilities[tokens].max(axis=1)
        is_best = best == np.repeat(np.maximum.reduceat(best, starts), counts)
        candidates = np.where(is_best, tokens, len(probabilities))
        firsts = np.minimum.reduceat(candidates, starts)
    return scores[firsts], probabilities[firsts]


def _entities(spans: Sequence[_Span], best: Sequence[Ranked]) -> tuple[list[_Span], list[list[Ranked]]]:
    """Neighbouring spans of one entity as one span with one label, as Hugging Face's pipelines join them.

    Source: transformers, TokenClassificationPipeline.group_entities
    """
    groups: list[list[int]] = []
    for index, label in enumerate(best):
        begins, name = _tag(label.name)
        if groups and not begins and _tag(best[groups[-1][-1]].name)[1] == name:
            groups[-1].append(index)
        else:
            groups.append([index])
    joined, labels = [], []
    for group in groups:
        first, last = spans[group[0]], spans[group[-1]]
        label = best[group[0]]
        if label.name == _OUTSIDE:
            continue
        joined.append(_Span(first.start, last.end, first.token, last.token + last.tokens - first.token))
        probability = sum(best[index].probability for index in group) / len(group)
        score = sum(best[index].score for index in group) / len(group)
        labels.append([Ranked(label.label, _tag(label.name)[1], probability, score)])
    return joined, labels


def _tag(label: str) -> tuple[bool, str]:
    """Whether the label begins an entity, and the entity's name: B-PER → True, PER."""
    prefix, separator, name = label.partition("-")
    return (prefix == "B", name) if separator and prefix in ("B", "I") else (False, label)
