"""The models of a chaos run, and what callers ask of them: one `Ask` per answer that can be compared.

An ask is a serialised request, or several of a stream, and how to read the parts of its answer. The answer
that it gets alone (`Ask.expected`) is found once, before any fault, or known where the model is arithmetic.
"""

from __future__ import annotations

import itertools
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fakes
import frames
import numpy as np
import steps
import tagger

from lockstep_client import calls, protocol, stream_calls
from lockstep_client.protocol import Method
from lockstep_proto import open_inference_pb2 as ipb

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from .history import Answer

TEXTS_MODEL = "sentiment-attention"
_INFERENCE = "/inference.GRPCInferenceService"
CONFIG = Method(f"{_INFERENCE}/ModelConfig", ipb.ModelConfigResponse)
MODEL_READY = Method(f"{_INFERENCE}/ModelReady", ipb.ModelReadyResponse)
LIVE = Method(f"{_INFERENCE}/ServerLive", ipb.ServerLiveResponse)
READY = Method(f"{_INFERENCE}/ServerReady", ipb.ServerReadyResponse)

_WORDS = ("a", "the", "film", "is", "not", "good", "bad", "very", "dull", "but", "fine", ",", ".", "love")
_PEOPLE = ("Ada", "Lovelace", "lives", "in", "Paris", ",", "New", "York", "é")
_LETTERS = "abcdefghij klmno"


def write_models(root: Path) -> None:
    """The repository: arithmetic models whose answers are known, and small models of each kind."""
    shutil.copytree(Path(__file__).parents[2] / "models" / TEXTS_MODEL, root / TEXTS_MODEL)
    tagger.write(root)
    steps.language(root)
    steps.translator(root)
    write_adder(root)
    frames.spelling(root, "spelling", finite=True)
    for name in ("identity", "swapped"):
        fakes.write_model(root, name, fakes.identity())
    fakes.write_model(root, "fragile", fakes.fragile())


def write_adder(root: Path) -> None:
    steps.adder(root, slots=64, idle_s=30)


@dataclass(frozen=True)
class Ask:
    """One request, or the messages of one stream.

    Args:
        read: the parts of the answer in a reply.
        may: statuses other than OK that it may end with in any case.
        items: for streams that answer each message by itself, what is asked with each.
        weight: inference requests that the server counts for it.
    """

    method: Method[Any]
    model: str
    bodies: tuple[bytes, ...]
    read: Callable[[Any], Answer]
    expected: Answer | None = None
    may: frozenset[str] = frozenset()
    items: tuple[Ask, ...] = ()
    weight: int = 1

    @property
    def rpc(self) -> str:
        return self.method.path.rsplit("/", 1)[1]


BUSY = frozenset({"RESOURCE_EXHAUSTED"})
_INVALID = frozenset({"INVALID_ARGUMENT"})


class Asks:
    """Draws asks. Those in `pool` need their answers from a server first."""

    def __init__(self, rng: random.Random, each: int = 24) -> None:
        self._rng, self._numbers = rng, itertools.count(1)
        makers = (
            self._classify, self._encode, self._tag, self._generate, self._translate, self._follow_steps,
            self._follow_prefix,
        )  # fmt: skip
        self.pool = [make() for make in makers for _ in range(each)]
        self.metadata = [self._metadata(*one) for one in _METADATA]

    # --- with answers that a server gives -------------------------------------------------------------

    def _text(self, words: Sequence[str] = _WORDS, most: int = 24) -> str:
        return " ".join(self._rng.choices(words, k=self._rng.randint(1, most)))

    def _letters(self, most: int = 20) -> str:
        return "".join(self._rng.choices(_LETTERS, k=self._rng.randint(1, most)))

    def _classify(self) -> Ask:
        texts = [self._text() for _ in range(self._rng.choice((1, 1, 1, 3)))]
        call = calls.classify(TEXTS_MODEL, texts)
        return _unary(call, TEXTS_MODEL, read_classify, len(texts))

    def _encode(self) -> Ask:
        attention = self._rng.random() < 0.3
        call = calls.encode(TEXTS_MODEL, [self._text()], attention=attention)
        return _unary(call, TEXTS_MODEL, read_encode)

    def _tag(self) -> Ask:
        call = calls.classify_tokens("tagger", [self._text(_PEOPLE, 10)])
        return _unary(call, "tagger", read_tokens)

    def _generate(self) -> Ask:
        rng = self._rng
        call = stream_calls.generate(
            "lm", self._letters(), max_tokens=rng.randint(1, 40), seed=rng.randrange(1 << 32),
            temperature=rng.choice((0.0, 1.0)),
        )  # fmt: skip
        if rng.random() < 0.3:  # it goes on after a stream that broke
            request: Any = call.request
            received = [rng.randint(2, 20) for _ in range(rng.randint(1, request.max_tokens))]
            request.resume.tokens.extend(received)
        return _unary(call, "lm", lambda reply: tuple(reply.tokens))

    def _translate(self) -> Ask:
        call = stream_calls.translate(
            "translator", self._letters().strip() or "a", max_tokens=self._rng.randint(1, 30)
        )
        return _unary(call, "translator", lambda reply: tuple(reply.tokens))

    def _follow_steps(self) -> Ask:
        return self._follow("lm", self._letters(12))

    def _follow_prefix(self) -> Ask:
        return self._follow(TEXTS_MODEL, self._text(most=8))

    def _follow(self, model: str, text: str) -> Ask:
        pieces = [one + " " for one in text.split()] or ["a "]
        call = stream_calls.follow(model, pieces)
        assert call.pieces is not None
        bodies = [call.request, *(call.pieces.write(one) for one in pieces)]
        serialised = tuple(one.SerializeToString() for one in bodies)
        return Ask(call.method, model, serialised, read_follow, may=BUSY, weight=0)

    def _metadata(self, method: Method[Any], request: Any) -> Ask:
        return Ask(method, "", (request.SerializeToString(),), lambda _: (), (), weight=0)

    # --- with answers that are known ------------------------------------------------------------------

    def infer(self, model: str = "identity", width: int = 2) -> Ask:
        """The same numbers as no other ask: an answer shows whose it is."""
        number = float(next(self._numbers) % (1 << 24))
        x = np.full((1, width), number, np.float32)
        x[0, 0] = self._rng.randint(0, 1 << 20)
        request = fakes.floats(model, x, request_id=tensor_id(number))
        return Ask(protocol.INFER, model, (request.SerializeToString(),), read_infer, _numbers(x), BUSY)

    def session_error(self) -> Ask:
        """Ids beyond the table fail the run; the requests that share it must not notice."""
        fails = self._rng.random() < 0.3
        x = np.array([self._rng.randint(8, 20) if fails else self._rng.randint(0, 7)])
        request = fakes.request("fragile", {"x": ("INT64", x)})
        may = BUSY | _INVALID | {"INTERNAL"} if fails else BUSY
        expected = None if fails else _numbers(10 * x.astype(np.float32))
        return Ask(protocol.INFER, "fragile", (request.SerializeToString(),), read_infer, expected, may)

    def invalid(self) -> Ask:
        """A request that no server may answer."""
        unknown = next(self._numbers) + (1 << 40)
        wrong: list[tuple[Any, str]] = [
            (fakes.floats("identity", [1.0]), "INVALID_ARGUMENT"),
            (fakes.floats("nobody", [[1.0]]), "NOT_FOUND"),
            (fakes.floats("identity", [[1.0]], version="x"), "INVALID_ARGUMENT"),
            (fakes.request("identity", {"x": ("INT64", [[1]])}), "INVALID_ARGUMENT"),
            (fakes.floats("identity", [[1.0]], sequence_id=7), "INVALID_ARGUMENT"),
            (fakes.floats("adder", [[1.0, 1.0]]), "INVALID_ARGUMENT"),
            (fakes.floats("adder", [[1.0, 1.0]], sequence_id=unknown), "FAILED_PRECONDITION"),
        ]  # fmt: skip
        request, status = self._rng.choice(wrong)
        may = frozenset({status, "NOT_FOUND", "INVALID_ARGUMENT"})
        body = (request.SerializeToString(),)
        return Ask(protocol.INFER, request.model_name, body, read_infer, None, may, weight=0)

    def stream_infer(self) -> Ask:
        """Messages on one ModelStreamInfer stream, each answered by itself; ids may be the same."""
        items = tuple(self.infer() for _ in range(self._rng.randint(1, 12)))
        bodies = tuple(body for one in items for body in one.bodies)
        return Ask(protocol.INFER_MANY, "identity", bodies, read_infer, (), items=items, weight=0)

    def many(self, singles: Sequence[Ask]) -> Ask:
        """A Many stream of the texts of unary asks of one RPC, several of one text or message."""
        items = tuple(self._rng.choices(singles, k=self._rng.randint(1, 16)))
        method: Method[Any] = _MANY[items[0].method.path]
        bodies = tuple(body for one in items for body in one.bodies)
        return Ask(method, items[0].model, bodies, items[0].read, (), items=items, weight=0)

    def steps(self) -> tuple[int, list[Ask]]:
        """The steps of a client-driven sequence: a start, sums, an end. Returns its id too."""
        sequence, total, asks = next(self._numbers), 0.0, []
        count = self._rng.randint(1, 6)
        for index in range(count):
            value = float(self._rng.randint(1, 1000))
            total += value
            asks.append(self.step(sequence, value, total, start=index == 0, end=index == count - 1))
        return sequence, asks

    def step(self, sequence: int, value: float, total: float | None, *, start: bool, end: bool) -> Ask:
        """One step. No `total`: it must be refused."""
        x = np.full((1, 2), value, np.float32)
        request = fakes.floats("adder", x, sequence_id=sequence, sequence_start=start, sequence_end=end)
        expected = None if total is None else _numbers(np.full((1, 2), total, np.float32))
        may = BUSY if total is not None else BUSY | _INVALID | {"FAILED_PRECONDITION"}
        return Ask(protocol.INFER, "adder", (request.SerializeToString(),), read_infer, expected, may)


_METADATA: tuple[tuple[Method[Any], Any], ...] = (
    (protocol.SERVER, ipb.ServerMetadataRequest()),
    (protocol.INDEX, ipb.RepositoryIndexRequest()),
    (protocol.STATISTICS, ipb.ModelStatisticsRequest()),
    (protocol.METADATA, ipb.ModelMetadataRequest(name="identity")),
    (CONFIG, ipb.ModelConfigRequest(name="lm")),
    (MODEL_READY, ipb.ModelReadyRequest(name="identity")),
    (LIVE, ipb.ServerLiveRequest()),
    (READY, ipb.ServerReadyRequest()),
)
_MANY: dict[str, Method[Any]] = {
    protocol.CLASSIFY.path: protocol.CLASSIFY_MANY,
    protocol.ENCODE.path: protocol.ENCODE_MANY,
    protocol.CLASSIFY_TOKENS.path: protocol.CLASSIFY_TOKENS_MANY,
}


def _unary(call: Any, model: str, read: Callable[[Any], Answer], weight: int = 1) -> Ask:
    return Ask(call.method, model, (call.request.SerializeToString(),), read, may=BUSY, weight=weight)


# --- answers ----------------------------------------------------------------------------------------


def read_classify(reply: Any) -> Answer:
    return tuple(_labels(one.labels) for one in reply.results)


def read_encode(reply: Any) -> Answer:
    return tuple(_encoding(one) for one in reply.results)


def read_tokens(reply: Any) -> Answer:
    return tuple(_spans(one) for one in reply.results)


def read_follow(reply: Any) -> Answer:
    return ((reply.position, reply.id, _labels(reply.labels)),)


def read_infer(reply: Any) -> Answer:
    return _numbers(np.frombuffer(reply.raw_output_contents[0], np.float32))


def read_outcome(outcome: Any) -> Answer:
    """The answer to one text of a Many stream."""
    kind = outcome.WhichOneof("outcome")
    if kind == "encoding":
        return (_encoding(outcome.encoding),)
    found = outcome.classification
    return (_spans(found) if hasattr(found, "spans") else _labels(found.labels),)


def _labels(labels: Any) -> Answer:
    return tuple((one.index, one.probability) for one in sorted(labels, key=lambda one: int(one.index)))


def _encoding(one: Any) -> Answer:
    return (tuple(one.vector), tuple(one.attention.shape), tuple(one.attention.values), tuple(one.tokens))


def _spans(one: Any) -> Answer:
    return tuple((span.start, span.end, span.text, _labels(span.labels)) for span in one.spans)


def _numbers(array: Any) -> Answer:
    """Numbers, of a long row only the first two and a checksum."""
    few = tuple(array.ravel()[:2].tolist())
    return few if array.size <= 2 else (*few, array.size, zlib.crc32(array.tobytes()))


def tensor_id(number: float) -> str:
    """The id of a request for tensors: that of its neighbour too, as ids need not be unique."""
    return str(int(number) // 2)
