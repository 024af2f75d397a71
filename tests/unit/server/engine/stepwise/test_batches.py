"""Batching changes no token, whichever sequences are added, removed, paused or fail."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import fakes
import numpy as np
import pytest
import steps
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from unit.server.engine.stepwise import step_models
from unit.server.engine.stepwise.step_models import (
    FakeSession,
    Generated,
    Runner,
    StepModel,
    open_folder,
    open_model,
    ready_sequence,
    unbatched,
)

from lockstep_server.engine.runtime.device import CPU, Device, DeviceArray
from lockstep_server.engine.stepwise import sampler

if TYPE_CHECKING:
    from pathlib import Path

    from lockstep_server.engine.stepwise.batch import StepBatch
    from lockstep_server.engine.stepwise.sequence import GenerationSequence

Array = np.ndarray[Any, Any]

pytestmark = pytest.mark.usefixtures("kept")

PARAMS: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 0.0},
    {"temperature": 0.8},
    {"top_k": 3},
    {"temperature": 1.5, "top_p": 0.7},
    {"repetition_penalty": 1.5, "presence_penalty": 0.5},
    {"no_repeat": 2, "min_tokens": 4, "forbidden": (3,)},
)

BEAMS: tuple[dict[str, Any], ...] = (
    {"beams": 2},
    {"beams": 3, "no_repeat": 2},
    {"beams": 3, "repetition_penalty": 1.5, "early_stopping": True, "length_penalty": 0.5},
)
"""For runs of three rows at least."""


def draw_prompt(model: StepModel, data: Any, max_rows: int) -> tuple[list[int], dict[str, Any]]:
    """A prompt and its sampling parameters; long ones need another bucket, and caches grow into the next."""
    longest = 30 if model.spec.manifest.lengths.get("source") else 18
    prompt = data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=longest))
    params = data.draw(st.sampled_from((*PARAMS, *BEAMS) if max_rows >= 3 else PARAMS))
    return prompt, {
        **params,
        "seed": data.draw(st.integers(-(2**63), 2**64)),
        "limit": data.draw(st.integers(1, 25)),
    }


@pytest.mark.parametrize(
    ("kind", "padding_invariant"),
    [
        ("language", False),
        ("forced", False),
        ("ending", False),
        ("translator", False),
        ("translator", True),
        ("cache", False),
        ("cache", True),
        ("kept", False),
        ("alone", True),
    ],
)
@settings(max_examples=12)
@given(data=st.data())
def test_batching_changes_no_token(kind: str, padding_invariant: bool, data: Any) -> None:
    """Random joins, cancels, pauses and steps, in runs of few and many rows, with one block per bucket
    or one block for all lengths."""
    model = open_model(kind)
    model = replace(model, spec=replace(model.spec, padding_invariant=padding_invariant))
    max_rows = data.draw(st.sampled_from([1, 3, 4, 64]))
    runner = Runner(model, max_rows)
    requests: dict[GenerationSequence, tuple[list[int], dict[str, Any]]] = {}
    paused: list[GenerationSequence] = []
    for _ in range(data.draw(st.integers(5, 30))):
        match data.draw(st.sampled_from(["join", "join", "step", "step", "cancel", "pause", "resume"])):
            case "join":
                prompt, params = draw_prompt(model, data, max_rows)
                sequence = ready_sequence(model, prompt, **params)
                requests[sequence] = (prompt, params)
                runner.add(sequence)
            case "cancel" if runner.running:
                gone = data.draw(st.sampled_from(list(runner.running)))
                runner.remove(gone)
                del requests[gone]
            case "pause" if runner.running:
                paused.append(data.draw(st.sampled_from(list(runner.running))))
                runner.pause(paused[-1])
            case "resume" if paused:
                runner.add(paused.pop(data.draw(st.integers(0, len(paused) - 1))))
            case _:
                runner.step()
    for sequence in paused:
        runner.add(sequence)
    runner.run()
    runner.batches.tidy()
    assert len(runner.batches) == 0
    assert runner.failed == {}
    for sequence, (prompt, params) in requests.items():
        again = ready_sequence(model, prompt, **params)
        assert runner.generated[sequence] == unbatched(open_model(kind), again)


# --- prompts ----------------------------------------------------------------------------------------


def generate_directly(model: StepModel, prompt: list[int], seed: int, count: int) -> list[int]:
    """Call the session directly: step the prompt, then each sampled token."""
    h = c = np.zeros((1, 1, 16), np.float32)
    ids: list[int] = []
    parameters = sampler.SamplingParameters.of(1)
    parameters.set(0)
    seed_bits = sampler.spread_one(seed)
    inputs_left = list(prompt)
    while len(ids) < count:
        logits, h, c = model.session.run({"token": np.array([inputs_left.pop(0)]), "h_in": h, "c_in": c})
        if not inputs_left:
            u = sampler.uniform(seed_bits, np.array([len(ids)], np.uint64))
            ids.append(int(sampler.sample(logits, u, parameters)[0]))
            inputs_left.append(ids[-1])
    return ids


@pytest.mark.parametrize("prompt", [[1], [1, 5, 9], list(range(1, 20))])
def test_a_prompt_without_prefill_is_forced_and_not_part_of_the_output(prompt: list[int]) -> None:
    model = open_model("forced")
    output = unbatched(model, ready_sequence(model, prompt, seed=7, limit=10))
    assert output == Generated(generate_directly(model, prompt, 7, 10), "length")


def test_forced_prompts_of_different_lengths_share_steps() -> None:
    model, runner = open_model("forced"), Runner(open_model("forced"))
    prompts = [[1], [2, 3, 4], [5] * 9, list(range(1, 20))]
    sequences = [ready_sequence(model, prompt, seed=i, limit=8) for i, prompt in enumerate(prompts)]
    for sequence in sequences:
        runner.add(sequence)
    runner.run()
    for i, (sequence, prompt) in enumerate(zip(sequences, prompts, strict=True)):
        assert runner.generated[sequence].ids == generate_directly(model, prompt, i, 8)


def test_a_pause_within_a_forced_prompt_forces_the_rest_after_resuming() -> None:
    model = open_model("forced")
    runner, sequence = Runner(model), ready_sequence(model, [1, 5, 9, 2, 4], seed=3, limit=6)
    runner.add(sequence)
    runner.step()
    runner.step()
    runner.pause(sequence)
    assert sequence.prompt == (9, 2, 4)
    runner.add(sequence)
    runner.run()
    assert runner.generated[sequence].ids == generate_directly(model, [1, 5, 9, 2, 4], 3, 6)


# --- ends -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_a_sequence_ends_at_its_limit(limit: int) -> None:
    model = open_model("forced")
    output = unbatched(model, ready_sequence(model, [1, 2], seed=1, limit=limit))
    assert (len(output.ids), output.reason) == (limit, "length")


def test_the_end_token_ends_a_sequence_and_is_its_last_token() -> None:
    model = open_model("ending")
    reasons = set()
    for seed in range(20):
        output = unbatched(model, ready_sequence(model, [3], seed=seed, limit=30))
        reasons.add(output.reason)
        assert (2 in output.ids) == (output.reason == "end")
        assert 2 not in output.ids[:-1]
    assert reasons == {"end", "length"}


def test_an_end_token_in_a_prompt_does_not_end_the_sequence() -> None:
    model = open_model("ending")
    sequence = ready_sequence(model, [2, 2, 2], seed=1, limit=3)
    assert unbatched(model, sequence).ids


def test_an_end_token_at_the_limit_counts_as_an_end() -> None:
    model = open_model("ending")
    seed, count = next(
        (seed, len(output.ids))
        for seed in range(50)
        if (output := unbatched(model, ready_sequence(model, [3], seed=seed, limit=30))).reason == "end"
    )
    assert unbatched(model, ready_sequence(model, [3], seed=seed, limit=count)).reason == "end"


def test_a_stop_string_ends_only_its_own_sequence() -> None:
    model = open_model("forced")
    unstopped = unbatched(model, ready_sequence(model, [1], seed=5, limit=25)).ids
    assert model.vocabulary is not None
    letters = "".join(model.vocabulary.names(unstopped))
    stop = letters[6:8]
    runner = Runner(model)
    stopped = ready_sequence(model, [1], seed=5, limit=25, stop=(stop,))
    other = ready_sequence(model, [1], seed=5, limit=25)
    runner.add(stopped)
    runner.add(other)
    runner.run()
    output = runner.generated[stopped]
    assert output == Generated(unstopped[: letters.index(stop) + 2], "stop")
    assert stopped.pending.text == letters[: letters.index(stop)]
    assert runner.generated[other].ids == unstopped


def test_log_probabilities_are_the_models_own_one_per_token() -> None:
    model, runner = open_model("forced"), Runner(open_model("forced"))
    sequence = ready_sequence(model, [1, 4], seed=2, limit=5, log_probabilities=True, temperature=0.5)
    beside = ready_sequence(model, [1, 4], seed=9, limit=9)
    runner.add(sequence)
    runner.add(beside)
    runner.run()
    h = c = np.zeros((1, 1, 16), np.float32)
    expected = []
    ids = runner.generated[sequence].ids
    for token, sampled in zip([1, 4, *ids], [None, *ids], strict=False):
        logits, h, c = model.session.run({"token": np.array([token]), "h_in": h, "c_in": c})
        if sampled is not None:
            wide = logits[0].astype(np.float64)
            expected.append(wide[sampled] - np.log(np.exp(wide).sum()))
    np.testing.assert_allclose(sequence.pending.log_probabilities, expected, atol=1e-9)
    assert beside.pending.log_probabilities == []


def test_attention_rows_cover_the_sequences_source_and_sum_to_one() -> None:
    model, runner = open_model("translator"), Runner(open_model("translator"))
    sequences = [ready_sequence(model, [3] * n, seed=n, limit=6, attention=True) for n in (1, 5, 14, 30)]
    for sequence in sequences:
        runner.add(sequence)
    runner.run()
    for sequence, n in zip(sequences, (1, 5, 14, 30), strict=True):
        output = runner.generated[sequence]
        assert len(sequence.pending.attention) == len(output.ids) - (output.reason == "end")
        for row in sequence.pending.attention:
            assert row.shape == (n,)
            assert row.sum() == pytest.approx(1, abs=1e-5)


def test_a_full_cache_ends_only_its_own_sequence() -> None:
    """The manifest allows 40 elements, including the prompt."""
    model, runner = open_model("cache"), Runner(open_model("cache"))
    full = ready_sequence(model, [1] * 30, seed=1, limit=99)
    other = ready_sequence(model, [1], seed=1, limit=12)
    runner.add(full)
    runner.add(other)
    runner.run()
    assert (runner.generated[full].reason, len(runner.generated[full].ids)) == ("full", 11)
    assert (runner.generated[other].reason, len(runner.generated[other].ids)) == ("length", 12)


def test_the_position_of_the_manifest_is_the_one_that_counts(tmp_path: Path) -> None:
    """A step returns two rows of scores, of which the second is for something else."""
    graph = steps.language_step()
    graph.graph.node.extend(
        [
            helper.make_node("Neg", ["logits"], ["other"]),
            helper.make_node("Unsqueeze", ["logits", "axis"], ["one"]),
            helper.make_node("Unsqueeze", ["other", "axis"], ["two"]),
            helper.make_node("Concat", ["one", "two"], ["both"], axis=1),
        ]
    )
    graph.graph.initializer.append(fakes.constant("axis", [1], np.int64))
    graph.graph.output[0].CopyFrom(fakes.tensor("both", shape=("n", 2, len(steps.TOKENS))))
    manifest = re.sub('prefill = ".0"\n', "", steps.LANGUAGE).replace("logits", "both")
    manifest = manifest.replace("outputs.both]", "outputs.both]\nposition = 0")
    model = open_folder(steps.write(tmp_path, "both", manifest, {"step.onnx": graph}, steps.characters()))
    found = unbatched(model, ready_sequence(model, [3, 4], seed=5))
    assert found == unbatched(open_model("forced"), ready_sequence(open_model("forced"), [3, 4], seed=5))


@pytest.mark.parametrize("kind", ["language", "translator", "cache", "kept", "alone"])
def test_tokens_do_not_depend_on_where_states_are_kept(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [[1 + seed % 9] * (1 + seed % 12) for seed in range(9)]
    generated = []
    for device in (CPU, Device(states="device")):
        monkeypatch.setattr(step_models.kept, "device", device)
        model = open_model(kind)
        assert (model.session.state_graphs is None) == (device is CPU)
        runner = Runner(model)
        more: list[dict[str, Any]] = [{"seed": seed, **PARAMS[seed % 4]} for seed in range(8)]
        for prompt, params in zip(prompts, [*more, BEAMS[2]], strict=True):
            runner.add(ready_sequence(model, prompt, **params))
            runner.step()
        runner.run()
        generated.append([each.ids for each in runner.generated.values()])
    assert generated[0] == generated[1]


# --- values on the device ---------------------------------------------------------------------------


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    if step_models.kept.device is CPU:
        monkeypatch.setattr(step_models.kept, "device", Device(states="device"))


def batch_of(model: StepModel, count: int, **params: Any) -> tuple[Runner, StepBatch]:
    runner = Runner(model)
    for seed in range(count):
        runner.add(ready_sequence(model, [3, 4], seed=seed, limit=999, **params))
    (batch,) = runner.batches
    return runner, batch


@pytest.mark.usefixtures("on_device")
@pytest.mark.parametrize("kind", ["forced", "translator", "kept", "alone"])
def test_steps_use_the_same_memory_again(kind: str) -> None:
    """Two sets of values, which one step writes and the next reads, or one that elements are written to."""
    runner, batch = batch_of(open_model(kind), 3)
    for _ in range(4):
        runner.step()
    bound = dict(batch.block._states._bindings._bound)
    assert 1 <= len(bound) <= 2
    held = batch.block.nbytes
    for _ in range(6):
        runner.step()
    assert batch.block._states._bindings._bound == bound
    assert batch.block.nbytes == held


@pytest.mark.usefixtures("on_device")
@pytest.mark.parametrize(
    ("params", "stay"),
    [
        ({}, True),
        ({"top_k": 3, "stop": ("zz",)}, True),
        ({"log_probabilities": True}, False),
        ({"top": 2}, False),
        ({"forbidden": (3,)}, False),
        ({"beams": 2}, False),
    ],
)
def test_scores_stay_on_the_device_if_only_the_sampler_needs_them(params: dict[str, Any], stay: bool) -> None:
    model = open_model("forced")
    runner, batch = batch_of(model, 2)
    asking = ready_sequence(model, [3], **params)
    runner.add(asking)
    for _ in range(3):
        outputs = batch.step(model.session)
        assert isinstance(outputs["logits"], DeviceArray) is stay
        batch.sample_tokens(outputs, 0.0)
    runner.remove(asking)
    assert isinstance(batch.step(model.session)["logits"], DeviceArray)
    assert not isinstance(batch.step(model.session, observed=True)["logits"], DeviceArray)


class Uncapturable:
    """A session in which runs with kept bindings fail, as where another thread disturbs a capture."""

    def __init__(self, session: Any) -> None:
        self._session, self.failed, self.stopped = session, 0, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, feeds: Any, outputs: Any = None, kept: Any = None, bindings: Any = None) -> Any:
        if bindings is not None:
            self.failed += 1
            raise RuntimeError("CUDA error 900: operation not permitted when stream is capturing")
        return self._session.run(feeds, outputs, kept)

    def stop_capturing(self, error: Exception) -> None:
        assert "900" in str(error)
        self.stopped += 1


@pytest.mark.usefixtures("on_device")
@pytest.mark.parametrize("kind", ["forced", "alone"])
def test_a_step_that_cannot_be_captured_runs_without_and_loses_nothing(kind: str) -> None:
    model = open_model(kind)
    session = Uncapturable(model.session)
    runner = Runner(model, session=session)
    sequence = ready_sequence(model, [3, 4], seed=5, limit=20)
    runner.add(sequence)
    runner.run()
    assert runner.generated[sequence] == unbatched(model, ready_sequence(model, [3, 4], seed=5, limit=20))
    assert session.failed == session.stopped > 0
    assert session.failed <= 2  # once for each block


# --- failures ---------------------------------------------------------------------------------------


class Fragile(FakeSession):
    """A session that fails if any row contains a certain token."""

    def __init__(self, model: StepModel, poison: int) -> None:
        self._session, self._poison = model.session, poison
        self.output_names = model.session.output_names

    def answer(self, feeds: dict[str, Array]) -> list[Array]:
        if (feeds["token"] == self._poison).any():
            raise RuntimeError("poisoned")
        return self._session.run(feeds)


POISON = 9


def test_a_search_whose_rows_may_not_share_a_run_any_more_ends() -> None:
    """A stream beside it goes on alone, also if batching ended before either was in a batch."""
    model = open_model("forced")
    runner = Runner(model)
    early, late = (ready_sequence(model, [3, 4], beams=4, limit=12) for _ in range(2))
    stream = ready_sequence(model, [3, 4], seed=5, limit=12)
    runner.add(early)
    runner.add(stream)
    runner.step()
    runner.batches._batching.withdraw("rows are mixed")
    runner.add(late)
    runner.run()
    assert "the model is not batched" in str(runner.failed[early])
    assert "the model is not batched" in str(runner.failed[late])
    assert runner.generated[stream] == unbatched(model, ready_sequence(model, [3, 4], seed=5, limit=12))


@pytest.mark.parametrize("kind", ["forced", "translator", "cache"])
def test_a_failing_step_fails_only_sequences_that_also_fail_unbatched(kind: str) -> None:
    model = open_model(kind)
    runner = Runner(model, session=Fragile(model, POISON))
    requests = {ready_sequence(model, [3, 1 + i], seed=i, limit=12): i for i in range(12)}
    for sequence in requests:
        runner.add(sequence)
    runner.run()
    poisoned = 0
    for sequence, i in requests.items():
        unstopped = unbatched(model, ready_sequence(model, [3, 1 + i], seed=i, limit=12))
        inputs = ([3, 1 + i] if kind != "translator" else [1]) + unstopped.ids[:-1]
        if POISON not in inputs:
            assert runner.generated[sequence] == unstopped
        else:
            poisoned += 1
            assert sequence in runner.failed
            assert "poisoned" in str(runner.failed[sequence])
            assert runner.generated[sequence].ids == unstopped.ids[: len(runner.generated[sequence].ids)]
    assert 0 < poisoned < 12


@pytest.mark.parametrize("kind", ["forced", "translator", "cache"])
def test_a_search_beside_a_failing_sequence_finds_what_it_finds_alone(kind: str) -> None:
    model = open_model(kind)
    searches = {"beams": 3, "forbidden": (POISON,), "limit": 12}
    runner = Runner(model, session=Fragile(model, POISON))
    search, other = (ready_sequence(model, [3, 4], **searches) for _ in range(2))
    failing = ready_sequence(model, [3, POISON, 4], temperature=0.0, logit_bias=((POISON, 100.0),))
    for sequence in (search, failing, other):
        runner.add(sequence)
    runner.run()
    assert list(runner.failed) == [failing]
    expected = unbatched(model, ready_sequence(model, [3, 4], **searches))
    assert runner.generated[search] == runner.generated[other] == expected


def test_sequences_split_by_a_failure_are_batched_again() -> None:
    model = open_model("forced")
    runner = Runner(model, session=Fragile(model, POISON))
    for i in range(6):
        runner.add(ready_sequence(model, [1], seed=i, temperature=0.0, limit=30))
    bad = ready_sequence(model, [1, POISON], seed=0, limit=30)
    runner.add(bad)
    runner.step()
    runner.step()
    assert list(runner.failed) == [bad]
    if runner.running:
        assert len(runner.batches) == 1


# --- rows -------------------------------------------------------------------------------------------


def rows_of(runner: Runner) -> list[int]:
    return [batch.rows for batch in runner.batches]


def test_rows_grow_and_shrink_with_the_number_of_sequences() -> None:
    model, runner = open_model("forced"), Runner(open_model("forced"))
    sequences = [ready_sequence(model, [1], seed=i, limit=999) for i in range(9)]
    for sequence in sequences:
        runner.add(sequence)
    assert rows_of(runner) == [16]
    for sequence in sequences[:3]:
        runner.remove(sequence)
    runner.step()
    assert rows_of(runner) == [8]
    for sequence in sequences[3:8]:
        runner.remove(sequence)
    for _ in range(3):
        runner.step()
    assert rows_of(runner) == [1]
    runner.remove(sequences[8])
    runner.batches.tidy()
    assert rows_of(runner) == []


def test_at_most_max_rows_share_a_run() -> None:
    model, runner = open_model("forced"), Runner(open_model("forced"), max_rows=4)
    for i in range(10):
        runner.add(ready_sequence(model, [1], seed=i, limit=5))
    assert max(len(batch) for batch in runner.batches) == 4
    assert len(runner.batches) == 3


def test_lengths_of_different_buckets_do_not_share_a_run() -> None:
    """No memory is padded beyond its own bucket."""
    model, runner = open_model("translator"), Runner(open_model("translator"))
    for n in (2, 10, 16, 17, 30):
        runner.add(ready_sequence(model, [3] * n, limit=5))
    assert sorted(len(batch) for batch in runner.batches) == [2, 3]


def test_with_padding_invariance_all_lengths_share_a_run() -> None:
    model = open_model("translator")
    model = replace(model, spec=replace(model.spec, padding_invariant=True))
    runner = Runner(model)
    sequences = [ready_sequence(model, [3] * n, seed=n, limit=5) for n in (2, 10, 30, 16, 17)]
    for sequence in sequences:
        runner.add(sequence)
    assert [len(batch) for batch in runner.batches] == [5]
    runner.run()
    for sequence, n in zip(sequences, (2, 10, 30, 16, 17), strict=True):
        output = unbatched(open_model("translator"), ready_sequence(model, [3] * n, seed=n, limit=5))
        assert runner.generated[sequence] == output


def test_a_block_shrinks_some_time_after_its_longest_sequence_is_removed() -> None:
    model = open_model("translator")
    spec = replace(model.spec, padding_invariant=True, manifest=replace(model.spec.manifest, text=None))
    model = replace(model, spec=spec)  # without an end token it runs to its limit
    runner = Runner(model)
    long, short = (ready_sequence(model, [3] * n, seed=n, limit=999) for n in (30, 5))
    runner.add(long)
    runner.add(short)
    (batch,) = runner.batches
    assert batch.key == (("source", 32),)
    runner.remove(long)
    for _ in range(100):
        runner.step()
    assert [batch.key for batch in runner.batches] == [(("source", 16),)]


def test_a_run_reports_how_many_rows_were_real() -> None:
    model, runner = open_model("forced"), Runner(open_model("forced"))
    for i in range(3):
        runner.add(ready_sequence(model, [1], seed=i, limit=5))
    (run,) = runner.batches.step(0.5).runs
    assert (run.rows, run.elements, run.padded_elements, run.device_wait_s) == (3, 3, 4, 0.5)


def test_steps_and_rows_are_counted_per_sequence_across_pauses() -> None:
    model, runner = open_model("forced"), Runner(open_model("forced"))
    sequence, other = (ready_sequence(model, [1], seed=i, limit=99) for i in range(2))
    runner.add(sequence)
    runner.step()
    runner.add(other)
    runner.step()
    runner.pause(sequence)
    runner.step()
    runner.add(sequence)
    runner.step()
    runner.remove(sequence)
    assert (sequence.steps, sequence.total_rows) == (3, 1 + 2 + 2)
