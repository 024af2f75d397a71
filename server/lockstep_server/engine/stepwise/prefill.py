"""Prefill: prompts and sources → one padded run of the prefill graph → outputs of each, without padding."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ... import messages
from ...model.cost_model import moving_average
from ...model.spec import measure_request, text_inputs
from ..runtime import padding
from ..runtime.batching import RowMismatch, check_rows
from ..runtime.verification import Recheck, shapes_of
from . import sampler
from .beams import log_softmax
from .score_rules import ScoreRules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ...model.datatypes import Arrays
    from ...model.manifest import Manifest
    from ...model.spec import ModelSpec
    from ..runtime.batching import Batching
    from ..runtime.session import OnnxSession
    from ..runtime.verification import Verifier
    from .sequence import GenerationSequence

    Array = np.ndarray[Any, Any]

_LEARNING_RATE = 0.1


class Prompt(NamedTuple):
    """The prompt of one sequence as inputs of the prefill graph, and its source as those of an encoder."""

    inputs: Arrays
    rows: int
    lengths: tuple[int, ...]
    source: Arrays | None = None

    @property
    def size(self) -> int:
        return max(sum(self.lengths), 1)


def prompt_of(prefill: ModelSpec, ids: Sequence[int], begin: Sequence[int] = ()) -> Prompt:
    """The prompt of one sequence. After an encoder graph, which reads `ids`, the prefill graph reads `begin`,
    by default the manifest's."""
    if prefill.encoder is None:
        inputs = text_inputs(prefill, ids)
        return Prompt(inputs, 1, measure_request(prefill, inputs).lengths)
    source, inputs = text_inputs(prefill.encoder, ids), text_inputs(prefill, begin or prefill.manifest.begin)
    sizes = measure_request(prefill.encoder, source).lengths, measure_request(prefill, inputs).lengths
    return Prompt(inputs, 1, tuple(map(max, *sizes)), source)


def run(spec: ModelSpec, session: OnnxSession, prompts: Sequence[Prompt]) -> list[Arrays]:
    """Run prompts together. Returns the outputs of each: states and, if the graph has them, scores.

    Raises:
        RowMismatch: an output does not have one row per prompt.
        Exception: whatever the session raises.
    """
    lengths = tuple(max(column) for column in zip(*(prompt.lengths for prompt in prompts), strict=True))
    feeds = padding.stack(spec, prompts, len(prompts), lengths)
    encoded = _encode(spec, session, prompts, lengths)
    feeds.update((one.name, encoded[one.spec.encoder]) for one in spec.inputs if one.spec.encoder)
    outputs = dict(zip(session.output_names, session.run(feeds), strict=True))
    outputs.update((one.name, encoded[one.name]) for one in spec.outputs if one.name not in outputs)
    if len(prompts) == 1 and not spec.batched:
        return [outputs]
    return padding.cut(replace(spec, batched=True), outputs, prompts, lengths)


def _encode(
    spec: ModelSpec, session: OnnxSession, prompts: Sequence[Prompt], lengths: tuple[int, ...]
) -> Arrays:
    """The outputs of the encoder graph for all sources, padded; empty without such a graph."""
    if spec.encoder is None or session.encoder is None:
        return {}
    sources = [prompt._replace(inputs=prompt.source or {}) for prompt in prompts]
    feeds = padding.stack(spec.encoder, sources, len(prompts), lengths)
    outputs = dict(zip(session.encoder.output_names, session.encoder.run(feeds), strict=True))
    for tensor in spec.encoder.outputs:
        if tensor.spec.batch_axis is not None:
            check_rows(tensor.name, outputs[tensor.name], tensor.spec.batch_axis, len(prompts))
    return outputs


class PrefillRunner:
    """Runs prompts between two steps, within a time budget, because running sequences wait meanwhile."""

    def __init__(
        self,
        spec: ModelSpec,
        session: OnnxSession,
        batching: Batching,
        clock: Callable[[], float],
        verifier: Verifier | None = None,
    ) -> None:
        self._spec, self._session, self._batching, self._clock = spec, session, batching, clock
        self._verifier = verifier
        self._s_per_element = 0.0  # moving average

    @property
    def max_rows(self) -> int:
        """The most prompts in a run."""
        is_batched = self._spec.batched and self._batching.allowed
        return self._spec.manifest.batching.max_rows if is_batched else 1

    def choose(
        self, waiting: Iterable[GenerationSequence], max_run_s: float | None
    ) -> list[GenerationSequence]:
        """Choose the first of `waiting` whose prompts fit into one run; at least one.

        Args:
            max_run_s: budget of the run in seconds; None is unlimited.
        """
        bounds = self._spec.manifest.batching
        max_rows = self.max_rows
        max_elements = float(bounds.max_padded_elements)
        if max_run_s is not None and self._s_per_element:
            max_elements = min(max_elements, max_run_s / self._s_per_element)
        chosen: list[GenerationSequence] = []
        prompts: set[tuple[int, ...]] = set()
        longest = 0
        for sequence in waiting:
            longest, rows = (
                max(longest, len(sequence.prompt)),
                len(prompts) + (sequence.prompt not in prompts),
            )
            if chosen and (rows > max_rows or longest * rows > max_elements):
                break
            chosen.append(sequence)
            prompts.add(sequence.prompt)
        return chosen

    def run(self, chosen: Sequence[GenerationSequence], waited_s: float) -> tuple[list[Arrays], messages.Run]:
        """Run the prompts of `chosen`, equal ones once. Returns their outputs, in order, and the run.

        Raises:
            RowMismatch: an output does not have one row per prompt; batching is withdrawn.
            Exception: whatever the session raises.
        """
        places = {prompt: place for place, prompt in enumerate(dict.fromkeys(one.prompt for one in chosen))}
        prompts = [prompt_of(self._spec, prompt) for prompt in places]
        outputs, run, begun = self.run_prompts(prompts, waited_s)
        for sequence in chosen:
            sequence.first_run_at, sequence.prefill_s = begun, run.compute_s
        return [outputs[places[sequence.prompt]] for sequence in chosen], run

    def run_prompts(
        self, prompts: Sequence[Prompt], waited_s: float
    ) -> tuple[list[Arrays], messages.Run, float]:
        """Run prompts together. Returns their outputs, in order, the run, and when it began.

        Raises: as `run`.
        """
        begun = self._clock()
        try:
            outputs = run(self._spec, self._session, prompts)
        except RowMismatch as mismatch:
            self._batching.withdraw(mismatch.message)
            raise
        took = self._clock() - begun
        if self._verifier is not None and len(prompts) > 1 and self._verifier.is_due(took):
            self._verifier.collected += self._rechecks(prompts, outputs)
        longest = max(prompt.size for prompt in prompts)
        padded = longest * len(prompts)
        measured = took / padded
        self._s_per_element = moving_average(self._s_per_element or measured, measured, _LEARNING_RATE)
        counted = messages.Run(
            rows=len(prompts),
            length=longest,
            elements=sum(prompt.size for prompt in prompts),
            padded_elements=padded,
            compute_s=took,
            device_wait_s=waited_s,
            mode="prefill",
        )
        return outputs, counted, begun

    def _rechecks(self, prompts: Sequence[Prompt], outputs: Sequence[Arrays]) -> list[Recheck]:
        alone, shared = replace(self._spec, batched=False), replace(self._spec, batched=True)
        return [
            Recheck(
                output,
                partial(run, alone, self._session, [prompt]),
                partial(run, shared, self._session, [prompt] * len(prompts)),
                shapes_of(prompt.source or prompt.inputs),
            )
            for prompt, output in zip(prompts, outputs, strict=True)
        ]


def first_scores(spec: ModelSpec, output: Arrays) -> Array | None:
    """The scores [1, tokens] of the token that follows a prompt, from the prefill graph's outputs for it, cut
    to its length; None if the graph has no scores."""
    tensor = spec.output(spec.manifest.roles.scores)
    if tensor is None:
        return None
    return sampler.next_scores(output[tensor.name], tensor.spec.batch_axis, 1, tensor.spec.position)


def _ruled(sequence: GenerationSequence, scores: Array, manifest: Manifest) -> Array:
    rules = ScoreRules(manifest, 1)
    rules.fill(0, sequence)
    return rules.apply(scores, np.zeros(1, np.int64)) if rules.sequences else scores


def start_search(sequence: GenerationSequence, scores: Array, manifest: Manifest) -> str:
    """Choose the first token of each beam, from the prefill's scores [1, tokens].

    Returns the reason if the search ends with it, else "".

    Raises:
        ServingError: FAILED, the scores are not finite.
    """
    assert sequence.search is not None
    if not np.isfinite(scores.max()):
        raise sampler.NO_TOKEN
    sequence.search.advance(_ruled(sequence, log_softmax(scores), manifest), sequence.limit)
    return sequence.end_search() if sequence.search.done else ""


def sample_first_token(sequence: GenerationSequence, scores: Array, manifest: Manifest) -> str:
    """Sample the token that follows a prompt, from the prefill's scores [1, tokens].

    Returns the reason if the sequence ends with it, else "".

    Raises:
        ServingError: FAILED, the scores are not finite.
    """
    params = sequence.params
    sampling = sampler.SamplingParameters.of(1)
    sampling.set(0, params.temperature, params.top_k, params.top_p)
    u = sampler.uniform(sampler.spread_one(params.seed), np.zeros(1, np.uint64))
    tokens = sampler.sample(_ruled(sequence, scores, manifest), u, sampling)
    token = sequence.token = int(tokens[0])
    if token < 0:
        raise sampler.NO_TOKEN
    sequence.generated = 1
    sequence.chosen.append(token)
    sequence.pending.ids.append(token)
    if token in manifest.end:
        return "end"
    if params.log_probabilities:
        sequence.pending.log_probabilities.append(float(sampler.log_probabilities(scores, tokens)[0]))
    if params.top:
        sequence.pending.top += sampler.top_tokens(scores, [params.top])
    if params.attention:
        sequence.pending.attention.append(np.zeros(0, np.float32))  # prefill graphs have no attention output
    if params.stop and sequence.text is not None:
        sequence.pending.text += sequence.text.add((token,))
        if sequence.text.stopped:
            return "stop"
    return "length" if sequence.generated >= sequence.limit else ""
