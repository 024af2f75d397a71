"""Whether Generate and Translate can succeed: a generation at load, through the code that serves them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ... import messages
from ...errors import LoadError
from ..runtime.graph_errors import logged_fault
from ..stepwise import prefill
from ..stepwise.batch import StepBatch
from ..stepwise.sequence import GenerationSequence
from ..stepwise.slots import initial_states, key_of, lengths_of

if TYPE_CHECKING:
    from ...model.datatypes import Arrays
    from ...model.spec import ModelSpec
    from ..runtime.session import OnnxSession

_TOKENS = 2
"""The second step is the first one with the states that a step returned."""

_PROMPT_LENGTHS = (7, 1, 40)
"""In ids. One that works is enough: a graph may need a certain length."""


def check_generation(
    spec: ModelSpec, session: OnnxSession, prefill_session: OnnxSession | None, file: str
) -> None:
    """Generate tokens from one prompt, as a stream alone does. `file` is the manifest's path for errors.

    Raises:
        LoadError: the prefill or the step graph does not run on what the server feeds, or its outputs cannot
            be read.
    """
    section = "prefill"
    try:
        output = _prompt_outputs(spec, prefill_session)
        section = "stepwise"
        _generate(spec, session, output)
    except Exception as error:
        raise LoadError(
            f"{file}: {section}: the graph does not run on what task {spec.manifest.task} feeds:"
            f" {logged_fault(error)}; make its inputs and this section fit each other"
        ) from error


def _prompt_outputs(spec: ModelSpec, session: OnnxSession | None) -> Arrays | None:
    """The outputs of the prefill graph for a prompt, None without such a graph.

    Raises:
        Exception: that of the first prompt, if no prompt works.
    """
    if spec.prefill is None or session is None:
        return None
    graph, first = replace(spec.prefill, batched=False), None
    for length in _PROMPT_LENGTHS:
        try:
            (output,) = prefill.run(graph, session, [prefill.prompt_of(graph, [_first_id(graph)] * length)])
            prefill.first_scores(graph, output)
        except Exception as error:
            first = first or error
        else:
            return output
    assert first is not None
    raise first


def _generate(spec: ModelSpec, session: OnnxSession, output: Arrays | None) -> None:
    states = initial_states(spec, output)
    request = messages.Generate(key=0, model=spec.name, version=spec.version, prompt=(), temperature=0)
    sequence = GenerationSequence(
        0, 0.0, params=request, limit=_TOKENS + 1, states=states, token=_first_id(spec), reported=True
    )
    scores = prefill.first_scores(spec.prefill, output) if spec.prefill is not None and output else None
    if scores is not None:
        prefill.sample_first_token(sequence, scores, spec.manifest)
    batch = StepBatch(spec, key_of(spec, lengths_of(spec, states)), graphs=session.state_graphs)
    batch.add(sequence, 1)
    for _ in range(_TOKENS):
        batch.sample_tokens(batch.step(session), 0.0)


def _first_id(spec: ModelSpec) -> int:
    tensor = spec.text_tensor
    return tensor.spec.range[0] if tensor is not None and tensor.spec.range else 0
