"""`model.toml`: what a graph alone cannot say of a model, read and checked whole.

bytes -> TOML -> `Manifest`. Every error names the file, the key and the remedy. What the manifest
says of tensors is held against the graph later, in `card.py`.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import LoadError
from . import schema
from .coherence import Coherence

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TASKS = ("tensor", "classify", "encode", "generate", "translate")
ACTIVATIONS = ("softmax", "sigmoid", "none")
GENERATED = ("mask", "lengths")


@dataclass(frozen=True)
class Text:
    """`[text]`: which tokenizers turn text into ids and back; files relative to the manifest."""

    source: str = ""
    target: str = ""
    begin: int | None = None
    end: int | None = None


@dataclass(frozen=True)
class Length:
    """`[lengths.NAME]`: a length that several tensors share."""

    max: int


@dataclass(frozen=True)
class Tensor:
    """`[inputs.NAME]` or `[outputs.NAME]`: which axes vary, and with what they are padded."""

    batch_axis: int | None = None
    lengths: Mapping[int, str] = field(default_factory=dict)  # axis -> named length
    pad: float = 0
    range: tuple[int, int] | None = None  # half-open
    generated: str = ""  # "mask" or "lengths": filled in by the server
    of: str = ""  # the named length that it tells of
    real: float = 1  # what marks a real element in a mask


@dataclass(frozen=True)
class Roles:
    """`[roles]`: which tensor is what."""

    input: str = ""
    scores: str = ""
    activation: str = "softmax"
    vector: str = ""
    attention: str = ""


@dataclass(frozen=True)
class Batching:
    """`[batching]`: bounds of a run, and of the wait for one."""

    max_rows: int = 64
    max_padded_elements: int = 4096
    max_queue_ms: float = 500


@dataclass(frozen=True)
class Instances:
    """`[instances]`: how many sessions of the model run, each with how many threads."""

    count: int = 1
    threads: int = 1


@dataclass(frozen=True)
class Prefill:
    """`[prefill]`: the graph that takes a whole prompt or source in one run."""

    graph: str
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    outputs: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """`[[stepwise.state]]`: a tensor carried from step to step, paired by these names alone."""

    name: str
    input: str
    output: str = ""  # empty: carried unchanged
    prefill: str = ""  # the prefill graph's output that starts it
    initial: float = 0.0  # what it starts as without one
    batch_axis: int = 0
    lengths: Mapping[int, str] = field(default_factory=dict)
    grows: bool = False  # by one along its named length with each step


@dataclass(frozen=True)
class Stepwise:
    """`[stepwise]`: the model's step-wise face."""

    graph: str = "step.onnx"
    max_sequences: int = 256
    idle_timeout_s: float = 60.0
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    outputs: Mapping[str, Tensor] = field(default_factory=dict)
    state: tuple[State, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """All of `model.toml`. `Manifest()` is what a folder without one gets."""

    task: str = "tensor"
    labels: tuple[str, ...] = ()
    default_version: int | None = None
    fixed_shape: bool = False
    tolerance: float | None = None  # of the self-test; none: by the datatype
    text: Text | None = None
    lengths: Mapping[str, Length] = field(default_factory=dict)
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    outputs: Mapping[str, Tensor] = field(default_factory=dict)
    roles: Roles = Roles()
    batching: Batching = Batching()
    instances: Instances = Instances()
    prefill: Prefill | None = None
    stepwise: Stepwise | None = None
    written: bool = False  # a file said so, rather than the defaults


def read(path: Path) -> Manifest:
    """The manifest in `path`.

    Raises:
        LoadError: the file is not TOML, or a key is unknown, missing, or of a wrong kind.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LoadError(f"{path}: not valid TOML: {error}; correct the line named") from error
    return parse(content, str(path))


def parse(content: dict[str, Any], file: str = "model.toml") -> Manifest:
    """A manifest from parsed TOML; `file` is named in errors.

    Raises:
        LoadError: as `read`.
    """
    top = schema.Table(content, file, "")
    manifest = Manifest(
        task=top.choice("task", TASKS, "tensor"),
        labels=top.strings("labels"),
        default_version=top.optional("default_version", schema.count),
        fixed_shape=top.get("fixed_shape", schema.boolean, False),
        tolerance=top.optional("tolerance", schema.positive),
        text=top.table("text", _text),
        lengths=top.tables("lengths", _length),
        inputs=top.tables("inputs", _tensor),
        outputs=top.tables("outputs", _tensor),
        roles=top.table("roles", _roles) or Roles(),
        batching=top.table("batching", _batching) or Batching(),
        instances=top.table("instances", _instances) or Instances(),
        prefill=top.table("prefill", _prefill),
        stepwise=top.table("stepwise", _stepwise),
        written=True,
    )
    top.done()
    Coherence(manifest, file).check()
    return manifest


# --- one function a table -------------------------------------------------------------------------


def _text(table: schema.Table) -> Text:
    return Text(
        source=table.get("source", schema.file, ""),
        target=table.get("target", schema.file, ""),
        begin=table.optional("begin", schema.index),
        end=table.optional("end", schema.index),
    )


def _length(table: schema.Table) -> Length:
    return Length(max=table.need("max", schema.count))


def _tensor(table: schema.Table) -> Tensor:
    return Tensor(
        batch_axis=table.optional("batch_axis", schema.index),
        lengths=table.get("lengths", schema.axes, {}),
        pad=table.get("pad", schema.number, 0.0),
        range=table.optional("range", schema.id_range),
        generated=table.choice("generated", GENERATED, ""),
        of=table.get("of", schema.string, ""),
        real=table.get("real", schema.number, 1.0),
    )


def _roles(table: schema.Table) -> Roles:
    return Roles(
        input=table.get("input", schema.string, ""),
        scores=table.get("scores", schema.string, ""),
        activation=table.choice("activation", ACTIVATIONS, "softmax"),
        vector=table.get("vector", schema.string, ""),
        attention=table.get("attention", schema.string, ""),
    )


def _batching(table: schema.Table) -> Batching:
    default = Batching()
    return Batching(
        max_rows=table.get("max_rows", schema.count, default.max_rows),
        max_padded_elements=table.get("max_padded_elements", schema.count, default.max_padded_elements),
        max_queue_ms=table.get("max_queue_ms", schema.positive, default.max_queue_ms),
    )


def _instances(table: schema.Table) -> Instances:
    return Instances(count=table.get("count", schema.count, 1), threads=table.get("threads", schema.count, 1))


def _prefill(table: schema.Table) -> Prefill:
    return Prefill(
        graph=table.get("graph", schema.file, "prefill.onnx"),
        inputs=table.tables("inputs", _tensor),
        outputs=table.tables("outputs", _tensor),
    )


def _stepwise(table: schema.Table) -> Stepwise:
    default = Stepwise()
    return Stepwise(
        graph=table.get("graph", schema.file, default.graph),
        max_sequences=table.get("max_sequences", schema.count, default.max_sequences),
        idle_timeout_s=table.get("idle_timeout_s", schema.positive, default.idle_timeout_s),
        inputs=table.tables("inputs", _tensor),
        outputs=table.tables("outputs", _tensor),
        state=table.rows("state", _state),
    )


def _state(table: schema.Table) -> State:
    return State(
        name=table.need("name", schema.string),
        input=table.need("input", schema.string),
        output=table.get("output", schema.string, ""),
        prefill=table.get("prefill", schema.string, ""),
        initial=table.get("initial", schema.number, 0.0),
        batch_axis=table.get("batch_axis", schema.index, 0),
        lengths=table.get("lengths", schema.axes, {}),
        grows=table.get("grows", schema.boolean, False),
    )
