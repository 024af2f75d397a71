"""What a manifest says: a graph alone cannot tell which axes vary, what pads them, what a tensor is for.

Plain data. `model.toml` is read in `manifest_file.py`; what the manifest says of tensors is held
against the graph in `card.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class TextSection:
    """`[text]`: which tokenizers turn text into ids and back; files relative to the manifest."""

    source: str = ""
    target: str = ""
    begin: int | None = None
    end: int | None = None


@dataclass(frozen=True)
class LengthSection:
    """`[lengths.NAME]`: a length that several tensors share."""

    max: int


@dataclass(frozen=True)
class TensorSection:
    """`[inputs.NAME]` or `[outputs.NAME]`: which axes vary, and with what they are padded."""

    batch_axis: int | None = None
    lengths: Mapping[int, str] = field(default_factory=dict)  # axis -> named length
    pad: float = 0
    range: tuple[int, int] | None = None  # half-open
    generated: str = ""  # "mask" or "lengths": filled in by the server
    of: str = ""  # the named length that it tells of
    real: float = 1  # what marks a real element in a mask


@dataclass(frozen=True)
class RolesSection:
    """`[roles]`: which tensor is what."""

    input: str = ""
    scores: str = ""
    activation: str = "softmax"
    vector: str = ""
    attention: str = ""


@dataclass(frozen=True)
class BatchingSection:
    """`[batching]`: bounds of a run, and of the wait for one."""

    max_rows: int = 64
    max_padded_elements: int = 4096
    max_queue_ms: float = 500


@dataclass(frozen=True)
class InstancesSection:
    """`[instances]`: how many runs of the model at one time, each with how many threads."""

    count: int | None = None  # none: as many as pay on the device
    threads: int = 1


@dataclass(frozen=True)
class PrefillSection:
    """`[prefill]`: the graph that takes a whole prompt or source in one run."""

    graph: str
    inputs: Mapping[str, TensorSection] = field(default_factory=dict)
    outputs: Mapping[str, TensorSection] = field(default_factory=dict)


@dataclass(frozen=True)
class StateSection:
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
class StepwiseSection:
    """`[stepwise]`: the model's step-wise form."""

    graph: str = "step.onnx"
    max_sequences: int = 256
    max_tokens: int = 512  # that a decoding makes where the request does not say
    idle_timeout_s: float = 60.0
    inputs: Mapping[str, TensorSection] = field(default_factory=dict)
    outputs: Mapping[str, TensorSection] = field(default_factory=dict)
    state: tuple[StateSection, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """All of `model.toml`. `Manifest()` is what a folder without one gets."""

    task: str = "tensor"
    labels: tuple[str, ...] = ()
    default_version: int | None = None
    fixed_shape: bool = False
    tolerance: float | None = None  # of the self-test; none: by the datatype
    text: TextSection | None = None
    lengths: Mapping[str, LengthSection] = field(default_factory=dict)
    inputs: Mapping[str, TensorSection] = field(default_factory=dict)
    outputs: Mapping[str, TensorSection] = field(default_factory=dict)
    roles: RolesSection = RolesSection()
    batching: BatchingSection = BatchingSection()
    instances: InstancesSection = InstancesSection()
    prefill: PrefillSection | None = None
    stepwise: StepwiseSection | None = None
    from_file: bool = False  # read from a model.toml, not the defaults
