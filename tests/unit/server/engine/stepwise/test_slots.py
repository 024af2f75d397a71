"""State blocks: states of every shape are written, stepped, grown and removed; rows are independent."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.server import sample_models as specs
from unit.server.engine.stepwise.step_models import FakeSession, graphs_of, open_model

from lockstep_server.engine.runtime.device import DeviceArray
from lockstep_server.engine.stepwise.slots import (
    PoolRow,
    StateBlock,
    StatePool,
    bucket,
    initial_states,
    key_of,
    lengths_of,
    widest,
)
from lockstep_server.model.manifest import LengthSection, Manifest, StateSection, TensorSection
from lockstep_server.model.spec import ModelSpec, StateTensor

if TYPE_CHECKING:
    from lockstep_server.engine.runtime.session import OnnxSession

Array = np.ndarray[Any, Any]

STATES = {
    "flat [n, d]": StateTensor("FP32", ("n", 3), StateSection("flat", "flat_in", "flat_out")),
    "layered [layers, n, d]": StateTensor(
        "FP32", (2, "n", 3), StateSection("deep", "deep_in", "deep_out", batch_axis=1)
    ),
    "memory [n, length, d]": StateTensor(
        "FP32", ("n", "s", 3), StateSection("memory", "memory_in", lengths={1: "source"}, prefill="m0")
    ),
    "memory [length, n, d]": StateTensor(
        "FP32",
        ("s", "n", 2),
        StateSection("rows", "rows_in", batch_axis=1, lengths={0: "source"}, prefill="r0"),
    ),
    "cache [n, length, d]": StateTensor(
        "FP32", ("n", "p", 2), StateSection("cache", "cache_in", "cache_out", lengths={1: "past"}, grows=True)
    ),
    "cache [layers, n, heads, length, d]": StateTensor(
        "FP32",
        (2, "n", 2, "p", 1),
        StateSection("keys", "keys_in", "keys_out", batch_axis=1, lengths={3: "past"}, grows=True),
    ),
    "counter [n]": StateTensor("INT64", ("n",), StateSection("count", "count_in", "count_out", initial=5)),
}
LENGTHS = {"source": LengthSection(100), "past": LengthSection(100)}
MASKS = (
    specs.tensor("x", TensorSection(0), ("n", 1)),
    specs.tensor("mask", TensorSection(0, {1: "source"}, generated="mask", of="source"), ("n", "s"), "BOOL"),
    specs.tensor(
        "holes", TensorSection(0, {1: "past"}, generated="mask", of="past", real=0), ("n", "p"), "FP32"
    ),
    specs.tensor("sizes", TensorSection(0, generated="lengths", of="source"), ("n",), "INT32"),
    specs.tensor("seen", TensorSection(0, generated="mask", of="past", new=True), ("n", "q"), "INT64"),
    specs.tensor("places", TensorSection(0, generated="positions", of="past"), ("n", "s"), "INT64"),
    specs.tensor("across", TensorSection(1, generated="positions", of="past"), (1, "n"), "INT32"),
    specs.tensor("rate", TensorSection(value=16000), (), "INT64"),
    specs.tensor("each", TensorSection(0, {1: "source"}, value=1), ("n", "s", 2), "BOOL"),
)
SPEC = ModelSpec("m", 1, Manifest(lengths=LENGTHS), MASKS, (), batched=True, states=tuple(STATES.values()))


pytestmark = pytest.mark.usefixtures("kept")


def new_block(spec: ModelSpec, key: Any, rows: int) -> StateBlock:
    return StateBlock(spec, key, rows, graphs_of(spec))


def spec_of(state: StateTensor) -> ModelSpec:
    return ModelSpec("m", 1, Manifest(lengths=LENGTHS), (), (), batched=True, states=(state,))


def draw_states(spec: ModelSpec, seed: int, **lengths: int) -> dict[str, Array]:
    """The states of one sequence with these named lengths."""
    rng = np.random.default_rng(seed)
    states = {}
    for state in spec.states:
        sizes = {axis: size for axis, size in enumerate(state.shape) if isinstance(size, int)}
        sizes[state.spec.batch_axis] = 1
        sizes |= {axis: lengths[name] for axis, name in state.spec.lengths.items()}
        shape = [sizes[axis] for axis in range(len(state.shape))]
        states[state.spec.name] = np.round(rng.standard_normal(shape) * 100).astype(
            np.int64 if state.datatype == "INT64" else np.float32
        )
    return states


def write_states(block: StateBlock, row: int, seed: int, **lengths: int) -> dict[str, Array]:
    states = draw_states(block.spec, seed, **lengths)
    block.write(row, states, lengths_of(block.spec, states))
    return states


def equal_states(one: dict[str, Array], other: dict[str, Array]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].shape == other[name].shape and np.array_equal(one[name], other[name]) for name in one
    )


class Echo(FakeSession):
    """Returns each state plus one and records its inputs; a cache is returned one element longer, or its new
    element alone."""

    def __init__(self, spec: ModelSpec = SPEC, *, alone: bool = False) -> None:
        self.spec, self.alone = spec, alone
        self.output_names = ["y", *(s.spec.output for s in spec.states if s.spec.output)]
        self.inputs: dict[str, Array] = {}

    def answer(self, feeds: dict[str, Array]) -> list[Array]:
        self.inputs = {name: array.copy() for name, array in feeds.items()}
        outputs: list[Array] = [feeds["x"] * 2]
        for state in self.spec.states:
            if state.spec.output:
                given = feeds[state.spec.input]
                outputs.append(self._longer(state, given, feeds["x"]) if state.spec.grows else given + 1)
        return outputs

    def _longer(self, state: StateTensor, given: Array, x: Array) -> Array:
        """The cache with a new element, the row's x, at the end of its axis."""
        axis = next(iter(state.spec.lengths))
        shape = list(given.shape)
        shape[axis] = 1
        by_row = [1] * given.ndim
        by_row[state.spec.batch_axis] = -1
        new = np.broadcast_to(x.reshape(by_row), shape).astype(given.dtype)
        return new if self.alone else np.concatenate([given, new], axis)


def step_block(block: StateBlock, session: Any = None, start: float = 0.0) -> dict[str, Array]:
    x = np.arange(start, start + block.rows, dtype=np.float32)[:, None]
    # Fake sessions have only what a block uses of a session.
    return block.step(cast("OnnxSession", session or Echo(block.spec)), {"x": x})


# --- buckets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "size"), [(0, 1), (1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (64, 64), (65, 128)]
)
def test_a_bucket_is_the_next_power_of_two(count: int, size: int) -> None:
    assert bucket(count) == size
    assert bucket(count, 16) == max(size, 16)


@pytest.mark.parametrize(
    ("source", "past", "key"),
    [
        (1, 0, (("past", 16), ("source", 16))),
        (16, 15, (("past", 16), ("source", 16))),
        (17, 16, (("past", 32), ("source", 32))),  # a full cache needs room for the next element
        (32, 31, (("past", 32), ("source", 32))),
        (33, 32, (("past", 64), ("source", 64))),
    ],
)
def test_the_key_is_the_buckets_of_the_named_lengths(source: int, past: int, key: Any) -> None:
    assert key_of(SPEC, {"source": source, "past": past}) == key


def test_no_bucket_exceeds_the_maximum_length() -> None:
    spec = replace(SPEC, manifest=Manifest(lengths={"source": LengthSection(20), "past": LengthSection(40)}))
    assert key_of(spec, {"source": 17, "past": 35}) == (("past", 40), ("source", 20))


def test_for_an_unbatched_model_only_caches_are_padded() -> None:
    spec = replace(SPEC, batched=False)
    assert key_of(spec, {"source": 5, "past": 5}) == (("past", 16), ("source", 5))


def test_states_without_a_named_length_have_the_empty_key() -> None:
    assert key_of(spec_of(STATES["flat [n, d]"]), {}) == ()


# --- initial states ---------------------------------------------------------------------------------


def test_initial_states_follow_the_manifest() -> None:
    states = initial_states(SPEC, {"m0": np.ones((1, 4, 3)), "r0": np.ones((4, 1, 2))})
    assert states["count"].tolist() == [5]
    assert (states["flat"].shape, states["deep"].shape) == ((1, 3), (2, 1, 3))
    assert (states["cache"].shape, states["keys"].shape) == ((1, 0, 2), (2, 1, 2, 0, 1))
    assert states["memory"].shape == (1, 4, 3)
    assert lengths_of(SPEC, states) == {"source": 4, "past": 0}


# --- write, take, clear, resize ---------------------------------------------------------------------


@pytest.mark.parametrize("what", STATES)
@pytest.mark.parametrize("length", [1, 7, 16])
def test_take_returns_what_was_written(what: str, length: int) -> None:
    spec = spec_of(STATES[what])
    lengths = {"source": length, "past": length - 1}
    block = new_block(spec, key_of(spec, lengths), 4)
    put = [write_states(block, row, row, **lengths) for row in (0, 1, 2, 3)]
    assert all(equal_states(block.take(row), put[row]) for row in (0, 1, 2, 3))


@pytest.mark.parametrize("what", STATES)
def test_a_shorter_sequence_in_a_reused_row_sees_nothing_of_the_longer_one(what: str) -> None:
    """Elements beyond a sequence's own length are 0 in the session's inputs."""
    spec = spec_of(STATES[what])
    used, fresh = (new_block(spec, key_of(spec, {"source": 15, "past": 15}), 2) for _ in range(2))
    write_states(used, 1, 1, source=15, past=15)
    for block in (used, fresh):
        write_states(block, 1, 2, source=3, past=3)
    echoes = [
        Echo(ModelSpec("m", 1, spec.manifest, MASKS[:1], (), batched=True, states=spec.states))
        for _ in range(2)
    ]
    for block, echo in zip((used, fresh), echoes, strict=True):
        step_block(block, echo)
    assert equal_states(*(echo.inputs for echo in echoes))


def test_a_taken_state_is_a_copy() -> None:
    block = new_block(SPEC, key_of(SPEC, {"source": 3, "past": 3}), 1)
    write_states(block, 0, 1, source=3, past=3)
    taken = block.take(0)
    step_block(block)
    block.clear(0)
    assert equal_states(taken, draw_states(SPEC, 1, source=3, past=3))


def test_a_cleared_row_is_zero_and_has_one_real_element() -> None:
    echo = Echo()
    block = new_block(SPEC, key_of(SPEC, {"source": 9, "past": 9}), 2)
    other = write_states(block, 0, 1, source=9, past=9)
    write_states(block, 1, 2, source=9, past=9)
    block.clear(1)
    assert not any(array.any() for array in block.take(1).values())
    assert equal_states(block.take(0), other)
    step_block(block, echo)
    assert (echo.inputs["mask"].sum(axis=1).tolist(), echo.inputs["sizes"].tolist()) == ([9, 1], [9, 1])


@settings(max_examples=40)
@given(st.data())
def test_resizing_rows_keeps_their_states(data: Any) -> None:
    rows = data.draw(st.sampled_from([1, 2, 4, 8]))
    taken = data.draw(st.lists(st.integers(0, rows - 1), unique=True, min_size=1))
    new_rows = data.draw(st.sampled_from([n for n in (1, 2, 4, 8, 16) if n >= len(taken)]))
    lengths = {row: {"source": 1 + 3 * row % 16, "past": (5 * row) % 16} for row in taken}
    block = new_block(SPEC, (("past", 16), ("source", 16)), rows)
    put = {row: write_states(block, row, row, **lengths[row]) for row in taken}
    new = block.resized(new_rows, taken)
    assert new.rows == new_rows
    for place, row in enumerate(taken):
        assert equal_states(new.take(place), put[row])
        assert new.lengths(place) == lengths[row]
    vacant, echo = range(len(taken), new_rows), Echo()
    assert not any(new.take(row)["flat"].any() for row in vacant)
    step_block(new, echo)
    assert echo.inputs["mask"].sum(axis=1).tolist() == [lengths[row]["source"] for row in taken] + [1] * len(
        vacant
    )


@pytest.mark.parametrize("size", [16, 32, 64])
def test_resizing_to_other_lengths_keeps_the_states(size: int) -> None:
    block = new_block(SPEC, (("past", 32), ("source", 32)), 4)
    put = [write_states(block, row, row, source=3 + 4 * row, past=2 + 4 * row) for row in range(4)]
    echo = Echo()
    new = block.resized(4, [3, 1], (("past", size), ("source", size)))
    assert equal_states(new.take(0), put[3])
    assert equal_states(new.take(1), put[1])
    step_block(new, echo)
    assert echo.inputs["mask"].shape == (4, size)
    assert echo.inputs["mask"].sum(axis=1).tolist() == [15, 7, 1, 1]


def test_the_needed_key_is_that_of_the_longest_row() -> None:
    block = new_block(SPEC, (("past", 64), ("source", 64)), 4)
    for row, (source, past) in enumerate([(3, 40), (20, 1), (60, 60)]):
        write_states(block, row, row, source=source, past=past)
    assert block.needed_key([0, 1]) == (("past", 64), ("source", 32))
    assert block.needed_key([1]) == (("past", 16), ("source", 32))


def test_widest_holds_both_keys() -> None:
    assert widest((("past", 16), ("source", 64)), (("past", 32), ("source", 16))) == (
        ("past", 32),
        ("source", 64),
    )


# --- a step -----------------------------------------------------------------------------------------


def test_a_step_returns_the_outputs_and_keeps_the_states() -> None:
    block = new_block(SPEC, key_of(SPEC, {"source": 3, "past": 3}), 2)
    put = write_states(block, 0, 1, source=3, past=3)
    assert list(step_block(block)) == ["y"]
    after = block.take(0)
    for name in ("flat", "deep", "count"):
        np.testing.assert_array_equal(after[name], put[name] + 1)
    for name in ("memory", "rows"):  # carried unchanged
        np.testing.assert_array_equal(after[name], put[name])


def test_states_are_paired_by_name_whatever_the_order_of_the_graphs_outputs() -> None:
    class Backwards(Echo):
        def __init__(self) -> None:
            super().__init__()
            self.output_names.reverse()

        def answer(self, feeds: dict[str, Array]) -> list[Array]:
            return super().answer(feeds)[::-1]

    blocks = [new_block(SPEC, key_of(SPEC, {"source": 3, "past": 3}), 1) for _ in range(2)]
    for block, session in zip(blocks, (Echo(), Backwards()), strict=True):
        write_states(block, 0, 1, source=3, past=3)
        step_block(block, session)
    assert equal_states(blocks[0].take(0), blocks[1].take(0))


def test_masks_and_lengths_mark_the_real_elements() -> None:
    echo = Echo()
    block = new_block(SPEC, key_of(SPEC, {"source": 9, "past": 9}), 3)
    for row, (source, past) in enumerate([(4, 0), (16, 15), (1, 2)]):
        write_states(block, row, row, source=source, past=past)
    step_block(block, echo)
    assert echo.inputs["mask"].tolist() == [[i < n for i in range(16)] for n in (4, 16, 1)]
    assert echo.inputs["holes"].tolist() == [[float(i >= n) for i in range(16)] for n in (0, 15, 2)]
    assert (echo.inputs["sizes"].tolist(), echo.inputs["sizes"].dtype) == ([4, 16, 1], np.int32)


def test_a_mask_may_have_the_new_element_behind_those_of_the_bucket() -> None:
    echo = Echo()
    block = new_block(SPEC, key_of(SPEC, {"source": 9, "past": 9}), 3)
    for row, past in enumerate([0, 14, 2]):
        write_states(block, row, row, source=1, past=past)
    for step in range(2):
        step_block(block, echo)
        expected = [[int(i < n + step) for i in range(16)] + [1] for n in (0, 14, 2)]
        assert echo.inputs["seen"].tolist() == expected
    wider = block.resized(4, [1], (("past", 32), ("source", 16)))
    step_block(wider, echo)
    assert echo.inputs["seen"].sum(axis=1).tolist() == [17, 2, 2, 2]
    assert echo.inputs["seen"].shape == (4, 33)
    assert echo.inputs["seen"][:, -1].all()


def test_positions_are_the_numbers_of_elements_so_far() -> None:
    echo = Echo()
    block = new_block(SPEC, key_of(SPEC, {"source": 9, "past": 9}), 3)
    for row, past in enumerate([0, 14, 2]):
        write_states(block, row, row, source=1, past=past)
    for step in range(2):
        step_block(block, echo)
        assert echo.inputs["places"].tolist() == [[0 + step], [14 + step], [2 + step]]
        assert echo.inputs["across"].tolist() == [[0 + step, 14 + step, 2 + step]]
        assert (echo.inputs["places"].dtype, echo.inputs["across"].dtype) == (np.int64, np.int32)


def test_positions_of_vacant_rows_stay_valid() -> None:
    """An embedding that has no more positions would fail the steps of all rows."""
    echo, block = Echo(), new_block(SPEC, (("past", 16), ("source", 16)), 2)
    for _ in range(20):
        step_block(block, echo)
    assert echo.inputs["places"].tolist() == [[15], [15]]


def test_constants_are_filled_in_unless_they_are_given() -> None:
    echo, block = Echo(), new_block(SPEC, (("past", 16), ("source", 32)), 2)
    step_block(block, echo)
    assert (echo.inputs["rate"].tolist(), echo.inputs["rate"].dtype) == (16000, np.int64)
    assert echo.inputs["each"].shape == (2, 32, 2)
    assert echo.inputs["each"].all()
    block.step(echo, {"x": np.zeros((2, 1), np.float32), "rate": np.array(8000)})  # type: ignore[arg-type]
    assert echo.inputs["rate"].tolist() == 8000


@pytest.mark.parametrize("returned", ["the whole cache", "the cache, which is kept", "the element"])
@pytest.mark.parametrize("name", ["cache", "keys"])
def test_each_row_of_a_cache_grows_at_its_own_end(name: str, returned: str) -> None:
    (state,) = (one for one in SPEC.states if one.spec.name == name)
    axis = next(iter(state.spec.lengths))
    spec = replace(SPEC, keeps_elements=returned == "the cache, which is kept")
    echo = Echo(alone=returned == "the element")
    block = new_block(spec, key_of(SPEC, {"source": 1, "past": 9}), 3)
    pasts = (0, 9, 13)
    put = [write_states(block, row, row, source=1, past=past) for row, past in enumerate(pasts)]
    for start in (100.0, 200.0):
        step_block(block, echo, start)
    for row, past in enumerate(pasts):
        grown = np.moveaxis(block.take(row)[name], axis, 0)
        assert len(grown) == past + 2
        np.testing.assert_array_equal(grown[:past], np.moveaxis(put[row][name], axis, 0))
        assert np.unique(grown[past]).tolist() == [100.0 + row]
        assert np.unique(grown[past + 1]).tolist() == [200.0 + row]
    assert echo.inputs["holes"].tolist() == [[float(i >= past + 1) for i in range(16)] for past in pasts]
    assert [block.lengths(row)["past"] for row in range(3)] == [past + 2 for past in pasts]


def test_a_cache_is_written_in_place() -> None:
    class Recorder(Echo):
        def run(self, feeds: dict[str, Any], *more: Any) -> list[Any]:
            given = feeds["cache_in"], feeds["keys_in"]
            self.fed = [
                one.value.data_ptr() if isinstance(one, DeviceArray) else one.ctypes.data for one in given
            ]
            return super().run(feeds, *more)

    block = new_block(SPEC, key_of(SPEC, {"source": 1, "past": 2}), 2)
    seen, session = [], Recorder(alone=True)
    for _ in range(3):
        step_block(block, session)
        seen.append(session.fed)
    assert seen == [seen[0]] * 3


def test_a_cache_without_room_takes_single_elements() -> None:
    spec = replace(SPEC, unpadded=("past",))
    block = new_block(spec, (("past", 3), ("source", 16)), 2)
    put = [write_states(block, row, row, source=1, past=3) for row in range(2)]
    step_block(block, Echo(alone=True), 100.0)
    step_block(block, Echo(), 200.0)
    for row in range(2):
        taken = block.take(row)["cache"]
        np.testing.assert_array_equal(taken[:, :3], put[row]["cache"])
        assert taken[0, 3:, 0].tolist() == [100.0 + row, 200.0 + row]


def test_a_vacant_row_of_a_cache_never_outgrows_it() -> None:
    block = new_block(SPEC, key_of(SPEC, {"source": 1, "past": 0}), 2)
    for step in range(15):
        if step % 5 == 0:
            write_states(block, 0, step, source=1, past=0)
        step_block(block)
    for _ in range(20):
        step_block(block)
    assert block.take(1)["cache"].shape == (1, 16, 2)


def test_a_step_that_fails_changes_no_state() -> None:
    class Broken(Echo):
        def answer(self, feeds: dict[str, Array]) -> list[Array]:
            raise RuntimeError("broken")

    block = new_block(SPEC, key_of(SPEC, {"source": 3, "past": 3}), 1)
    put = write_states(block, 0, 1, source=3, past=3)
    with pytest.raises(RuntimeError, match="broken"):
        step_block(block, Broken())
    assert equal_states(block.take(0), put)
    assert block.lengths(0) == {"source": 3, "past": 3}


# --- a pool -----------------------------------------------------------------------------------------

FIXED = replace(
    SPEC, inputs=SPEC.inputs[:1], states=tuple(state for state in SPEC.states if not state.spec.lengths)
)


@settings(max_examples=40)
@given(st.data())
def test_a_pool_keeps_the_states_of_each_sequence(data: Any) -> None:
    """Sequences come, step in groups and go at random, against states of their own."""
    pool, kept = StatePool(FIXED, graphs_of(FIXED)), dict[int, tuple[PoolRow, dict[str, Array]]]()
    for number in range(data.draw(st.integers(1, 25))):
        match data.draw(st.sampled_from(["come", "come", "step", "go"])):
            case "come":
                states = draw_states(FIXED, number)
                kept[number] = pool.add(states), states
            case "step" if kept:
                chosen = data.draw(st.lists(st.sampled_from(sorted(kept)), unique=True, min_size=1))
                rows = [kept[each][0] for each in chosen]
                block = pool.gather(rows, bucket(len(rows)))
                for row, each in enumerate(chosen):
                    assert equal_states(block.take(row), kept[each][1])
                step_block(block, Echo(FIXED))
                pool.scatter(rows, block)
                for each in chosen:
                    kept[each] = kept[each][0], {name: array + 1 for name, array in kept[each][1].items()}
                del rows
            case "go" if kept:
                del kept[data.draw(st.sampled_from(sorted(kept)))]
        assert pool.used == len(kept)
        assert all(equal_states(pool.take(row), states) for row, states in kept.values())


# --- independence of rows, through real sessions ----------------------------------------------------

SHAPES = {
    "language": "layered [layers, n, d]",
    "translator": "flat, and ragged memory",
    "cache": "a growing cache",
    "kept": "the same, written in place",
    "alone": "the same, of which a step returns the new element only",
    "adder": "flat, without a tokenizer",
}


def draw_inputs(model: Any, rows: int, rng: np.random.Generator) -> dict[str, Array]:
    if model.spec.manifest.task == "tensor":
        return {"x": rng.standard_normal((rows, 2)).astype(np.float32)}
    return {"token": rng.integers(0, 21, rows)}


@pytest.mark.parametrize("kind", SHAPES)
@settings(max_examples=15)
@given(data=st.data())
def test_a_rows_bits_do_not_depend_on_its_neighbours(kind: str, data: Any) -> None:
    """One row among others that change at random, against the same sequence unbatched."""
    model = open_model(kind)
    spec, rng = model.spec, np.random.default_rng(data.draw(st.integers(0, 99)))
    lengths = {"source": data.draw(st.integers(1, 16)), "past": data.draw(st.integers(0, 9))}
    states = draw_states(spec, 5, **lengths)
    own_lengths = lengths_of(spec, states)
    key = key_of(spec, own_lengths)
    row = data.draw(st.integers(0, 3))
    unbatched, batched = new_block(spec, key, 1), new_block(spec, key, 4)
    unbatched.write(0, states, own_lengths)
    batched.write(row, states, own_lengths)
    for step in range(6):
        other = data.draw(st.sampled_from([r for r in range(4) if r != row]))
        match data.draw(st.sampled_from(["write", "clear", "resize", "keep"])):
            case "write":
                sizes = {"source": 1 + 7 * step % 16, "past": step % 9}
                other_states = draw_states(spec, step, **sizes)
                batched.write(other, other_states, lengths_of(spec, other_states))
            case "clear":
                batched.clear(other)
            case "resize":
                batched = batched.resized(4, [row, other])
                row = 0
        inputs = draw_inputs(model, 4, rng)
        own_inputs = {name: array[row : row + 1] for name, array in inputs.items()}
        expected = unbatched.step(model.session, own_inputs)
        got = batched.step(model.session, inputs)
        for name, array in expected.items():
            np.testing.assert_array_equal(got[name][row : row + 1], array)
        assert equal_states(batched.take(row), unbatched.take(0))
