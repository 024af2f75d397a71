"""Step-wise sequences: generation sequences (the server chooses each token) and client sequences
(the client sends each element). The makers turn a `Generate` or a `Step` message into one."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from ... import messages
from ...errors import bad_input
from ...model.spec import measure_request, text_inputs
from .beams import BeamSearch

if TYPE_CHECKING:
    from ...errors import ServingError
    from ...messages import SequenceId
    from ...model.datatypes import Arrays
    from ...model.spec import ModelSpec
    from ...text.detokenizer import TextStream
    from .slots import PoolRow


@dataclass(slots=True, eq=False)
class Sequence:
    """The fields of both kinds that the scheduler uses."""

    key: int  # of the request that started it
    accepted: float
    deadline: float | None = None
    priority: int = 0
    caller: str = ""
    start_tag: float = 0.0  # of fair queueing among callers: smaller is sooner
    has_slot: bool = False
    since: float = 0.0  # when it got its slot, or when a client sequence was last stepped
    max_slots: int = 0  # the most that its caller may have; 0: no limit
    granted: float = 0.0  # when it got its slot
    frozen: bool = False  # it takes no step while it is moved to another server

    @property
    def rows(self) -> int:
        """The rows that it takes in a run, and the slots."""
        return 1


@dataclass(slots=True, eq=False)
class GenerationSequence(Sequence):
    """An autoregressive sequence (Generate, Translate): prefill `prompt`, then generate tokens."""

    params: messages.Generate = field(kw_only=True)  # the request, for its sampling parameters
    prompt: tuple[int, ...] = ()
    context: tuple[
        int, ...
    ] = ()  # the ids that its text continues: the prompt, or the beginning of a translation
    chosen: list[int] = field(default_factory=list)  # what it has generated, if rules of its scores need that
    limit: int = 0  # most tokens to generate
    search: BeamSearch | None = None  # of a request with beams, which takes one row for each
    credits: int = messages.STREAM_CREDITS
    paused_at: float = 0.0  # when its reader ran out of credit
    text: TextStream | None = None
    states: Arrays | None = None  # while it has no row
    token: int = 0  # input of its next step
    generated: int = 0  # tokens
    emitted: list[int] = field(default_factory=list)  # the tokens that are not pending any more
    pending: PendingOutput = field(default_factory=lambda: PendingOutput())
    reported: bool = False  # a chunk has been sent
    first_run_at: float = 0.0  # when the first run with it started
    first_token_at: float = 0.0  # when its first chunk was emitted
    prefill_s: float = 0.0
    steps: int = 0
    compute_s: float = 0.0
    total_rows: int = 0  # rows in the batch, summed over its steps

    @property
    def rows(self) -> int:
        return self.search.beams if self.search is not None else 1

    @property
    def tokens(self) -> tuple[int, ...]:
        """All that it has generated, while it is in no batch."""
        return (*self.emitted, *self.pending.ids)

    def end_search(self) -> str:
        """Make the best text of its beam search its output. Returns the reason."""
        assert self.search is not None
        best = self.search.candidates()[0]
        self.pending.ids, self.generated = list(best.ids), len(best.ids)
        return best.reason

    @property
    def inspects_tokens(self) -> bool:
        """Whether each token must be processed when it is generated, not when it is reported."""
        return self.params.inspects_tokens


@dataclass(slots=True, eq=False)
class PendingOutput:
    """What a generation sequence has generated and not yet reported."""

    ids: list[int] = field(default_factory=list)
    text: str = ""  # only for sequences with stop strings
    log_probabilities: list[float] = field(default_factory=list)
    attention: list[Any] = field(default_factory=list)
    top: list[messages.TopTokens] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class StepRequest:
    """A request for one step of a client sequence."""

    key: int
    inputs: Arrays
    outputs: tuple[str, ...]
    accepted: float
    deadline: float | None
    sequence: ClientSequence
    dropped: bool = False  # cancelled or past its deadline: it will not run
    by_role: bool = False  # an output that is not finite is an error
    prompt: bool = False  # its inputs are those of the prefill graph

    @property
    def has_slot(self) -> bool:
        return self.sequence.has_slot


@dataclass(slots=True, eq=False)
class ClientSequence(Sequence):
    """A client-driven sequence (Follow, Open Inference requests with a `sequence_id`). It keeps its
    states between two steps."""

    id: SequenceId = ""
    waiting: deque[StepRequest] = field(default_factory=deque)
    closing: bool = False  # it ends once its waiting steps have run
    states: Arrays | PoolRow | None = None
    steps: int = 0


class FailedSequence(NamedTuple):
    """A request that ends with an error."""

    request: GenerationSequence | StepRequest
    error: ServingError


def make_generation_sequence(spec: ModelSpec, request: messages.Generate) -> GenerationSequence:
    """
    Raises:
        ServingError: BAD_INPUT, the prompt is empty or too long.
    """
    stepwise = spec.manifest.stepwise
    assert stepwise is not None
    prompt = _prompt(spec, request.field, request.prompt)
    reads_source = spec.manifest.task == "translate" or spec.reader.mode == "encoder"
    return GenerationSequence(
        request.key,
        request.accepted,
        request.deadline,
        request.priority,
        request.caller,
        max_slots=request.max_slots,
        params=request,
        prompt=prompt,
        context=spec.manifest.begin if reads_source else prompt,
        search=BeamSearch.of(request, spec.manifest.end),
        limit=stepwise.max_tokens if request.max_tokens is None else request.max_tokens,
        chosen=list(request.received),
        emitted=list(request.received),
        generated=len(request.received),
    )


def _prompt(spec: ModelSpec, field: str, ids: tuple[int, ...]) -> tuple[int, ...]:
    if not ids and spec.manifest.task == "generate" and spec.reader.mode != "encoder":
        ids = spec.manifest.begin
    if not ids:
        raise bad_input(field, "the text is empty and the model has no begin token; send at least one word")
    if spec.prefill is not None:
        reader = spec.prefill.reader
        measure_request(reader, text_inputs(reader, ids))  # refuses what is too long
        return ids
    for name in spec.growing_lengths:
        longest = spec.manifest.lengths[name].max
        if len(ids) > longest:
            why = f"the input has {len(ids)} elements, more than the model's limit of {longest}; shorten it"
            raise bad_input(field, why)
    return ids


def make_step_request(request: messages.Step) -> StepRequest:
    """Make a step request with a new client sequence. The scheduler replaces the new sequence by the
    live one with this id, unless the request starts a sequence."""
    sequence = ClientSequence(
        request.key,
        request.accepted,
        None,
        request.priority,
        request.caller,
        max_slots=request.max_slots,
        id=request.sequence,
    )
    return StepRequest(
        request.key,
        request.inputs,
        request.outputs,
        request.accepted,
        request.deadline,
        sequence,
        by_role=request.by_role,
        prompt=request.prompt,
    )
