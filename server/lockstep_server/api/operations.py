"""`lockstep.v1.Operations`: what is served, and what ran lately, for operators and tools."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

from lockstep_proto.v1 import operations_pb2 as pb
from lockstep_proto.v1 import operations_pb2_grpc

from ..frontend.callers import current
from ..frontend.registry import methods_of
from . import metadata
from .replies import timings_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .. import messages
    from ..frontend.recorder import EndedRequest, Recorder
    from ..frontend.registry import ModelRegistry
    from ..frontend.requests import InFlightRequests
    from ..frontend.served_model import ServedModel
    from ..model.spec import ModelSpec, ModelTensor
    from .status import Context

_FOLLOW_S = 0.25
"""How often the engine is asked for new runs."""

_KINDS = {
    "one-shot": pb.RUN_KIND_ONE_SHOT,
    "prefill": pb.RUN_KIND_PREFILL,
    "step": pb.RUN_KIND_STEP,
    "client-step": pb.RUN_KIND_CLIENT_STEP,
}
_LENGTHS, _ROWS = (8, 32, 128, 512), (1, 8, 64)
"""Sizes of runs whose costs are described, beside the largest."""


class Operations(operations_pb2_grpc.OperationsServicer):
    def __init__(self, registry: ModelRegistry, requests: InFlightRequests, recorder: Recorder) -> None:
        self._registry, self._requests, self._recorder = registry, requests, recorder

    async def Describe(self, request: pb.DescribeRequest, context: Context) -> pb.DescribeReply:
        registry = self._registry
        if request.model:
            served = registry.resolve(request.model, request.version)
            step = registry.get(f"{request.model}.step", served.spec.version)
            found = [served, *([step] if step is not None and step.spec.model == request.model else [])]
        else:
            registry.check_listed()
            found = [one for one in registry.served_models() if current.get().may_use(one.spec.name)]
        return pb.DescribeReply(forms=[_form(one, registry.device) for one in found])

    async def Runs(self, request: pb.RunsRequest, context: Context) -> None:
        may_use, after = current.get().may_use, request.after
        while not self._requests.draining:
            answer = await self._recorder.runs(after, request.model)
            runs = [self._run(one) for one in answer.records if may_use(one.model)]
            if runs:
                await context.write(pb.RunsReply(runs=runs))
            if answer.records:
                after = answer.records[-1].number
            if answer.more:
                continue
            if not request.follow:
                return
            await asyncio.sleep(_FOLLOW_S)

    async def Requests(self, request: pb.RequestsRequest, context: Context) -> pb.RequestsReply:
        found = self._recorder.requests.find(
            request.model, request.id, request.since_seconds, current.get().may_use
        )
        return pb.RequestsReply(requests=map(self._ended, found[: request.limit or 1]))

    def _run(self, record: messages.RunRecord) -> pb.Run:
        run = record.run
        return pb.Run(
            number=record.number,
            model=record.model,
            version=str(record.version),
            kind=_KINDS[record.kind],
            begun=self._recorder.epoch + record.begun,
            rows=record.rows,
            padded_rows=run.padded_elements // max(run.length, 1),
            length=run.length,
            elements=run.elements,
            padded_elements=run.padded_elements,
            queue_seconds=record.queue_s,
            device_wait_seconds=run.device_wait_s,
            input_seconds=run.input_s,
            compute_seconds=run.compute_s,
            output_seconds=run.output_s,
            requests=record.requests,
            joined=record.joined,
            left=record.left,
            cold=record.cold,
            failed=record.failed,
        )

    def _ended(self, request: EndedRequest) -> pb.EndedRequest:
        return pb.EndedRequest(
            model=request.model,
            version=str(request.version),
            method=request.method,
            outcome=request.outcome,
            arrived=self._recorder.epoch + request.arrived,
            seconds=request.seconds,
            admission_seconds=request.admission_s,
            timings=timings_of(request.key, request.timings),
            length=request.length,
        )


def _form(served: ServedModel, device: str) -> pb.ModelForm:
    spec, manifest = served.spec, served.spec.manifest
    return pb.ModelForm(
        name=spec.name,
        model=spec.model,
        version=str(spec.version),
        step_wise=spec.is_stepwise,
        task=manifest.task,
        methods=methods_of(spec),
        reads_text=served.vocabulary is not None,
        inputs=[_tensor(spec, tensor) for tensor in metadata.listed_inputs(spec)],
        outputs=[_tensor(spec, tensor) for tensor in spec.outputs],
        lengths=[pb.DescribedLength(name=name, max=one.max) for name, one in manifest.lengths.items()],
        labels=manifest.labels,
        notice=spec.notice,
        max_rows=manifest.batching.max_rows if spec.batched else 1,
        max_sequences=served.slots,
        costs=_costs(served),
        device=device,
        load_seconds=served.load_s,
    )


def _tensor(spec: ModelSpec, tensor: ModelTensor) -> pb.DescribedTensor:
    roles = spec.manifest.roles
    role = {spec.text_input: "input", roles.scores: "scores", roles.vector: "vector"}
    shape = metadata.wire_shape(spec, tensor)
    axes = dict(tensor.spec.lengths)
    if tensor.spec.batch_axis is not None:
        axes[tensor.spec.batch_axis] = "batch"
    return pb.DescribedTensor(
        name=tensor.name,
        datatype=tensor.datatype,
        shape=shape,
        axes=[axes.get(axis, "") for axis in range(len(shape))],
        optional=tensor.optional,
        role=(role | {roles.attention: "attention"}).get(tensor.name, ""),
    )


def _costs(served: ServedModel) -> Iterator[pb.DescribedCost]:
    """What runs cost: of a one-shot form at a few sizes, of a step-wise one at the rows that it has had."""
    spec = served.spec
    if spec.is_stepwise:
        for rows, seconds in sorted(served.step_costs.items()):
            yield pb.DescribedCost(rows=rows, seconds=seconds)
        return
    for length in _lengths(spec):
        most = spec.most_rows(length)
        for rows in sorted({*(one for one in _ROWS if one < most), most}):
            seconds = served.admission.run_s(rows, length)
            yield pb.DescribedCost(rows=rows, length=length, seconds=seconds)


def _lengths(spec: ModelSpec) -> list[int]:
    """Elements per row; of a model without named lengths those of its inputs, none if their size is open."""
    if spec.manifest.lengths:
        longest = sum(one.max for one in spec.manifest.lengths.values())
        return [*(one for one in _LENGTHS if one < longest), min(longest, 2 * _LENGTHS[-1])]
    sizes: list[Any] = []
    for tensor in spec.inputs:
        axes = [size for axis, size in enumerate(tensor.shape) if axis != tensor.spec.batch_axis]
        if not all(isinstance(size, int) for size in axes):
            return []
        sizes.append(math.prod(size for size in axes if isinstance(size, int)))
    return [max(sizes, default=1)]
