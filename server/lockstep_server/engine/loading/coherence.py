"""What must hold between the parts of one manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...model.manifest import Manifest, TensorSection


class Coherence:
    """The checks on one manifest; each raises LoadError with file, key and remedy."""

    def __init__(self, manifest: Manifest, file: str) -> None:
        self.manifest, self.file = manifest, file

    def check(self) -> None:
        manifest = self.manifest
        self.tensors("inputs", manifest.inputs)
        self.tensors("outputs", manifest.outputs, given=False)
        for place, graph in (("prefill.", manifest.prefill), ("stepwise.", manifest.stepwise)):
            if graph is not None:
                self.tensors(f"{place}inputs", graph.inputs)
                self.tensors(f"{place}outputs", graph.outputs, given=False)
        self.states()
        self.task()

    def fault(self, key: str, why: str) -> LoadError:
        return LoadError(f"{self.file}: {key}: {why}")

    def named(self, key: str, length: str) -> None:
        if length not in self.manifest.lengths:
            raise self.fault(key, f"no length is named {length!r}; add [lengths.{length}] with its max")

    def tensors(self, place: str, tensors: Mapping[str, TensorSection], *, given: bool = True) -> None:
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
            if len(state.lengths) > 1:
                raise self.fault(f"{key}.lengths", "a state varies along one axis at most; name one")
            if state.grows and not state.lengths:
                raise self.fault(f"{key}.grows", "it has no named length to grow along; add lengths")
            if state.lengths and not state.grows and not state.prefill:
                raise self.fault(
                    f"{key}.prefill",
                    "is missing; what has a named length begins in a prefill graph, or grows",
                )
            if state.grows and not state.output:
                raise self.fault(f"{key}.output", "is missing; what grows comes out of each step")

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
                "stepwise", f"is missing; a model that can {manifest.task} needs a step-wise form"
            )
        if manifest.text is not None and not manifest.text.source:
            raise self.fault("text.source", 'is missing; name the tokenizer: source = "tokenizer.json"')
