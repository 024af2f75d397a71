"""Sequences for tests of the step-wise engine, and the tiny models of `tests/steps.py`, opened."""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
import pytest
import steps

from lockstep_server import messages
from lockstep_server.engine.loading import manifest_file
from lockstep_server.engine.runtime.batching import Batching
from lockstep_server.engine.runtime.device import CPU, Device, DeviceArray
from lockstep_server.engine.runtime.session import OnnxSession
from lockstep_server.engine.stepwise import prefill
from lockstep_server.engine.stepwise.batches import StepBatches
from lockstep_server.engine.stepwise.beams import BeamSearch, BeamSettings
from lockstep_server.engine.stepwise.device_states import StateGraphs
from lockstep_server.engine.stepwise.sequence import ClientSequence, GenerationSequence, StepRequest
from lockstep_server.engine.stepwise.slots import initial_states
from lockstep_server.model.step_spec import make_step_spec
from lockstep_server.text.detokenizer import Detokenizer, TextStream
from lockstep_server.text.tokenizer import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from lockstep_server.messages import SequenceId
    from lockstep_server.model.spec import ModelSpec

Array = np.ndarray[Any, Any]

_keys = itertools.count(1)


def generation_sequence(key: int = 0, *, accepted: float = 0.0, **more: Any) -> GenerationSequence:
    params, beams = more.pop("params", {}), more.pop("beams", 1)
    if beams > 1:
        more["search"] = BeamSearch(BeamSettings(beams, 1.0, False), ())
    request = messages.Generate(key=0, model="m", version=1, prompt=(), **params)
    return GenerationSequence(
        key or next(_keys), accepted, params=request, limit=more.pop("limit", 1000), **more
    )


def step_request(
    key: int = 0,
    inputs: dict[str, Array] | None = None,
    *,
    accepted: float = 0.0,
    deadline: float | None = None,
    sequence: SequenceId = "s",
    **more: Any,
) -> StepRequest:
    key = key or next(_keys)
    return StepRequest(
        key, inputs or {}, (), accepted, deadline, ClientSequence(key, accepted, id=sequence, **more)
    )


# --- where states are kept ------------------------------------------------------------------------------


@dataclass
class Kept:
    """Where models that are opened keep the states of sequences; set by the fixture `kept`."""

    device: Device = CPU


PLACES: list[Any] = ["host", "device"]
"""The parameters of the fixture `kept`."""
if "CUDAExecutionProvider" in ort.get_available_providers():
    PLACES.append(pytest.param("gpu", marks=pytest.mark.gpu))

kept = Kept()
_graphs: dict[Any, StateGraphs] = {}


def graphs_of(spec: ModelSpec) -> StateGraphs | None:
    """The graphs that move the states of a model; None if they are kept on the host."""
    if kept.device.states == "host":
        return None
    states = tuple(
        (one.spec.name, one.datatype, one.spec.batch_axis, one.dynamic_axis) for one in spec.states
    )
    scores = spec.output(spec.manifest.roles.scores)
    shape = scores and (scores.datatype, len(scores.shape), scores.spec.batch_axis, scores.spec.position)
    return _graphs.setdefault((kept.device, states, shape), StateGraphs(spec, kept.device))


class FakeSession:
    """A session whose `answer` computes the outputs from arrays, wherever states are kept."""

    output_names: list[str]
    state_graphs: StateGraphs | None = None
    terminated = binds_all = captures = False

    def answer(self, feeds: dict[str, Array]) -> list[Array]:
        raise NotImplementedError

    def run(
        self, feeds: dict[str, Any], outputs: Sequence[str] | None = None, on_device: Any = None
    ) -> list[Any]:
        arrays = {
            name: one.value.numpy() if isinstance(one, DeviceArray) else one for name, one in feeds.items()
        }
        found = zip(outputs or self.output_names, self.answer(arrays), strict=True)
        return [
            DeviceArray.of(array, kept.device) if on_device and name in on_device else array
            for name, array in found
        ]


# --- models -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StepModel:
    """A step-wise model with its open sessions."""

    spec: ModelSpec
    session: OnnxSession
    prefill_session: OnnxSession | None
    vocabulary: Vocabulary | None


def open_folder(folder: Path) -> StepModel:
    """Open a version folder as the loader does, but without the self-test: the model counts as batched."""
    manifest = manifest_file.read(folder.parent / "model.toml")
    session = OnnxSession(folder / "step.onnx", kept.device)
    prefill_session = OnnxSession(folder / "prefill.onnx", kept.device) if manifest.prefill else None
    spec = make_step_spec(
        "m", 1, session.graph, prefill_session.graph if prefill_session else None, manifest, "model.toml"
    )
    session.state_graphs = graphs_of(spec)
    prefill_spec = replace(spec.prefill, batched=True) if spec.prefill else None
    tokenizer = folder.parent / "tokenizer.json"
    vocabulary = Vocabulary(tokenizer.read_bytes()) if tokenizer.exists() else None
    return StepModel(replace(spec, batched=True, prefill=prefill_spec), session, prefill_session, vocabulary)


def open_model(kind: str) -> StepModel:
    """A model of `tests/steps.py`, as `open_own` opens it, which tests share."""
    return _opened(kind, kept.device)


@cache
def _opened(kind: str, _: Device) -> StepModel:
    return open_own(kind)


def open_own(kind: str) -> StepModel:
    """Open a model of `tests/steps.py`.

    Args:
        kind: `language`, `forced` (no prefill graph), `ending` (has an end token), `translator`,
            `cache`, `kept` (its cache is written in place), `alone` (a step returns the new element only) or
            `adder`.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        makers: dict[str, Callable[[], Path]] = {
            "language": lambda: steps.language(root),
            "forced": lambda: steps.language(root, prefill=False),
            "ending": lambda: _with_end(steps.language(root, prefill=False)),
            "translator": lambda: steps.translator(root),
            "cache": lambda: steps.cache(root),
            "kept": lambda: steps.cache(root),
            "alone": lambda: steps.cache(root, alone=True),
            "adder": lambda: steps.adder(root),
        }
        model = open_folder(makers[kind]())
        return replace(model, spec=replace(model.spec, keeps_elements=True)) if kind == "kept" else model


def _with_end(folder: Path) -> Path:
    file = folder.parent / "model.toml"
    file.write_text(file.read_text().replace("begin = 1", "begin = 1\nend = 2"))
    return folder


# --- generation -------------------------------------------------------------------------------------


def ready_sequence(model: StepModel, ids: Sequence[int], **params: Any) -> GenerationSequence:
    """A sequence that can be added to a batch: prefilled, or with a prompt to force."""
    more = {"limit": params.pop("limit", 20)}
    sequence = generation_sequence(prompt=tuple(ids), params=params, **more)
    spec = model.spec
    sequence.search = BeamSearch.of(sequence.params, spec.manifest.end)
    sequence.context = tuple(ids)
    if model.vocabulary is not None:
        sequence.text = TextStream(Detokenizer(model.vocabulary).stream(), sequence.params.stop)
    if spec.prefill is None or model.prefill_session is None:
        sequence.states = initial_states(spec)
    else:
        (output,) = prefill.run(spec.prefill, model.prefill_session, [prefill.prompt_of(spec.prefill, ids)])
        sequence.states, sequence.prompt = initial_states(spec, output), ()
        sequence.token = 1  # the begin id
        if sequence.search is not None:
            sequence.search.tokens[:] = 1
    return sequence


@dataclass
class Generated:
    """The output of one generation sequence."""

    ids: list[int]
    reason: str = ""


class Runner:
    """Drives `StepBatches` step by step, as the engine does, and records the output of each sequence."""

    def __init__(self, model: StepModel, max_rows: int = 64, session: Any = None) -> None:
        self.batches = StepBatches(model.spec, session or model.session, Batching(max_rows), lambda: 0.0)
        self.generated: dict[GenerationSequence, Generated] = {}
        self.running: dict[GenerationSequence, None] = {}
        self.failed: dict[GenerationSequence, Exception] = {}

    def add(self, sequence: GenerationSequence) -> None:
        self.batches.add(sequence)
        self.running[sequence] = None
        self.generated.setdefault(sequence, Generated([]))

    def pause(self, sequence: GenerationSequence) -> None:
        self.batches.remove(sequence, keep_states=True)
        del self.running[sequence]

    def remove(self, sequence: GenerationSequence) -> None:
        self.batches.remove(sequence)
        del self.running[sequence]

    def step(self, *, tidy: bool = True) -> None:
        outcome = self.batches.step(0.0)
        for sequence, reason in outcome.ended:
            self.generated[sequence].reason = reason
        for sequence, error in outcome.failed:
            self.failed[sequence] = error
        ended = [sequence for sequence, _ in (*outcome.ended, *outcome.failed)]
        if tidy:
            full = self.batches.tidy()
            for sequence in full:
                self.generated[sequence].reason = "full"
                if sequence.search is not None:
                    sequence.search.close()
                    sequence.end_search()
            ended += full
        for sequence in ended:
            del self.running[sequence]
        self.collect(ended)
        self.collect(self.running)

    def collect(self, sequences: Iterable[GenerationSequence]) -> None:
        for batch in self.batches:
            batch.collect_all(lambda _: None)
        for sequence in sequences:
            self.generated[sequence].ids += sequence.pending.ids
            sequence.pending.ids = []

    def run(self) -> None:
        while self.running:
            self.step()


def unbatched(model: StepModel, sequence: GenerationSequence) -> Generated:
    """The output of a sequence that shares no run, but its own beams."""
    runner = Runner(model, max_rows=sequence.rows)
    runner.add(sequence)
    runner.run()
    return runner.generated[sequence]
