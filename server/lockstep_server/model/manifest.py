"""The content of `model.toml`: which axes vary, how they are padded, and the role of each tensor.

model.toml → engine/loading/manifest_file.py → `Manifest` → spec.py, which checks it against the graph

Each class is one section of the file, and each field one key, described in docs/manifest.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from . import lengths

TOKEN_TASK = "token-classification"
CTC_TASK = "ctc"
GENERATIVE_TASKS = ("generate", "translate")


@dataclass(frozen=True)
class TextSection:
    """`[text]`: the tokenizers, and the ids around a text. Paths are relative to the manifest."""

    source: str = ""  # tokenizer of the input; empty: requests send ids
    target: str = ""  # tokenizer of the generated text; empty: `source`
    begin: tuple[int, ...] = ()  # ids that generation starts from
    end: tuple[int, ...] = ()  # ids of which each ends a generated sequence


@dataclass(frozen=True)
class LengthSection:
    """`[lengths.NAME]`: a named length, which several tensors may share."""

    max: int


@dataclass(frozen=True)
class TensorSection:
    """`[inputs.NAME]` or `[outputs.NAME]`: the tensor's dynamic axes and its padding."""

    batch_axis: int | None = None
    lengths: Mapping[int, str] = field(default_factory=dict)  # axis -> named or computed length
    pad: float = 0
    range: tuple[int, int] | None = None  # valid ids, half-open
    generated: str = ""  # "mask", "lengths", "positions" or "zeros": filled in by the server
    of: str = ""  # the named length of a generated input
    real: float = 1  # the mask's value for elements that are not padding
    new: bool = (
        False  # a step's mask over a growing cache has one more element at its end, for that of the step
    )
    pooling: str = ""  # "mean", "first", "last" or "max": one vector of an output's one per element
    normalise: bool = False  # scale the vector to length 1
    overlap: int | None = None  # of a step's window of samples: how many of the window before it has too
    value: float | None = None  # of every element of a constant input: filled in by the server
    sizes: Mapping[int, int] = field(default_factory=dict)  # axis -> size, of axes that the graph leaves open
    position: int = -1  # of scores with a time axis: the position that counts; below 0 from the end
    encoder: str = ""  # of an input of the prefill graph: the output of the encoder graph that it takes

    @property
    def filled(self) -> bool:
        """Whether the server fills the input in unless the caller sends it."""
        return bool(self.generated) or self.value is not None or bool(self.encoder)


@dataclass(frozen=True)
class RolesSection:
    """`[roles]`: the names of the tensors that the server interprets."""

    input: str = ""
    scores: str = ""
    activation: str = "softmax"
    vector: str = ""
    attention: str = ""


@dataclass(frozen=True)
class BatchingSection:
    """`[batching]`: the limits of a run and of the time in the queue."""

    max_rows: int = 64
    max_padded_elements: int = 4096
    max_queue_ms: float = 500


@dataclass(frozen=True)
class InstancesSection:
    """`[instances]`: concurrent runs of the model."""

    count: int | None = None  # None: as many as raise throughput on the device
    threads: int = 1  # per run


@dataclass(frozen=True)
class GenerationSection:
    """`[generation]`: rules of the choice of tokens, and defaults of requests."""

    forced_first: int | None = None  # the first token of each text
    forced_last: int | None = None  # the last token that a request's limit allows
    forbidden: tuple[int, ...] = ()  # ids that are never generated
    forbidden_first: tuple[int, ...] = ()  # ids that are not the first token that is not forced
    min_tokens: int = 0  # no end id before as many tokens
    repetition_penalty: float = 1.0
    no_repeat: int = 0  # no sequence of as many ids occurs twice; 0: off
    beams: int = 1  # of requests that do not sample, and want nothing that a beam search has not
    length_penalty: float = 1.0
    early_stopping: bool = False

    @property
    def rules(self) -> bool:
        """Whether the scores of every text are changed."""
        forced = (self.forced_first, self.forced_last) != (None, None)
        return forced or bool(self.forbidden or self.forbidden_first)


@dataclass(frozen=True)
class EncoderSection:
    """`[encoder]`: the graph that reads the source before the prefill graph, which takes its outputs."""

    graph: str
    inputs: Mapping[str, TensorSection] = field(default_factory=dict)
    outputs: Mapping[str, TensorSection] = field(default_factory=dict)


@dataclass(frozen=True)
class PrefillSection:
    """`[prefill]`: the graph that reads a whole prompt or source in one run; after an encoder graph, it reads
    the ids that generation starts from."""

    graph: str
    inputs: Mapping[str, TensorSection] = field(default_factory=dict)
    outputs: Mapping[str, TensorSection] = field(default_factory=dict)


@dataclass(frozen=True)
class StateSection:
    """`[[stepwise.state]]`: a tensor that is carried from one step to the next."""

    name: str
    input: str
    output: str = ""  # the step graph's output with the next value; empty: unchanged
    prefill: str = ""  # the output of the prefill graph, or of the encoder graph, with the first value
    initial: float = 0.0  # the first value, in every element, without `prefill` and `file`
    file: str = ""  # the file with the first value: an array of one row, written by numpy.save
    batch_axis: int = 0
    lengths: Mapping[int, str] = field(default_factory=dict)  # axis -> named length
    grows: bool = False  # each step adds one element along its named length


@dataclass(frozen=True)
class StepwiseSection:
    """`[stepwise]`: the step-wise form of the model."""

    graph: str = "step.onnx"
    max_sequences: int = 256
    max_tokens: int = 512  # of a generation request that sets no limit
    max_tokens_limit: int = 65536  # the largest that a request may set
    idle_timeout_s: float = 60.0
    inputs: Mapping[str, TensorSection] = field(default_factory=dict)
    outputs: Mapping[str, TensorSection] = field(default_factory=dict)
    state: tuple[StateSection, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """The whole `model.toml`. A model without one gets `Manifest()`."""

    task: str = "tensor"  # or one of `TASKS` in manifest_file.py
    labels: tuple[str, ...] = ()
    blank: int | None = None  # of task ctc: the index of the score that stands for no label
    default_version: int | None = None
    fixed_shape: bool = False
    tolerance: float | None = None  # of the self-test; None: depends on the datatype
    text: TextSection | None = None
    lengths: Mapping[str, LengthSection] = field(default_factory=dict)
    computed: Mapping[str, str] = field(default_factory=dict)  # lengths of outputs: name -> formula
    inputs: Mapping[str, TensorSection] = field(default_factory=dict)
    outputs: Mapping[str, TensorSection] = field(default_factory=dict)
    roles: RolesSection = RolesSection()
    batching: BatchingSection = BatchingSection()
    instances: InstancesSection = InstancesSection()
    generation: GenerationSection = GenerationSection()
    encoder: EncoderSection | None = None
    prefill: PrefillSection | None = None
    stepwise: StepwiseSection | None = None
    from_file: bool = False  # False: there is no model.toml

    def length(self, name: str, known: Mapping[str, int]) -> int:
        """A length by its name, if it is known or computed from known ones.

        Raises:
            ValueError: its formula has no value for these, such as a fraction.
        """
        if name not in self.computed:
            return known[name]
        formula = lengths.parse(self.computed[name])
        return formula.value({other: self.length(other, known) for other in formula.names})

    def sources(self, name: str) -> set[str]:
        """The lengths of inputs that a length is computed from; itself, if it is one."""
        if name not in self.computed:
            return {name}
        return set().union(*map(self.sources, lengths.parse(self.computed[name]).names))

    @property
    def begin(self) -> tuple[int, ...]:
        return self.text.begin if self.text is not None else ()

    @property
    def end(self) -> tuple[int, ...]:
        return self.text.end if self.text is not None else ()

    @property
    def generates(self) -> bool:
        return self.task in ("generate", "translate")
