"""Stock exports of optimum, adopted by one command each, answer what PyTorch answers.

`tests/stock` has the graphs and what `model.generate` and the models answered.
"""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from integration.harness import Served, serve
from patience import PATIENCE_S

from lockstep_export.adopt import adopt, adoption
from lockstep_proto.v1 import sequences_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator

STOCK = Path(__file__).parents[1] / "stock"
DECODERS = ("gpt2", "llama", "bloom")
ENCODER_DECODERS = {"marian": "translate", "t5": "generate", "bart": "generate"}
ENCODERS = ("bert-classifier", "bert-tagger", "sentence-encoder")
STREAMS = 16
END = 2
BEAM_TOKENS = 12


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adoption, "self_test", lambda *_: [])  # the server makes it when it loads
        for name in (*DECODERS, *ENCODER_DECODERS, *ENCODERS):
            adopt(STOCK / name, root / name)
    with serve(root, engine="process") as started:
        yield started


def expected(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((STOCK / name / "expected.json").read_text())
    return found


def call(server: Served, name: str, item: dict[str, Any], count: int, **more: Any) -> Any:
    """The stream of Translate or Generate for one prompt."""
    options: dict[str, Any] = {"model": name, "ids": pb.Ids(ids=item["prompt"]), "max_tokens": count, **more}
    if ENCODER_DECODERS.get(name) == "translate":
        return server.sequences.Translate(pb.TranslateRequest(**options), timeout=PATIENCE_S)
    return server.sequences.Generate(pb.GenerateRequest(temperature=0, **options), timeout=PATIENCE_S)


def whole(stream: Any) -> tuple[list[int], int, float]:
    """The tokens of all messages, the reason of the end, the rows of a run."""
    tokens: list[int] = []
    last = None
    for last in stream:
        tokens += last.tokens
    assert last is not None
    return tokens, last.reason, last.timings.batch_rows


def without_end(tokens: list[int]) -> list[int]:
    return [token for token in tokens if token != END]


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_the_self_test_finds_nothing_to_report(server: Served, name: str) -> None:
    served = server.app.registry.get(name, 1)
    assert served is not None
    assert (served.spec.notice, served.spec.batched, served.spec.padded) == ("", True, True)


@pytest.mark.parametrize("name", [*DECODERS, *ENCODER_DECODERS])
def test_each_prompt_alone_is_answered_as_in_pytorch_up_to_the_end_of_the_cache(
    server: Served, name: str
) -> None:
    for item in expected(name):
        tokens, reason, _ = whole(call(server, name, item, item["max"]))
        assert tokens == without_end(item["tokens"]), item["prompt"]
        ends = item["tokens"][-1] == END
        assert reason == (pb.STOP_REASON_END if ends else pb.STOP_REASON_LENGTH)


@pytest.mark.parametrize("name", [*DECODERS, *ENCODER_DECODERS])
def test_prompts_among_streams_that_come_and_go_are_answered_as_in_pytorch(server: Served, name: str) -> None:
    """Every fifth stream is ended by its caller, and of decoders every third by an earlier limit."""
    rng = random.Random(7)
    items = expected(name) * 3
    rng.shuffle(items)

    def one(numbered: tuple[int, dict[str, Any]]) -> float:
        number, item = numbered
        count = item["max"]
        if number % 3 == 0 and name in DECODERS:  # an encoder-decoder may force the last token
            count = rng.randrange(1, count + 1)
        stream = call(server, name, item, count)
        if number % 5 == 0:
            first = list(next(stream).tokens)
            assert first == item["tokens"][: len(first)]
            stream.cancel()
            return 0
        tokens, _, rows = whole(stream)
        assert tokens == without_end(item["tokens"][:count]), item["prompt"]
        return rows

    with ThreadPoolExecutor(STREAMS) as pool:
        rows = list(pool.map(one, enumerate(items)))
    assert max(rows) > 1


@pytest.mark.parametrize("name", [*DECODERS, *ENCODER_DECODERS])
def test_the_best_of_four_beams_is_that_of_pytorch(server: Served, name: str) -> None:
    def one(item: dict[str, Any]) -> list[int]:
        count = min(BEAM_TOKENS, item["max"])
        *_, last = call(server, name, item, count, decoding=pb.Decoding(beams=4))
        return list(last.alternatives[0].tokens)

    items = expected(name)
    with ThreadPoolExecutor(STREAMS) as pool:
        found = list(pool.map(one, items))
    assert found == [without_end(item["beams_of_4"]) for item in items]


def test_a_classifier_gives_the_probabilities_of_pytorch(server: Served) -> None:
    items = expected("bert-classifier")
    request = pb.ClassifyRequest(model="bert-classifier", texts=[item["text"] for item in items])
    reply = server.sequences.Classify(request, timeout=PATIENCE_S)
    labels = ["negative", "neutral", "positive"]
    for item, result in zip(items, reply.results, strict=True):
        found = {label.name: label.probability for label in result.labels}
        assert [found[label] for label in labels] == pytest.approx(item["probabilities"], abs=1e-5)


def test_a_tagger_gives_each_token_the_label_of_pytorch(server: Served) -> None:
    items = expected("bert-tagger")
    texts = [item["text"] for item in items]
    request = pb.ClassifyTokensRequest(model="bert-tagger", texts=texts, aggregation=pb.AGGREGATION_NONE)
    reply = server.sequences.ClassifyTokens(request, timeout=PATIENCE_S)
    labels = ["O", "B-PER", "I-PER"]
    for item, result in zip(items, reply.results, strict=True):
        own = item["probabilities"][1:-1]  # without the ids around the text
        best = {start: labels[int(np.argmax(row))] for start, row in enumerate(own)}
        assert result.spans
        for span in result.spans:
            assert span.labels[0].name == best[span.start], (item["text"], span)


def test_a_sentence_encoder_gives_the_vectors_of_pytorch(server: Served) -> None:
    items = expected("sentence-encoder")
    request = pb.EncodeRequest(model="sentence-encoder", texts=[item["text"] for item in items])
    reply = server.sequences.Encode(request, timeout=PATIENCE_S)
    for item, result in zip(items, reply.results, strict=True):
        assert list(result.vector) == pytest.approx(item["vector"], abs=1e-5)
