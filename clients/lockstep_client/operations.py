"""Definitions of the calls to `lockstep.v1.Operations`, and their results: what is served, and what ran.

arguments → `Call` or `StreamCall` → client.py → reply message → results. Counterpart of calls.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lockstep_client import arguments, protocol, replies
from lockstep_client.protocol import Call, StreamCall
from lockstep_client.results import TensorSpec, Timings
from lockstep_proto.v1 import operations_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


@dataclass(frozen=True)
class TensorForm(TensorSpec):
    """An input or output of a model, and what its axes are."""

    axes: tuple[str, ...] = ()
    """One for each axis: "batch", the name of a length, or "" for an axis of fixed size."""
    optional: bool = False
    """Whether requests may leave it out."""
    role: str = ""
    """What the server does with it: "input", "scores", "vector" or "attention"; empty: nothing."""


@dataclass(frozen=True)
class RunCost:
    """What a run costs, as the server has learned it."""

    rows: int
    length: int
    """Elements per row; 0 for a step."""
    seconds: float


@dataclass(frozen=True)
class ModelForm:
    """One form, one-shot or step-wise, of one version of a model."""

    name: str
    """In the tensor API: the model's name, or NAME.step for a step-wise form beside a one-shot form."""
    model: str
    version: str
    step_wise: bool
    task: str
    methods: tuple[str, ...]
    """The RPCs that answer with it."""
    reads_text: bool
    """Whether requests may send texts."""
    inputs: tuple[TensorForm, ...]
    outputs: tuple[TensorForm, ...]
    lengths: Mapping[str, int]
    """The largest value of each named length."""
    labels: tuple[str, ...]
    notice: str
    """A warning about how it is served."""
    max_rows: int
    """The most rows of a run; 1: not batched."""
    max_sequences: int
    """Step-wise only: the most sequences alive at one time."""
    costs: tuple[RunCost, ...]
    device: str
    load_s: float


@dataclass(frozen=True)
class Run:
    """One run of a model's session."""

    number: int
    """Counts the runs of all models since the engine started."""
    model: str
    version: str
    kind: str
    """ONE_SHOT, PREFILL, STEP or CLIENT_STEP."""
    begun: float
    """Unix time in seconds, on the server's clock."""
    rows: int
    """Rows with a request."""
    padded_rows: int
    length: int
    """Padded elements per row; 1 for a step of one element."""
    elements: int
    """Without padding."""
    padded_elements: int
    queue_s: float
    """The longest wait, since it was accepted, of a request whose first run it is."""
    device_wait_s: float
    input_s: float
    """Padding and stacking."""
    compute_s: float
    """In the session."""
    output_s: float
    """Cutting the outputs."""
    requests: tuple[str, ...]
    """The ids of the requests in it."""
    joined: tuple[str, ...]
    """Steps only: the requests that were not in the previous step of their batch."""
    left: tuple[str, ...]
    """Steps only: the requests that are not in the next one."""
    cold: bool
    """The first of its kind and shape since the model was loaded."""
    failed: bool

    @property
    def seconds(self) -> float:
        """Its whole duration."""
        return self.input_s + self.compute_s + self.output_s

    @property
    def padding(self) -> float:
        """The share of its elements that are padding, from 0 to 1."""
        return 1 - self.elements / self.padded_elements if self.padded_elements else 0.0


@dataclass(frozen=True)
class EndedRequest:
    """A request that has ended. A call with several texts has several."""

    model: str
    version: str
    method: str
    outcome: str
    """"ok", or the name of an error."""
    arrived: float
    """Unix time in seconds, on the server's clock."""
    seconds: float
    """From arrival to the end."""
    admission_s: float
    """From arrival until it was sent to the engine: tokenization."""
    timings: Timings
    length: int

    @property
    def request_id(self) -> str:
        """The id that its answer has in `timings`."""
        return self.timings.request_id


def describe(model: str = "", *, version: str = "", timeout_s: float | None = None) -> Call[list[ModelForm]]:
    """Describe a model, or all: task, tensors, labels, limits, costs. One entry per form and version.

        for form in client.describe("sentiment-lstm"):
            print(form.name, form.task, form.labels, form.methods)

    Raises Unsupported if the server is not Lockstep, ModelNotFound for an unknown model.
    """
    request = pb.DescribeRequest(model=model, version=version)
    return Call(protocol.DESCRIBE, request, _forms, timeout_s)


def runs(
    model: str = "", *, after: int = 0, follow: bool = False, timeout_s: float | None = None
) -> StreamCall[tuple[Run, ...], list[Run]]:
    """The latest runs of a model or of all, oldest first: what shared them, what they waited for, what they
    cost. Needs permission `admin`.

        for runs in client.runs("shakespeare-char-lstm"):
            for run in runs:
                print(run.number, run.kind, run.rows, run.compute_s)

    `after` leaves out runs up to that number. `follow` goes on with new runs until the stream is closed;
    pass an infinite `timeout_s` with it.
    """
    request = pb.RunsRequest(model=model, after=arguments.count("after", after), follow=follow)
    return StreamCall(protocol.RUNS, request, _runs, _joined, timeout_s)


def ended_requests(
    model: str = "",
    *,
    request_id: str = "",
    since_s: float = 0.0,
    limit: int = 1,
    timeout_s: float | None = None,
) -> Call[list[EndedRequest]]:
    """The requests that ended lately, slowest first, at most `limit`. Needs permission `admin`.

        [slowest] = client.ended_requests(since_s=60)
        print(slowest.model, slowest.seconds, slowest.timings.queue_s)

    `request_id` is that in the timings of an answer, the trace id of a `traceparent`, or the id of a tensor
    request. `since_s` leaves out those that ended earlier.
    """
    request = pb.RequestsRequest(
        model=model,
        id=arguments.text("request_id", request_id),
        since_seconds=arguments.seconds("since_s", since_s),
        limit=arguments.count_32("limit", limit),
    )
    return Call(protocol.REQUESTS, request, _ended, timeout_s)


def _forms(reply: pb.DescribeReply) -> list[ModelForm]:
    return [
        ModelForm(
            name=form.name,
            model=form.model,
            version=form.version,
            step_wise=form.step_wise,
            task=form.task,
            methods=tuple(form.methods),
            reads_text=form.reads_text,
            inputs=_tensors(form.inputs),
            outputs=_tensors(form.outputs),
            lengths={one.name: one.max for one in form.lengths},
            labels=tuple(form.labels),
            notice=form.notice,
            max_rows=form.max_rows,
            max_sequences=form.max_sequences,
            costs=tuple(RunCost(one.rows, one.length, one.seconds) for one in form.costs),
            device=form.device,
            load_s=form.load_seconds,
        )
        for form in reply.forms
    ]


def _tensors(sent: Iterable[pb.DescribedTensor]) -> tuple[TensorForm, ...]:
    return tuple(
        TensorForm(one.name, one.datatype, tuple(one.shape), tuple(one.axes), one.optional, one.role)
        for one in sent
    )


def _runs(reply: pb.RunsReply) -> tuple[Run, ...]:
    return tuple(map(_run, reply.runs))


def _run(run: pb.Run) -> Run:
    return Run(
        number=run.number,
        model=run.model,
        version=run.version,
        kind=pb.RunKind.Name(run.kind).removeprefix("RUN_KIND_") if run.kind in pb.RunKind.values() else "",
        begun=run.begun,
        rows=run.rows,
        padded_rows=run.padded_rows,
        length=run.length,
        elements=run.elements,
        padded_elements=run.padded_elements,
        queue_s=run.queue_seconds,
        device_wait_s=run.device_wait_seconds,
        input_s=run.input_seconds,
        compute_s=run.compute_seconds,
        output_s=run.output_seconds,
        requests=_ids(run.requests),
        joined=_ids(run.joined),
        left=_ids(run.left),
        cold=run.cold,
        failed=run.failed,
    )


def _ids(numbers: Iterable[int]) -> tuple[str, ...]:
    return tuple(f"{number:016x}" for number in numbers)


def _joined(parts: Sequence[tuple[Run, ...]]) -> list[Run]:
    return [run for part in parts for run in part]


def _ended(reply: pb.RequestsReply) -> list[EndedRequest]:
    return [
        EndedRequest(
            model=one.model,
            version=one.version,
            method=one.method,
            outcome=one.outcome,
            arrived=one.arrived,
            seconds=one.seconds,
            admission_s=one.admission_seconds,
            timings=replies.timings(one.timings),
            length=one.length,
        )
        for one in reply.requests
    ]
