"""`model.toml`: what a graph alone cannot say of a model, read and checked whole.

bytes -> TOML -> `Manifest`. Every error names the file, the key and the remedy. What the manifest
says of tensors is held against the graph later, in `card.py`.
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

T = TypeVar("T")

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
    top = _Table(content, file, "")
    manifest = Manifest(
        task=top.choice("task", TASKS, "tensor"),
        labels=top.strings("labels"),
        default_version=top.optional("default_version", _count),
        fixed_shape=top.get("fixed_shape", _bool, False),
        tolerance=top.optional("tolerance", _positive),
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
    _Check(manifest, file).all()
    return manifest


# --- one function a table -------------------------------------------------------------------------


def _text(table: _Table) -> Text:
    return Text(
        source=table.get("source", _file, ""),
        target=table.get("target", _file, ""),
        begin=table.optional("begin", _id),
        end=table.optional("end", _id),
    )


def _length(table: _Table) -> Length:
    return Length(max=table.need("max", _count))


def _tensor(table: _Table) -> Tensor:
    return Tensor(
        batch_axis=table.optional("batch_axis", _id),
        lengths=table.get("lengths", _axes, {}),
        pad=table.get("pad", _number, 0.0),
        range=table.optional("range", _range),
        generated=table.choice("generated", GENERATED, ""),
        of=table.get("of", _string, ""),
        real=table.get("real", _number, 1.0),
    )


def _roles(table: _Table) -> Roles:
    return Roles(
        input=table.get("input", _string, ""),
        scores=table.get("scores", _string, ""),
        activation=table.choice("activation", ACTIVATIONS, "softmax"),
        vector=table.get("vector", _string, ""),
        attention=table.get("attention", _string, ""),
    )


def _batching(table: _Table) -> Batching:
    default = Batching()
    return Batching(
        max_rows=table.get("max_rows", _count, default.max_rows),
        max_padded_elements=table.get("max_padded_elements", _count, default.max_padded_elements),
        max_queue_ms=table.get("max_queue_ms", _positive, default.max_queue_ms),
    )


def _instances(table: _Table) -> Instances:
    return Instances(count=table.get("count", _count, 1), threads=table.get("threads", _count, 1))


def _prefill(table: _Table) -> Prefill:
    return Prefill(
        graph=table.get("graph", _file, "prefill.onnx"),
        inputs=table.tables("inputs", _tensor),
        outputs=table.tables("outputs", _tensor),
    )


def _stepwise(table: _Table) -> Stepwise:
    default = Stepwise()
    return Stepwise(
        graph=table.get("graph", _file, default.graph),
        max_sequences=table.get("max_sequences", _count, default.max_sequences),
        idle_timeout_s=table.get("idle_timeout_s", _positive, default.idle_timeout_s),
        inputs=table.tables("inputs", _tensor),
        outputs=table.tables("outputs", _tensor),
        state=table.rows("state", _state),
    )


def _state(table: _Table) -> State:
    return State(
        name=table.need("name", _string),
        input=table.need("input", _string),
        output=table.get("output", _string, ""),
        prefill=table.get("prefill", _string, ""),
        initial=table.get("initial", _number, 0.0),
        batch_axis=table.get("batch_axis", _id, 0),
        lengths=table.get("lengths", _axes, {}),
        grows=table.get("grows", _bool, False),
    )


# --- values: each raises ValueError with the remedy ----------------------------------------------


def _string(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("write a string that is not empty")
    return value


def _file(value: Any) -> str:
    name = _string(value)
    if name.startswith(("/", "\\")) or "://" in name:
        raise ValueError("write a path relative to this file, inside the model repository")
    return name


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("write true or false")  # noqa: TRY004
    return value


def _integer(value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"write a whole number of {least} or more")
    return value


def _count(value: Any) -> int:
    return _integer(value, 1)


def _id(value: Any) -> int:
    return _integer(value, 0)


def _number(value: Any) -> float:
    if not isinstance(value, bool | int | float):
        raise ValueError("write a number, true or false")  # noqa: TRY004
    return value


def _positive(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise ValueError("write a number above 0")
    return float(value)


def _range(value: Any) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2 or not all(type(v) is int for v in value):
        raise ValueError("write [FIRST, END], two whole numbers, END excluded")
    if value[0] >= value[1]:
        raise ValueError("write [FIRST, END] with FIRST below END")
    return value[0], value[1]


def _axes(value: Any) -> dict[int, str]:
    if not isinstance(value, dict):
        raise ValueError('write a table of axes and named lengths: {1 = "words"}')  # noqa: TRY004
    axes = {}
    for axis, name in value.items():
        if not axis.isdigit():
            raise ValueError(f'axis {axis!r} is not a number; write {{1 = "words"}}')
        axes[int(axis)] = _string(name)
    return axes


# --- the reader ------------------------------------------------------------------------------------


class _Table:
    """A TOML table that knows its place, hands out each key once, and refuses what is left over."""

    def __init__(self, content: Any, file: str, place: str) -> None:
        self.file, self.place = file, place
        self.content: dict[str, Any] = content
        self.known: set[str] = set()

    def fault(self, key: str, why: str) -> LoadError:
        return LoadError(f"{self.file}: {self.place}{key}: {why}")

    def optional(self, key: str, kind: Callable[[Any], T]) -> T | None:
        self.known.add(key)
        if key not in self.content:
            return None
        try:
            return kind(self.content[key])
        except ValueError as error:
            raise self.fault(key, f"{self.content[key]!r} does not fit; {error}") from None

    def get(self, key: str, kind: Callable[[Any], T], default: T) -> T:
        value = self.optional(key, kind)
        return default if value is None else value

    def need(self, key: str, kind: Callable[[Any], T]) -> T:
        value = self.optional(key, kind)
        if value is None:
            raise self.fault(key, "is missing; add it")
        return value

    def choice(self, key: str, choices: tuple[str, ...], default: str) -> str:
        value = self.get(key, _string, default)
        if value not in choices and value != default:
            raise self.fault(key, f"{value!r} is not known; write one of {', '.join(choices)}")
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        value: Any = self.optional(key, lambda given: given) or []
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise self.fault(key, 'write a list of strings: ["negative", "positive"]')
        return tuple(value)

    def table(self, key: str, build: Callable[[_Table], T]) -> T | None:
        self.known.add(key)
        return self._build(key, self.content[key], build) if key in self.content else None

    def tables(self, key: str, build: Callable[[_Table], T]) -> dict[str, T]:
        def named(table: _Table) -> dict[str, T]:
            table.known.update(table.content)
            return {name: table._build(name, value, build) for name, value in table.content.items()}

        return self.table(key, named) or {}

    def rows(self, key: str, build: Callable[[_Table], T]) -> tuple[T, ...]:
        self.known.add(key)
        items = self.content.get(key, [])
        if not isinstance(items, list):
            raise self.fault(key, f"write [[{self.place}{key}]], once for each")
        return tuple(self._build(f"{key}[{i}]", item, build) for i, item in enumerate(items))

    def _build(self, key: str, value: Any, build: Callable[[_Table], T]) -> T:
        if not isinstance(value, dict):
            raise self.fault(key, f"{value!r} is not a table; write [{self.place}{key}]")
        table = _Table(value, self.file, f"{self.place}{key}.")
        built = build(table)
        table.done()
        return built

    def done(self) -> None:
        for key in self.content:
            if key not in self.known:
                close = difflib.get_close_matches(key, self.known, 1)
                hint = (
                    f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(sorted(self.known))}"
                )
                raise self.fault(key, f"unknown key; {hint}")


class _Check:
    """What must hold between the parts of one manifest."""

    def __init__(self, manifest: Manifest, file: str) -> None:
        self.manifest, self.file = manifest, file

    def all(self) -> None:
        manifest = self.manifest
        self.tensors("inputs", manifest.inputs)
        self.tensors("outputs", manifest.outputs, given=False)
        for place, face in (("prefill.", manifest.prefill), ("stepwise.", manifest.stepwise)):
            if face is not None:
                self.tensors(f"{place}inputs", face.inputs)
                self.tensors(f"{place}outputs", face.outputs, given=False)
        self.states()
        self.task()

    def fault(self, key: str, why: str) -> LoadError:
        return LoadError(f"{self.file}: {key}: {why}")

    def named(self, key: str, length: str) -> None:
        if length not in self.manifest.lengths:
            raise self.fault(key, f"no length is named {length!r}; add [lengths.{length}] with its max")

    def tensors(self, place: str, tensors: Mapping[str, Tensor], *, given: bool = True) -> None:
        for name, tensor in tensors.items():
            key = f"{place}.{name}"
            self.axes(key, tensor.batch_axis, tensor.lengths)
            if tensor.generated and not given:
                raise self.fault(f"{key}.generated", "only an input can be generated; remove it")
            if tensor.generated and not tensor.of:
                raise self.fault(f"{key}.of", "is missing; name the length that it tells of")
            if tensor.of:
                self.named(f"{key}.of", tensor.of)

    def axes(self, key: str, batch_axis: int | None, lengths: Mapping[int, str]) -> None:
        for axis, length in lengths.items():
            self.named(f"{key}.lengths", length)
            if axis == batch_axis:
                raise self.fault(f"{key}.lengths", f"axis {axis} is the batch axis already; name another")
        if lengths and batch_axis is None:
            raise self.fault(f"{key}.batch_axis", "is missing; a tensor with a named length needs one")

    def states(self) -> None:
        stepwise, seen = self.manifest.stepwise, set()
        for state in stepwise.state if stepwise else ():
            key = f"stepwise.state[{state.name}]"
            self.axes(key, state.batch_axis, state.lengths)
            for role, tensor in (("input", state.input), ("output", state.output), ("name", state.name)):
                if tensor and (role, tensor) in seen:
                    raise self.fault(
                        f"{key}.{role}", f"{tensor!r} is another state's already; pair each once"
                    )
                seen.add((role, tensor))
            if state.prefill and self.manifest.prefill is None:
                raise self.fault(f"{key}.prefill", "there is no prefill graph; add [prefill] or remove this")
            if state.grows and not state.lengths:
                raise self.fault(f"{key}.grows", "it has no named length to grow along; add lengths")

    def task(self) -> None:
        manifest = self.manifest
        if manifest.task == "classify":
            if not manifest.roles.scores:
                raise self.fault("roles.scores", "is missing; name the output that holds the labels' scores")
            if not manifest.labels:
                raise self.fault("labels", "is missing; list the labels in the order of the scores")
        if manifest.task == "encode" and not manifest.roles.vector:
            raise self.fault("roles.vector", "is missing; name the output that holds the vector")
        if manifest.task in ("generate", "translate") and manifest.stepwise is None:
            raise self.fault(
                "stepwise", f"is missing; a model that can {manifest.task} needs a step-wise face"
            )
        if manifest.text is not None and not manifest.text.source:
            raise self.fault("text.source", 'is missing; name the tokenizer: source = "tokenizer.json"')
