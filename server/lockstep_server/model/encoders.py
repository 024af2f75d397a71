"""The spec of an encoder graph, and of a prefill graph that takes its outputs.

A source → encoder graph → prefill graph, with the ids that a text begins with → the states of the first step
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import LoadError
from .numbers import check_generated_lengths
from .oneshot_spec import bind_tensor, check_names
from .roles import check_text_input
from .spec import ModelSpec

if TYPE_CHECKING:
    from .manifest import Manifest, StateSection
    from .spec import GraphSignature, ModelTensor


def encoder_spec(name: str, version: int, graph: GraphSignature, manifest: Manifest, file: str) -> ModelSpec:
    """Join an encoder graph with the manifest's `[encoder]`. `file` is its path for errors.

    Raises:
        LoadError: the manifest does not match the graph, or no input takes the ids of a source.
    """
    section = manifest.encoder
    assert section is not None
    check_names(section.inputs, graph.inputs, f"{file}: encoder.inputs")
    check_names(section.outputs, graph.outputs, f"{file}: encoder.outputs")
    spec = ModelSpec(
        name,
        version,
        manifest,
        tuple(bind_tensor(t, section.inputs, f"{file}: encoder.inputs") for t in graph.inputs),
        tuple(bind_tensor(t, section.outputs, f"{file}: encoder.outputs") for t in graph.outputs),
        mode="encoder",
        model=name,
    )
    if not spec.text_input:
        raise LoadError(
            f"{file}: encoder.inputs: one input must take the ids of the source; set generated for the others"
        )
    check_generated_lengths(spec.inputs, manifest, f"{file}: encoder.inputs")
    check_text_input(spec, file)
    return spec


def after_encoder(
    spec: ModelSpec, encoder: ModelSpec, states: tuple[StateSection, ...], file: str
) -> ModelSpec:
    """The spec of a prefill graph that takes outputs of the encoder graph, which may start states too.

    Raises:
        LoadError: the tensors of the graphs do not fit each other, or a length is unknown.
    """
    taken = {tensor.spec.encoder for tensor in spec.inputs if tensor.spec.encoder}
    if not taken:
        names = ", ".join(tensor.name for tensor in encoder.outputs)
        raise LoadError(
            f"{file}: prefill.inputs: no input takes an output of the encoder graph; set encoder to one of"
            f" {names}"
        )
    for tensor in spec.inputs:
        if tensor.spec.encoder:
            _check_taken(tensor, encoder, f"{file}: prefill.inputs.{tensor.name}")
    started = {state.prefill for state in states}
    own = {tensor.name for tensor in spec.outputs}
    passed = tuple(one for one in encoder.outputs if one.name in started and one.name not in own)
    spec = replace(spec, outputs=(*spec.outputs, *passed), encoder=encoder)
    _check_known_lengths(spec, encoder, file)
    return spec


def _check_taken(tensor: ModelTensor, encoder: ModelSpec, place: str) -> None:
    """Check that an input fits the output of the encoder graph that it takes."""
    output = encoder.output(tensor.spec.encoder)
    if output is None:
        names = ", ".join(one.name for one in encoder.outputs)
        raise LoadError(
            f"{place}.encoder: the encoder graph has no output {tensor.spec.encoder!r}; available: {names}"
        )
    if output.datatype != tensor.datatype:
        raise LoadError(
            f"{place}.encoder: output {output.name!r} has datatype {output.datatype}, the input has"
            f" {tensor.datatype}; make them equal in the graphs"
        )
    same = (tensor.spec.batch_axis, dict(tensor.spec.lengths)) == (
        output.spec.batch_axis,
        dict(output.spec.lengths),
    )
    if not same or len(output.shape) != len(tensor.shape):
        raise LoadError(
            f"{place}: batch_axis, lengths or the number of axes differ from those of"
            f" encoder.outputs.{output.name}; write the same values in both"
        )


def _check_known_lengths(spec: ModelSpec, encoder: ModelSpec, file: str) -> None:
    """Check that each length of the prefill graph is that of the source or of the ids of the beginning."""
    texts = (encoder.text_tensor, spec.text_tensor)
    known = {name for tensor in texts if tensor for name in tensor.spec.lengths.values()}
    for section, tensors in (("inputs", spec.inputs), ("outputs", spec.outputs)):
        for tensor in tensors:
            for name in (*tensor.spec.lengths.values(), *([tensor.spec.of] if tensor.spec.of else [])):
                if name not in known and tensor.spec.value is None:
                    raise LoadError(
                        f"{file}: prefill.{section}.{tensor.name}: length {name!r} is unknown before the"
                        f" first step; name it in the lengths of prefill.inputs.{spec.text_input}, which"
                        " takes text.begin, or of the encoder's ids"
                    )
