"""Sequences for tests of the step-wise parts, and the tiny models of `tests/steps.py`, opened."""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lockstep_server import messages
from lockstep_server.engine.loading import manifest_file
from lockstep_server.engine.runtime.session import OnnxSession
from lockstep_server.engine.stepwise import prefill
from lockstep_server.engine.stepwise.batches import StepBatches
from lockstep_server.engine.stepwise.sequence import ClientSequence, GenerationSequence, StepRequest
from lockstep_server.engine.stepwise.slots import initial
from lockstep_server.model.step_spec import make_step_spec
from lockstep_server.text.detokenizer import Detokenizer, TextStream
from lockstep_server.text.tokenizer import Vocabulary
from tests import steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from lockstep_server.model.spec import ModelSpec

Array = np.ndarray[Any, Any]

_keys = itertools.count(1)


def decoding(key: int = 0, *, accepted: float = 0.0, **more: Any) -> GenerationSequence:
    return GenerationSequence(key or next(_keys), accepted, limit=more.pop("limit", 1000), **more)


def element(
    key: int = 0,
    inputs: dict[str, Array] | None = None,
    *,
    accepted: float = 0.0,
    deadline: float | None = None,
    **more: Any,
) -> StepRequest:
    key = key or next(_keys)
    one = ClientSequence(key, accepted, None, more.get("priority", 0), more.get("caller", ""))
    return StepRequest(key, inputs or {}, (), accepted, deadline, one)


# --- models -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Opened:
    """A step-wise model, ready to step."""

    spec: ModelSpec
    session: OnnxSession
    first: OnnxSession | None
    vocabulary: Vocabulary | None


def open_folder(folder: Path) -> Opened:
    """What a loader makes of a version's folder, but for the self-test: rows may share runs."""
    manifest = manifest_file.read(folder.parent / "model.toml")
    session = OnnxSession(folder / "step.onnx")
    first = OnnxSession(folder / "prefill.onnx") if manifest.prefill else None
    spec = make_step_spec("m", 1, session.graph, first.graph if first else None, manifest, "model.toml")
    before = replace(spec.prefill, batched=True) if spec.prefill else None
    tokenizer = folder.parent / "tokenizer.json"
    vocabulary = Vocabulary(tokenizer) if tokenizer.exists() else None
    return Opened(replace(spec, batched=True, prefill=before), session, first, vocabulary)


@cache
def opened(kind: str) -> Opened:
    """`language`, `forced` (without a prefill graph), `ending` (with an end token), `translator`,
    `cache` or `adder`."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        makers: dict[str, Callable[[], Path]] = {
            "language": lambda: steps.language(root),
            "forced": lambda: steps.language(root, prefill=False),
            "ending": lambda: _with_end(steps.language(root, prefill=False)),
            "translator": lambda: steps.translator(root),
            "cache": lambda: steps.cache(root),
            "adder": lambda: steps.adder(root),
        }
        return open_folder(makers[kind]())


def _with_end(folder: Path) -> Path:
    file = folder.parent / "model.toml"
    file.write_text(file.read_text().replace("begin = 1", "begin = 1\nend = 2"))
    return folder


# --- decoding ---------------------------------------------------------------------------------------


def entering(model: Opened, ids: Sequence[int], **how: Any) -> GenerationSequence:
    """A decoding that may enter a batch: its prompt taken in, or to be forced."""
    more = {"limit": how.pop("limit", 20)}
    one = decoding(prompt=tuple(ids), how=messages.Decode(**how), **more)
    spec = model.spec
    if model.vocabulary is not None:
        one.text = TextStream(Detokenizer(model.vocabulary).stream(), one.how.stop)
    if spec.prefill is None or model.first is None:
        one.states = initial(spec)
    else:
        (output,) = prefill.run(spec.prefill, model.first, [prefill.prompt_of(spec.prefill, ids)])
        one.states, one.prompt = initial(spec, output), ()
        one.token = 1  # the begin id
    return one


@dataclass
class Made:
    """All that one decoding was told of."""

    ids: list[int]
    reason: str = ""


class Runner:
    """Drives `Batches` step by step, as the engine does, and keeps what each decoding makes."""

    def __init__(self, model: Opened, most_rows: int = 64, session: Any = None) -> None:
        self.batches = StepBatches(model.spec, session or model.session, most_rows, lambda: 0.0)
        self.made: dict[GenerationSequence, Made] = {}
        self.running: dict[GenerationSequence, None] = {}
        self.failed: dict[GenerationSequence, Exception] = {}

    def enter(self, one: GenerationSequence) -> None:
        self.batches.enter(one)
        self.running[one] = None
        self.made.setdefault(one, Made([]))

    def pause(self, one: GenerationSequence) -> None:
        self.batches.leave(one, keep=True)
        del self.running[one]

    def drop(self, one: GenerationSequence) -> None:
        self.batches.leave(one)
        del self.running[one]

    def step(self, *, tidy: bool = True) -> None:
        stepped = self.batches.step(0.0)
        for one, reason in stepped.ended:
            self.made[one].reason = reason
        for one, error in stepped.failed:
            self.failed[one] = error
        ended = [one for one, _ in (*stepped.ended, *stepped.failed)]
        if tidy:
            full = self.batches.tidy()
            for one in full:
                self.made[one].reason = "full"
            ended += full
        for one in ended:
            del self.running[one]
        self.listen(ended)
        self.listen(self.running)

    def listen(self, ones: Iterable[GenerationSequence]) -> None:
        for batch in self.batches:
            batch.collect_all(lambda _: None)
        for one in ones:
            self.made[one].ids += one.pending.ids
            one.pending.ids = []

    def run(self) -> None:
        while self.running:
            self.step()


def alone(model: Opened, one: GenerationSequence) -> Made:
    """What it makes with nobody beside it."""
    runner = Runner(model, most_rows=1)
    runner.enter(one)
    runner.run()
    return runner.made[one]
