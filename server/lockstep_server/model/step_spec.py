"""The spec of a step-wise model.

step graph + prefill graph and encoder graph (optional) + `Manifest` → `make_step_spec` → `ModelSpec`

The graph's state tensors are in `states`; `inputs` and `outputs` hold the other tensors of a step, and
`prefill` the spec of the prefill graph, whose `encoder` is that of the encoder graph.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import LoadError
from . import encoders
from .datatypes import EXACT_INTEGERS, from_onnx, holds
from .manifest import TensorSection
from .numbers import check_generated_lengths
from .oneshot_spec import bind_tensor, check_names, infer_batch_axis
from .prompts import check_prompt
from .roles import check_next_scores, check_outputs, check_text_input, shape_of
from .spec import GraphTensor, ModelSpec, ModelTensor, StateTensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .manifest import Manifest, StateSection, StepwiseSection
    from .spec import GraphSignature


def make_step_spec(
    name: str,
    version: int,
    graph: GraphSignature,
    prefill: GraphSignature | None,
    manifest: Manifest,
    file: str,
    encoder: GraphSignature | None = None,
) -> ModelSpec:
    """Join the graphs with the manifest's `[stepwise]`, `[prefill]` and `[encoder]`. `file` is its path for
    errors.

    Raises:
        LoadError: the manifest does not match the graphs: a tensor is missing, or its type or axes differ.
    """
    stepwise = manifest.stepwise
    assert stepwise is not None
    prefill_spec = None
    if prefill is not None:
        encoder_spec = encoders.encoder_spec(name, version, encoder, manifest, file) if encoder else None
        prefill_spec = _prefill_spec(name, version, prefill, manifest, encoder_spec, file)
    states = _states(graph, stepwise, prefill_spec, file)
    spec = ModelSpec(
        name,
        version,
        manifest,
        inputs=(),
        outputs=(),
        mode="stepwise",
        model=name,
        states=states,
        prefill=prefill_spec,
    )
    spec = _with_tensors(spec, graph, stepwise, file)
    spec = _with_one_token(spec, file)
    check_prompt(spec, file)
    _check_roles(spec, file)
    return replace(spec, unpadded=_uncounted(spec))


def _uncounted(spec: ModelSpec) -> tuple[str, ...]:
    """The lengths of caches that no input of a step counts: the graph would take padding for elements."""
    counted = {tensor.spec.of for tensor in spec.inputs if tensor.spec.generated in ("mask", "lengths")}
    return tuple(name for name in spec.growing_lengths if name not in counted)


def _with_tensors(spec: ModelSpec, graph: GraphSignature, stepwise: StepwiseSection, file: str) -> ModelSpec:
    """Add the inputs and outputs of a step that are not states."""
    state_inputs = {state.input for state in stepwise.state}
    state_outputs = {state.output for state in stepwise.state if state.output}
    graph_inputs = [tensor for tensor in graph.inputs if tensor.name not in state_inputs]
    ignored = _prefill_only(spec.manifest, stepwise)
    graph_outputs = [one for one in graph.outputs if one.name not in state_outputs | ignored]
    check_names(stepwise.inputs, graph_inputs, f"{file}: stepwise.inputs")
    check_names(stepwise.outputs, graph_outputs, f"{file}: stepwise.outputs")
    inputs = tuple(bind_tensor(t, stepwise.inputs, f"{file}: stepwise.inputs") for t in graph_inputs)
    outputs = tuple(bind_tensor(t, stepwise.outputs, f"{file}: stepwise.outputs") for t in graph_outputs)
    if not stepwise.inputs and not stepwise.outputs:
        inputs, outputs = infer_batch_axis(inputs, outputs)
    state_lengths = {name for state in spec.states for name in state.spec.lengths.values()}
    known = set(state_lengths)
    if spec.manifest.task not in ("generate", "translate"):  # whose steps take one token
        sent = [tensor for tensor in inputs if not tensor.spec.filled]
        known |= {name for tensor in sent for name in tensor.spec.lengths.values()}
    for tensor in inputs:
        if tensor.spec.of and tensor.spec.of not in known:
            raise LoadError(
                f"{file}: stepwise.inputs.{tensor.name}.of: no state has the length {tensor.spec.of!r}, nor"
                f" an input that callers send; available: {', '.join(sorted(known)) or 'none'}"
            )
        _check_growth(tensor, spec, f"{file}: stepwise.inputs.{tensor.name}")
        _check_overlap(tensor, f"{file}: stepwise.inputs.{tensor.name}")
        for name in tensor.spec.lengths.values():
            if tensor.spec.value is not None and name not in state_lengths:
                raise LoadError(
                    f"{file}: stepwise.inputs.{tensor.name}.lengths: no state has the length {name!r};"
                    f" available: {', '.join(sorted(state_lengths)) or 'none'}"
                )
    check_generated_lengths(inputs, spec.manifest, f"{file}: stepwise.inputs")
    fetched = tuple(one.name for one in graph.outputs if one.name not in ignored) if ignored else ()
    return replace(spec, inputs=inputs, outputs=outputs, fetched=fetched)


def _prefill_only(manifest: Manifest, stepwise: StepwiseSection) -> set[str]:
    """The outputs of a graph for prompts and steps that only its prompts have: they start states that a step
    carries unchanged. A merged decoder returns its cross-attention caches empty in a step."""
    if manifest.prefill is None or manifest.prefill.graph != stepwise.graph:
        return set()
    started = {state.prefill for state in stepwise.state if state.prefill and not state.output}
    return started - stepwise.outputs.keys()


def _with_one_token(spec: ModelSpec, file: str) -> ModelSpec:
    """Fix the free axes of the token input to 1, as of [batch, sequence]: a step takes one id of each row.

    Raises:
        LoadError: the graph fixes such an axis to another size.
    """
    token, manifest = spec.text_tensor, spec.manifest
    if token is None or not (manifest.text or manifest.generates):
        return spec
    batch_axis = token.spec.batch_axis
    shape = tuple(
        size if axis == batch_axis or isinstance(size, int) else 1 for axis, size in enumerate(token.shape)
    )
    if any(isinstance(size, int) and size != 1 for axis, size in enumerate(shape) if axis != batch_axis):
        raise LoadError(
            f"{file}: stepwise.inputs.{token.name}: shape {shape_of(token)} takes several ids a step; make"
            " it [batch], [batch, 1] or [batch, sequence] in the graph"
        )
    fixed = replace(token, shape=shape)
    return replace(spec, inputs=tuple(fixed if tensor is token else tensor for tensor in spec.inputs))


def _check_growth(tensor: ModelTensor, spec: ModelSpec, place: str) -> None:
    """Check an input that counts the elements so far: a cache counts them."""
    section = tensor.spec
    if section.generated != "positions" and not section.new:
        return
    if section.of not in spec.growing_lengths:
        raise LoadError(
            f"{place}.of: no state grows along {section.of!r}, so its elements are not counted; name one of"
            f" {', '.join(spec.growing_lengths) or 'a state with grows = true'}"
        )
    if section.generated == "positions" and (section.batch_axis is None or len(tensor.shape) > 2):
        raise LoadError(
            f"{place}.batch_axis: positions {shape_of(tensor)} differ between the rows of a step; make them"
            " [batch] or [batch, sequence] and name the axis of the rows"
        )


def _check_overlap(tensor: ModelTensor, place: str) -> None:
    """Check that an input whose windows overlap is a window of a fixed number of samples."""
    overlap = tensor.spec.overlap
    sizes = [size for axis, size in enumerate(tensor.shape) if axis != tensor.spec.batch_axis]
    if overlap is None:
        return
    if tensor.spec.batch_axis is None or len(sizes) != 1 or not isinstance(sizes[0], int):
        raise LoadError(
            f"{place}.overlap: shape {shape_of(tensor)} is no window of samples, [batch, samples]; give the"
            " axis a size: sizes = {1 = 512}"
        )
    if overlap >= sizes[0]:
        raise LoadError(f"{place}.overlap: {overlap} of a window of {sizes[0]}; use less than the window")


def _prefill_spec(
    name: str,
    version: int,
    graph: GraphSignature,
    manifest: Manifest,
    encoder: ModelSpec | None,
    file: str,
) -> ModelSpec:
    """The spec of the prefill graph. If it takes states as a step does, it starts from their first values; an
    output that starts a state has the state's axes, unless the manifest says otherwise."""
    section, stepwise = manifest.prefill, manifest.stepwise
    assert section is not None
    assert stepwise is not None
    states = stepwise.state
    for state in states:
        if state.file and any(tensor.name == state.input for tensor in graph.inputs):
            raise LoadError(
                f"{file}: stepwise.state[{state.name}].file: the prefill graph takes this state too, and"
                " starts it from a number; remove this key, or the input from the prefill graph"
            )
    first = {
        state.input: TensorSection(
            state.batch_axis, value=state.initial, sizes=dict.fromkeys(state.lengths, 0)
        )
        for state in states
    }
    prefilled = {
        state.prefill: TensorSection(state.batch_axis, state.lengths) for state in states if state.prefill
    }
    check_names(section.inputs, graph.inputs, f"{file}: prefill.inputs")
    check_names(section.outputs, graph.outputs, f"{file}: prefill.outputs")
    spec = ModelSpec(
        name,
        version,
        manifest,
        tuple(bind_tensor(t, {**first, **section.inputs}, f"{file}: prefill.inputs") for t in graph.inputs),
        tuple(
            bind_tensor(t, {**prefilled, **section.outputs}, f"{file}: prefill.outputs")
            for t in graph.outputs
        ),
        mode="prefill",
        model=name,
    )
    if manifest.generates and not spec.text_input:
        raise LoadError(
            f"{file}: prefill.inputs: exactly one input must take the token ids; set generated for the others"
        )
    check_generated_lengths(spec.inputs, manifest, f"{file}: prefill.inputs")
    if encoder is not None:
        return encoders.after_encoder(spec, encoder, states, file)
    check_text_input(spec, file)
    return spec


def _states(
    graph: GraphSignature, stepwise: StepwiseSection, prefill: ModelSpec | None, file: str
) -> tuple[StateTensor, ...]:
    inputs = {tensor.name: tensor for tensor in graph.inputs}
    outputs = {tensor.name: tensor for tensor in graph.outputs}
    if not stepwise.state:
        raise LoadError(f"{file}: stepwise.state: missing; add one [[stepwise.state]] per state")
    return tuple(_state(state, inputs, outputs, prefill, file) for state in stepwise.state)


def _state(
    section: StateSection,
    inputs: Mapping[str, GraphTensor],
    outputs: Mapping[str, GraphTensor],
    prefill: ModelSpec | None,
    file: str,
) -> StateTensor:
    place = f"{file}: stepwise.state[{section.name}]"
    if section.input not in inputs:
        raise LoadError(
            f"{place}.input: the step graph has no input {section.input!r}; available: {_names(inputs)}"
        )
    if section.output and section.output not in outputs:
        raise LoadError(
            f"{place}.output: the step graph has no output {section.output!r}; available: {_names(outputs)}"
        )
    tensor = inputs[section.input]
    converted = from_onnx(tensor.onnx_type)
    if converted is None or converted[0] == "BYTES":
        raise LoadError(
            f"{place}.input: a state cannot have type {tensor.onnx_type}; use a numeric tensor in the graph"
        )
    datatype, _ = converted
    if not holds(datatype, section.initial):
        raise LoadError(f"{place}.initial: {datatype} cannot hold {section.initial:g}; use another value")
    _check_axes(tensor, section, place)
    if section.output and outputs[section.output].onnx_type != tensor.onnx_type:
        raise LoadError(
            f"{place}.output: output {section.output!r} has type {outputs[section.output].onnx_type},"
            f" input {section.input!r} has {tensor.onnx_type}; make them equal in the graph"
        )
    if section.output:
        _check_output_shape(tensor, outputs[section.output], section, place)
    if section.prefill and prefill is not None:
        _check_prefill(section, prefill, datatype, place)
    return StateTensor(datatype, tensor.shape, section)


def _check_axes(tensor: GraphTensor, section: StateSection, place: str) -> None:
    rank = len(tensor.shape)
    for axis in (section.batch_axis, *section.lengths):
        if axis >= rank:
            raise LoadError(
                f"{place}: axis {axis} does not exist; {tensor.name!r} has {rank} axes in the graph"
            )
        if isinstance(tensor.shape[axis], int):
            raise LoadError(
                f"{place}: axis {axis} of {tensor.name!r} is fixed to {tensor.shape[axis]} in the graph;"
                " export the model with a dynamic axis"
            )
    for axis, size in enumerate(tensor.shape):
        if not isinstance(size, int) and axis != section.batch_axis and axis not in section.lengths:
            raise LoadError(
                f"{place}: axis {axis} of {tensor.name!r} is dynamic; fix its size in the graph,"
                " or name its length in lengths"
            )


def _check_output_shape(tensor: GraphTensor, output: GraphTensor, section: StateSection, place: str) -> None:
    """Check that the shape after a step is that before it, as far as the graph fixes both."""
    for axis, (size, output_size) in enumerate(zip(tensor.shape, output.shape, strict=False)):
        dynamic = axis == section.batch_axis or axis in section.lengths
        if not dynamic and isinstance(size, int) and isinstance(output_size, int) and size != output_size:
            raise LoadError(
                f"{place}.output: axis {axis} of output {section.output!r} is {output_size}, axis {axis} of"
                f" input {section.input!r} is {size}; make them equal in the graph"
            )
    if len(tensor.shape) != len(output.shape):
        raise LoadError(
            f"{place}.output: output {section.output!r} has {len(output.shape)} axes, input {section.input!r}"
            f" has {len(tensor.shape)}; make them equal in the graph"
        )


def _check_prefill(section: StateSection, prefill: ModelSpec, datatype: str, place: str) -> None:
    tensor = prefill.output(section.prefill)
    if tensor is None:
        names = ", ".join(one.name for one in prefill.outputs)
        raise LoadError(
            f"{place}.prefill: the prefill graph has no output {section.prefill!r}; available: {names}"
        )
    if tensor.datatype != datatype:
        raise LoadError(
            f"{place}.prefill: output {section.prefill!r} has datatype {tensor.datatype}, the state has"
            f" {datatype}; make them equal in the graphs"
        )
    if tensor.spec.batch_axis != section.batch_axis or dict(tensor.spec.lengths) != dict(section.lengths):
        raise LoadError(
            f"{place}: batch_axis or lengths differ from those of prefill.outputs.{section.prefill};"
            " write the same values in both"
        )


def check_roles_without_oneshot(spec: ModelSpec, file: str) -> None:
    """Check the outputs named in `[roles]`, if there is no one-shot graph: `roles.check_outputs`.

    Raises:
        LoadError: the step graph has no such output, or one of another shape.
    """
    check_outputs(spec, file)


def _check_roles(spec: ModelSpec, file: str) -> None:
    manifest, roles = spec.manifest, spec.manifest.roles
    if manifest.generates:
        if spec.output(roles.scores) is None:
            names = ", ".join(tensor.name for tensor in spec.outputs)
            raise LoadError(
                f"{file}: roles.scores: name the step graph's output with the scores; available: {names}"
            )
        if not spec.text_input:
            raise LoadError(f"{file}: roles.input: name the step graph's input that takes the token id")
        if roles.input and not any(one.input(roles.input) for one in (spec, spec.prefill) if one):
            raise LoadError(f"{file}: roles.input: no graph has an input {roles.input!r}; correct the name")
        for graph in (spec, spec.prefill, spec.reader):
            if graph is not None:
                _check_fed(graph, file)
        _check_token(spec, file)
        check_next_scores(spec, f"{file}: stepwise.outputs")
        if spec.prefill is not None:
            check_next_scores(spec.prefill, f"{file}: prefill.outputs")
        if roles.attention and spec.output(roles.attention) is None:
            raise LoadError(
                f"{file}: roles.attention: the step graph has no output {roles.attention!r}; correct the name"
            )
    has_begin = bool(manifest.begin)
    prefill_scores = spec.prefill is not None and spec.prefill.output(roles.scores) is not None
    if manifest.task == "generate" and spec.prefill is not None and not (prefill_scores or has_begin):
        raise LoadError(
            f"{file}: text.begin: missing; the prefill graph has no output {roles.scores!r}, so name the id"
            " that follows a prompt"
        )
    if manifest.task == "translate" and spec.prefill is None:
        raise LoadError(f"{file}: prefill: missing; task translate needs a prefill graph for the source")
    if manifest.task == "translate" and not has_begin:
        raise LoadError(f"{file}: text.begin: missing; name the id that a translation starts from")


def _check_fed(spec: ModelSpec, file: str) -> None:
    """Check that Generate and Translate can feed every input of a graph: they send ids and nothing else."""
    for tensor in spec.inputs:
        if tensor.name == spec.text_input or tensor.spec.filled or tensor.optional:
            continue
        remedy = "set generated or value"
        if spec.mode == "prefill":
            remedy += ", or encoder for an output of the encoder graph"
        if spec.is_stepwise:
            remedy += ", or name it as the input of a [[stepwise.state]]"
        raise LoadError(
            f"{file}: {spec.mode}.inputs.{tensor.name}: task {spec.manifest.task} feeds the ids"
            f" {spec.text_input!r} only, so every request would fail; {remedy}"
        )


def _check_token(spec: ModelSpec, file: str) -> None:
    """The step graph's token input takes every id that may be generated."""
    token, scores = spec.text_tensor, spec.output(spec.manifest.roles.scores)
    if token is None or scores is None:
        return
    place = f"{file}: stepwise.inputs.{token.name}"
    largest = EXACT_INTEGERS.get(token.datatype, (0, -1))[1]
    width = scores.shape[-1] if scores.shape else None
    if largest < 0 or (isinstance(width, int) and width - 1 > largest):
        raise LoadError(
            f"{place}: {token.datatype} cannot hold the ids of {width} scores; use INT64 or INT32 in the"
            " graph"
        )
    first, end = token.spec.range or (0, largest + 1)
    end = min(end, width) if isinstance(width, int) else end
    generation = spec.manifest.generation
    forced = {"forced_first": generation.forced_first, "forced_last": generation.forced_last}
    ids = [("text.begin", begin) for begin in spec.manifest.begin]
    ids += [(f"generation.{key}", forced_id) for key, forced_id in forced.items() if forced_id is not None]
    for key, each in ids:
        if not first <= each < end:
            raise LoadError(
                f"{file}: {key}: {each} is no id of input {token.name!r}; use one from {first} to {end - 1}"
            )


def _names(tensors: Mapping[str, GraphTensor]) -> str:
    return ", ".join(tensors)
