"""Findings follow from the numbers: the textbook's where they bear it out, and the contrary where not."""

from dataclasses import replace

import pytest

from lockstep_studies import (
    comparison,
    gradients,
    long_range,
    long_sequence_cost,
    receptive_field,
    sequential_cost,
)
from lockstep_studies.catalogue import STUDIES
from lockstep_studies.sequential_cost import FUSED, LOOPED, ONNX, RUNTIMES, TRANSFORMER

LENGTHS = (10, 100, 1_000, 2_000)


def costs(
    looped: float, fixed: float, fused: float, encoder: float
) -> list[sequential_cost.SequentialCostRow]:
    """Seconds a position, and for the loop a fixed cost."""
    slopes = {LOOPED: looped, FUSED: fused, TRANSFORMER: encoder}
    return [
        sequential_cost.SequentialCostRow(
            runtime, name, length, slope * length + (fixed if name == LOOPED else 0.0)
        )
        for runtime in RUNTIMES
        for name, slope in slopes.items()
        for length in LENGTHS
    ]


def test_a_loop_that_is_linear_is_called_linear() -> None:
    told = sequential_cost.finding(costs(1e-5, 0.0, 1e-6, 2e-6))
    assert "multiplied the time of the looped RNN by 2.00 (PyTorch) and 2.00 (ONNX Runtime)" in told
    assert "1,000 took 10.0 (PyTorch) and 10.0 (ONNX Runtime) times as long as 100" in told
    assert "linear in the length, as the textbook has it" in told


def test_a_loop_with_a_fixed_cost_is_not() -> None:
    told = sequential_cost.finding(costs(1e-5, 0.01, 1e-6, 2e-6))
    assert "as the textbook has it" not in told
    assert "a cost linear in the length would give 2 and 10" in told


def test_who_is_faster_is_told_by_runtime_and_length() -> None:
    rows = costs(1e-5, 0.0, 1e-6, 2e-6)
    assert (
        "in PyTorch the Transformer beat the looped RNN at every length and the fused one at no length"
        in (sequential_cost.finding(rows))
    )
    quicker = [
        replace(row, seconds=1e-9)
        if (row.runtime, row.contender, row.length) == (ONNX, TRANSFORMER, 10)
        else row
        for row in rows
    ]
    told = sequential_cost.finding(quicker)
    assert (
        "in ONNX Runtime the Transformer beat the looped RNN at every length and the fused one at 10" in told
    )
    assert "in PyTorch the Transformer beat the looped RNN at every length and the fused one at no" in told


def layer(name: str, start: str, far: float, whole: float = 1.0) -> gradients.GradientsRow:
    curve = [1.0, 0.5, 0.5 * far]
    clipped = min(whole, 5.0)
    return gradients.GradientsRow(
        name, start, curve, [norm * clipped / whole for norm in curve], whole, clipped
    )


def starts(**far: float) -> list[gradients.GradientsRow]:
    return [
        layer("RNN", gradients.PLAIN, far["rnn"]),
        layer("LSTM", gradients.PLAIN, far["lstm"]),
        layer("Transformer", gradients.PLAIN, 0.8),
        layer("LSTM", gradients.KEEPING, far["keeping"]),
        layer("RNN", "weights × 4", far["large"], 1e6),
        layer("LSTM", "weights × 4", 1e-5),
    ]


def test_gates_that_do_not_hold_the_gradient_are_told() -> None:
    told = gradients.finding(starts(rnn=1e-30, lstm=1e-20, keeping=0.5, large=1e6))
    assert (
        "shrinks to 1.0 × 10⁻³⁰ (RNN) and 1.0 × 10⁻²⁰ (LSTM) of what it was and stays at 0.80 (Trans" in told
    )
    assert "the LSTM lost it in spite of gates, but gates set to keep hold it: 0.50 (LSTM)." in told
    assert (
        "it grows 1.0 × 10⁶ times in the RNN but not in the LSTM; clipping takes the whole gradient" in told
    )
    assert "from 1.0 × 10⁶ to 5.00" in told
    assert told.endswith("to 5.00 and, multiplying all of it by one number, leaves that proportion as it is.")


def test_gates_that_hold_the_gradient_are_told() -> None:
    told = gradients.finding(starts(rnn=1e-30, lstm=0.3, keeping=0.5, large=0.1))
    assert "gates held it even as they were drawn, and gates set to keep hold it" in told
    assert "explodes in no layer" in told
    assert "clipping has nothing to mend" in told


def test_gates_that_keep_and_do_not_hold_are_told() -> None:
    told = gradients.finding(starts(rnn=1e-30, lstm=1e-20, keeping=1e-9, large=0.1))
    assert "in spite of gates, and gates set to keep do not hold it" in told


def repeats(**far: float) -> list[long_range.LongRangeRow]:
    """Accuracy at 200; at 10 all are right."""
    names = {
        "rnn": "RNN", "gru": "GRU", "lstm": "LSTM", "keeping_gru": "keeping GRU",
        "keeping_lstm": "keeping LSTM", "conv": "three convolutions", "encoder": "Transformer",
    }  # fmt: skip
    return [
        long_range.LongRangeRow(names[key], distance, [accuracy], [10], 1.0)
        for key, share in far.items()
        for distance, accuracy in ((10, 1.0), (200, share))
    ]


def test_who_repeats_how_far_and_who_guesses() -> None:
    far = {"rnn": 0.12, "gru": 0.13, "lstm": 0.12, "keeping_gru": 1.0, "keeping_lstm": 1.0, "conv": 0.12}
    told = long_range.finding(repeats(**far, encoder=1.0))
    assert (
        "200 positions by keeping GRU, keeping LSTM and Transformer; up to 10 positions by RNN, GRU" in told
    )
    assert (
        "At 200 positions RNN (12.0%), GRU (13.0%), LSTM (12.0%) and three convolutions (12.0%) only" in told
    )
    assert "gates alone did not carry the GRU and LSTM that far, gates that start set to keep did" in told
    assert "three convolutions see 12 positions back and not one more" in told


def test_gates_that_learn_by_themselves_are_told() -> None:
    far = {"rnn": 0.12, "gru": 1.0, "lstm": 0.99, "keeping_gru": 1.0, "keeping_lstm": 1.0, "conv": 1.0}
    told = long_range.finding(repeats(**far, encoder=1.0))
    assert "the gates of the GRU and LSTM learned to carry it that far by themselves" in told
    assert "not one more" not in told


def test_a_task_that_all_master_has_no_guessers() -> None:
    far = {"rnn": 1.0, "gru": 1.0, "lstm": 1.0, "keeping_gru": 1.0, "keeping_lstm": 1.0, "conv": 0.5}
    told = long_range.finding(repeats(**far))
    assert "no layer is near the 12.5% that guessing gives" in told


def reach(model: str, before: int, after: int, change: float) -> receptive_field.ReceptiveFieldRow:
    offsets = list(range(-20, 21))
    moved = [change if -before <= offset <= after else 0.0 for offset in offsets]
    return receptive_field.ReceptiveFieldRow(model, offsets, moved, before, after)


def test_windows_and_reaches_are_told() -> None:
    told = receptive_field.finding(
        [
            reach("a-cnn", 3, 0, 0.5),
            reach("b-cnn", 0, 2, 0.5),
            reach("an-rnn", 0, 20, 0.1),
            reach("a-bi", 20, 20, 0.2),
        ]
    )
    assert "from 3 words before it to 0 after it in a-cnn and from 0 words before it to 2 after it" in told
    assert "windows of 4 and 3 words, and nothing past." in told
    assert (
        "an-rnn carries it on to the end and never back, changing 10% of the state at the next word" in told
    )
    assert "a-bi carries it both ways, changing 20%" in told


def test_no_windows_and_nothing_but_windows_are_told() -> None:
    assert "none of them has a window" in receptive_field.finding([reach("an-rnn", 0, 20, 0.1)])
    assert "No model here carries it to an end" in receptive_field.finding([reach("a-cnn", 3, 0, 0.1)])


def long(growth: dict[str, float]) -> list[long_sequence_cost.LongSequenceCostRow]:
    """Time and memory that grow by so much from 1,000 to 2,000."""
    return [
        long_sequence_cost.LongSequenceCostRow(name, length, 1e-3 * factor, int(1e6 * factor))
        for name, ratio in growth.items()
        for length, factor in ((100, 0.1), (1_000, 1.0), (2_000, ratio))
    ]


def test_a_square_is_told_apart_from_a_line() -> None:
    told = long_sequence_cost.finding(
        long({"three convolutions": 1.9, "RNN": 2.0, "LSTM": 2.1, "Transformer": 3.9})
    )
    assert "3.90 times (Transformer): only the Transformer outgrew the length; the quickest was" in told
    assert "only the Transformer, which holds a score for every pair of positions, outgrew the length" in told
    assert "the quickest was the stack of convolutions at both ends" in told
    assert "at 2,000 the Transformer held 3.90 MB and the stack of convolutions 1.90 MB" in told


def test_no_growth_beyond_the_length_and_another_culprit_are_told() -> None:
    even = long({"three convolutions": 2.0, "RNN": 2.0, "LSTM": 2.0, "Transformer": 2.0})
    assert "none of them faster than the length" in long_sequence_cost.finding(even)
    other = long({"three convolutions": 2.0, "RNN": 4.0, "LSTM": 2.0, "Transformer": 2.0})
    assert ": the RNN outgrew the length" in long_sequence_cost.finding(other)


def scored(model: str, test: float, wait_s: float, tested: int = 1_821) -> comparison.ComparisonRow:
    return comparison.ComparisonRow(
        model,
        1_000,
        test,
        test,
        tested,
        10.0,
        [5, 200],
        [5, 200],
        [1e-3, wait_s],
        [2e-3, wait_s],
        [1e-4, 1e-4],
    )


def test_what_chance_explains_is_called_equal() -> None:
    told = comparison.finding([scored("sentiment-bow", 0.815, 2e-3), scored("sentiment-gru", 0.819, 9e-3)])
    assert "sentiment-gru is right most often on the 1,821 test sentences (81.9%)" in told
    assert "which all of the other 1 equal within the chance of such a sample" in told
    assert "the bag of words has 81.5% with 1,000 parameters" in told
    assert "200 words take 2.00 ms (sentiment-bow) to 9.00 ms (sentiment-gru)" in told
    assert "of which the model computes 10% at most" in told


def test_what_chance_does_not_explain_is_called_better() -> None:
    told = comparison.finding([scored("sentiment-bow", 0.7, 2e-3), scored("sentiment-gru", 0.9, 9e-3)])
    assert "more than chance explains before the other 1" in told


def test_a_floor_that_no_network_beats_is_told() -> None:
    told = comparison.finding([scored("sentiment-bow", 0.82, 2e-3), scored("sentiment-gru", 0.80, 9e-3)])
    assert "no network beats the bag of words and its 1,000 parameters" in told


def test_a_model_with_a_shorter_limit_has_an_empty_cell() -> None:
    short = replace(
        scored("sentiment-x", 0.8, 1e-3),
        words=[5],
        elements=[5],
        median_s=[1e-3],
        p90_s=[2e-3],
        compute_s=[1e-4],
    )
    table = comparison.table([scored("sentiment-bow", 0.7, 2e-3), short])
    assert table.rows[0][-2:] == ("1.00 (2.00)", "too long")


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_asks_a_question(name: str) -> None:
    assert STUDIES[name].question.endswith("?")


def test_all_six_are_there() -> None:
    names = "sequential-cost gradients long-range receptive-field long-sequence-cost comparison"
    assert list(STUDIES) == names.split()
