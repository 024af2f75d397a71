"""Checks between the sections of a manifest, after each section has been checked by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import LoadError
from ...model import lengths
from ...model.manifest import GenerationSection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...model.manifest import Manifest, TensorSection


class Coherence:
    """The checks of one manifest. Each raises LoadError with the file, the key and how to fix it."""

    def __init__(self, manifest: Manifest, file: str) -> None:
        self._manifest, self._file = manifest, file

    def check(self) -> None:
        manifest = self._manifest
        self._check_formulas()
        self._check_tensors("inputs", manifest.inputs)
        self._check_tensors("outputs", manifest.outputs, inputs=False)
        for prefix, graph in (
            ("encoder.", manifest.encoder),
            ("prefill.", manifest.prefill),
            ("stepwise.", manifest.stepwise),
        ):
            if graph is not None:
                self._check_tensors(f"{prefix}inputs", graph.inputs)
                self._check_tensors(f"{prefix}outputs", graph.outputs, inputs=False)
        self._check_states()
        self._check_task()

    def _error(self, key: str, why: str) -> LoadError:
        return LoadError(f"{self._file}: {key}: {why}")

    def _check_formulas(self) -> None:
        known = {*self._manifest.lengths}
        for name, formula in self._manifest.computed.items():
            key = f"lengths.{name}" if name != formula else f"the length {name!r} of an output"
            if unknown := sorted(lengths.parse(formula).names - known):
                why = f"no length {unknown[0]!r} above it; available: {', '.join(sorted(known)) or 'none'}"
                raise self._error(key, why)
            known.add(name)

    def _check_length(self, key: str, length: str, *, computed: bool = False) -> None:
        if length in self._manifest.lengths or (computed and length in self._manifest.computed):
            return
        if length in self._manifest.computed:
            raise self._error(key, f"the length {length!r} is computed, which only an output's can be")
        formula = "" if length.isidentifier() else "; a formula can stand here for an output only"
        try:
            lengths.parse(length)
        except ValueError as error:
            formula = f"; in a formula, {error}"
        raise self._error(key, f"unknown length {length!r}; add [lengths.{length}] with its max{formula}")

    def _check_tensors(
        self, prefix: str, tensors: Mapping[str, TensorSection], *, inputs: bool = True
    ) -> None:
        for name, tensor in tensors.items():
            key = f"{prefix}.{name}"
            self._check_axes(key, tensor.batch_axis, tensor.lengths, computed=not inputs)
            if tensor.generated and not inputs:
                raise self._error(f"{key}.generated", "only an input can be generated; remove this key")
            for option in ("value", "sizes"):
                if getattr(tensor, option) not in (None, {}) and not inputs:
                    raise self._error(f"{key}.{option}", "only an input can have it; remove this key")
            if tensor.value is not None and (tensor.generated or name == self._manifest.roles.input):
                other = "generated" if tensor.generated else "roles.input"
                raise self._error(f"{key}.value", f"the input has {other} too; remove one of them")
            for axis in tensor.sizes:
                if axis == tensor.batch_axis or axis in tensor.lengths:
                    raise self._error(f"{key}.sizes", f"axis {axis} varies by the manifest; use another axis")
            if tensor.encoder:
                self._check_encoder_input(prefix, key, tensor)
            if tensor.generated and not tensor.of:
                raise self._error(f"{key}.of", "missing; name the length that the input is generated from")
            if tensor.of:
                self._check_length(f"{key}.of", tensor.of)
            if tensor.generated == "zeros" and prefix == "stepwise.inputs":
                why = 'a step takes "mask", "lengths" or "positions"; use one of them, or value = 0'
                raise self._error(f"{key}.generated", why)
            if tensor.overlap is not None and prefix != "stepwise.inputs":
                raise self._error(f"{key}.overlap", "only an input of a step can have it; remove this key")
            if tensor.new and not (tensor.generated == "mask" and prefix == "stepwise.inputs"):
                raise self._error(f"{key}.new", "only the generated mask of a step has it; remove this key")
            if tensor.position != -1 and (inputs or name != self._manifest.roles.scores):
                raise self._error(
                    f"{key}.position", "only the output of roles.scores has it; remove this key"
                )
            for option in ("pooling", "normalise"):
                is_vector = prefix == "outputs" and name == self._manifest.roles.vector
                if getattr(tensor, option) and not is_vector:
                    raise self._error(
                        f"{key}.{option}", "only the output of roles.vector has it; remove this key"
                    )

    def _check_encoder_input(self, prefix: str, key: str, tensor: TensorSection) -> None:
        if prefix != "prefill.inputs" or self._manifest.encoder is None:
            why = "only an input of the prefill graph takes an output of the encoder graph; remove this key"
            if prefix == "prefill.inputs":
                why = "there is no encoder graph; add [encoder] or remove this key"
            raise self._error(f"{key}.encoder", why)
        if tensor.generated or tensor.value is not None:
            other = "generated" if tensor.generated else "value"
            raise self._error(f"{key}.encoder", f"the input has {other} too; remove one of them")

    def _check_axes(
        self, key: str, batch_axis: int | None, named: Mapping[int, str], *, computed: bool = False
    ) -> None:
        for axis, length in named.items():
            self._check_length(f"{key}.lengths", length, computed=computed)
            if axis == batch_axis:
                raise self._error(f"{key}.lengths", f"axis {axis} is the batch axis; use another axis")
        if named and batch_axis is None:
            raise self._error(f"{key}.batch_axis", "missing; a tensor with a named length needs one")

    def _check_states(self) -> None:
        stepwise, seen = self._manifest.stepwise, set()
        for state in stepwise.state if stepwise else ():
            key = f"stepwise.state[{state.name}]"
            self._check_axes(key, state.batch_axis, state.lengths)
            for field, name in (("input", state.input), ("output", state.output), ("name", state.name)):
                if name and (field, name) in seen:
                    raise self._error(
                        f"{key}.{field}", f"another state has the same {field} {name!r}; use each only once"
                    )
                seen.add((field, name))
            if state.prefill and self._manifest.prefill is None:
                raise self._error(f"{key}.prefill", "no prefill graph; add [prefill] or remove this key")
            if state.file and (state.prefill or state.initial):
                other = "prefill" if state.prefill else "initial"
                raise self._error(f"{key}.file", f"the state has {other} too; remove one of them")
            if len(state.lengths) > 1:
                raise self._error(f"{key}.lengths", "a state can vary along one axis at most; name one axis")
            if state.grows and not state.lengths:
                raise self._error(f"{key}.grows", "no named length to grow along; add lengths")
            if state.lengths and not (state.grows or state.prefill or state.file):
                raise self._error(
                    f"{key}.prefill",
                    "missing; a state with a named length needs prefill, file, or grows = true",
                )
            if state.grows and not state.output:
                raise self._error(f"{key}.output", "missing; a state that grows needs an output")

    def _check_task(self) -> None:
        manifest = self._manifest
        if manifest.task in ("classify", "token-classification"):
            if not manifest.roles.scores:
                raise self._error("roles.scores", "missing; name the output that holds the labels' scores")
            if not manifest.labels:
                raise self._error("labels", "missing; list the labels in the order of the scores")
        if manifest.task == "token-classification" and manifest.stepwise is not None:
            raise self._error("task", "token-classification has no step-wise form; remove [stepwise]")
        if manifest.task == "encode" and not manifest.roles.vector:
            raise self._error("roles.vector", "missing; name the output that holds the vector")
        if manifest.generates and manifest.stepwise is None:
            raise self._error("stepwise", f"missing; task {manifest.task} needs a step-wise form")
        if manifest.generation != GenerationSection() and not manifest.generates:
            raise self._error("generation", "only task generate or translate has it; remove this section")
        if manifest.encoder is not None and not (manifest.generates and manifest.prefill is not None):
            why = "only a model of task generate or translate with a prefill graph has one; remove [encoder]"
            raise self._error("encoder", why)
        if manifest.encoder is not None and not manifest.begin:
            why = (
                "missing; name the id that a decoder starts from, decoder_start_token_id of its configuration"
            )
            raise self._error("text.begin", why)
        if manifest.task == "ctc":
            self._check_ctc()
        elif manifest.blank is not None:
            raise self._error("blank", f"task {manifest.task} has none; remove this key")
        elif manifest.text is not None and not manifest.text.source and not manifest.generates:
            raise self._error("text.source", 'missing; name the tokenizer: source = "tokenizer.json"')

    def _check_ctc(self) -> None:
        manifest = self._manifest
        text = manifest.text
        if not manifest.roles.scores:
            raise self._error("roles.scores", "missing; name the output that holds the scores of each label")
        if manifest.blank is None:
            raise self._error("blank", "missing; write the index of the blank among the scores: blank = 0")
        if bool(manifest.labels) == bool(text and text.target):
            why = 'list the text of each score, or name their tokenizer: text.target = "tokenizer.json"'
            raise self._error("labels", f"{why}; one of both")
        if manifest.labels and manifest.blank >= len(manifest.labels):
            why = f"{manifest.blank} is no index of the {len(manifest.labels)} labels"
            raise self._error("blank", f"{why}; list the blank among the labels, under any name")
        if text and (text.source or text.begin or text.end):
            raise self._error("text", "task ctc reads no text; keep only text.target")
