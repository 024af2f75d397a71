"""Findings follow from the numbers, whether these confirm the textbook or contradict it."""

from dataclasses import replace

import pytest

from lockstep_studies import (
    comparison,
    gradients,
    growing_context,
    long_range,
    long_sequence_cost,
    receptive_field,
    sequential_cost,
)
from lockstep_studies.catalogue import STUDIES
from lockstep_studies.sequential_cost import FUSED, LOOPED, ONNX, RUNTIMES, TRANSFORMER

LENGTHS = (10, 100, 1_000, 2_000)


def cost_rows_by_length(
    looped: float, fixed: float, fused: float, encoder: float
) -> list[sequential_cost.SequentialCostRow]:
    """Rows from seconds per position, and a fixed cost for the loop."""
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
    text = sequential_cost.finding(cost_rows_by_length(1e-5, 0.0, 1e-6, 2e-6))
    assert "multiplied the time of the looped RNN by 2.00 (PyTorch) and 2.00 (ONNX Runtime)" in text
    assert "1,000 took 10.0 (PyTorch) and 10.0 (ONNX Runtime) times as long as 100" in text
    assert "linear in the length, as the textbook has it" in text


def test_a_loop_with_a_fixed_cost_is_not_called_linear() -> None:
    text = sequential_cost.finding(cost_rows_by_length(1e-5, 0.01, 1e-6, 2e-6))
    assert "as the textbook has it" not in text
    assert "a cost linear in the length would give 2 and 10" in text


def test_the_faster_layer_is_reported_by_runtime_and_length() -> None:
    rows = cost_rows_by_length(1e-5, 0.0, 1e-6, 2e-6)
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
    text = sequential_cost.finding(quicker)
    assert (
        "in ONNX Runtime the Transformer beat the looped RNN at every length and the fused one at 10" in text
    )
    assert "in PyTorch the Transformer beat the looped RNN at every length and the fused one at no" in text


def gradient_row(name: str, start: str, far: float, whole: float = 1.0) -> gradients.GradientsRow:
    curve = [1.0, 0.5, 0.5 * far]
    clipped = min(whole, 5.0)
    return gradients.GradientsRow(
        name, start, curve, [norm * clipped / whole for norm in curve], whole, clipped
    )


def gradient_rows(**far: float) -> list[gradients.GradientsRow]:
    return [
        gradient_row("RNN", gradients.PLAIN, far["rnn"]),
        gradient_row("LSTM", gradients.PLAIN, far["lstm"]),
        gradient_row("Transformer", gradients.PLAIN, 0.8),
        gradient_row("LSTM", gradients.KEEPING, far["keeping"]),
        gradient_row("RNN", "weights × 4", far["large"], 1e6),
        gradient_row("LSTM", "weights × 4", 1e-5),
    ]


def test_gates_that_lose_the_gradient_are_reported() -> None:
    text = gradients.finding(gradient_rows(rnn=1e-30, lstm=1e-20, keeping=0.5, large=1e6))
    assert (
        "shrinks to 1.0 × 10⁻³⁰ (RNN) and 1.0 × 10⁻²⁰ (LSTM) of what it was and stays at 0.80 (Trans" in text
    )
    assert "the LSTM lost it in spite of gates, but gates set to keep hold it: 0.50 (LSTM)." in text
    assert (
        "it grows 1.0 × 10⁶ times in the RNN but not in the LSTM; clipping takes the whole gradient" in text
    )
    assert "from 1.0 × 10⁶ to 5.00" in text
    assert text.endswith(
        "to 5.00 and does not change that ratio, because it multiplies every part by the same number."
    )


def test_gates_that_hold_the_gradient_are_reported() -> None:
    text = gradients.finding(gradient_rows(rnn=1e-30, lstm=0.3, keeping=0.5, large=0.1))
    assert "gates held it without special settings, and gates set to keep hold it" in text
    assert "explodes in no layer" in text
    assert "clipping has no effect to show" in text


def test_keeping_gates_that_lose_the_gradient_are_reported() -> None:
    text = gradients.finding(gradient_rows(rnn=1e-30, lstm=1e-20, keeping=1e-9, large=0.1))
    assert "in spite of gates, and gates set to keep do not hold it" in text


def accuracy_rows(**far: float) -> list[long_range.LongRangeRow]:
    """Rows with the given accuracies at 200 positions, and 100% at 10."""
    names = {
        "rnn": "RNN", "gru": "GRU", "lstm": "LSTM", "keeping_gru": "keeping GRU",
        "keeping_lstm": "keeping LSTM", "conv": "three convolutions", "encoder": "Transformer",
    }  # fmt: skip
    return [
        long_range.LongRangeRow(names[key], distance, [accuracy], [10], 1.0)
        for key, share in far.items()
        for distance, accuracy in ((10, 1.0), (200, share))
    ]


def test_solved_distances_and_guessing_layers_are_reported() -> None:
    far = {"rnn": 0.12, "gru": 0.13, "lstm": 0.12, "keeping_gru": 1.0, "keeping_lstm": 1.0, "conv": 0.12}
    text = long_range.finding(accuracy_rows(**far, encoder=1.0))
    assert (
        "200 positions by keeping GRU, keeping LSTM and Transformer; up to 10 positions by RNN, GRU" in text
    )
    assert (
        "At 200 positions RNN (12.0%), GRU (13.0%), LSTM (12.0%) and three convolutions (12.0%) only" in text
    )
    assert "the GRU and LSTM reach that far only if their gates are initialised to keep the state" in text
    assert "three convolutions see 12 positions back and not one more" in text


def test_gates_that_learn_to_keep_are_reported() -> None:
    far = {"rnn": 0.12, "gru": 1.0, "lstm": 0.99, "keeping_gru": 1.0, "keeping_lstm": 1.0, "conv": 1.0}
    text = long_range.finding(accuracy_rows(**far, encoder=1.0))
    assert "the gates of the GRU and LSTM learned to carry the signal that far" in text
    assert "not one more" not in text


def test_no_layer_is_reported_as_guessing_if_none_does() -> None:
    far = {"rnn": 1.0, "gru": 1.0, "lstm": 1.0, "keeping_gru": 1.0, "keeping_lstm": 1.0, "conv": 0.5}
    text = long_range.finding(accuracy_rows(**far))
    assert "no layer is near the 12.5% of guessing" in text


def reach_row(model: str, before: int, after: int, change: float) -> receptive_field.ReceptiveFieldRow:
    offsets = list(range(-20, 21))
    moved = [change if -before <= offset <= after else 0.0 for offset in offsets]
    return receptive_field.ReceptiveFieldRow(model, offsets, moved, before, after)


def test_windows_and_reaches_are_reported() -> None:
    text = receptive_field.finding(
        [
            reach_row("a-cnn", 3, 0, 0.5),
            reach_row("b-cnn", 0, 2, 0.5),
            reach_row("an-rnn", 0, 20, 0.1),
            reach_row("a-bi", 20, 20, 0.2),
        ]
    )
    assert "from 3 words before it to 0 after it in a-cnn and from 0 words before it to 2 after it" in text
    assert "windows of 4 and 3 words, with no change outside." in text
    assert "an-rnn carries it to the end of the text and never back, changing 10% of the state" in text
    assert "10% of the state at the next word and 10% at the 20th word" in text
    assert "a-bi carries it to both ends, changing 20%" in text


def test_results_without_windows_or_with_windows_only_are_reported() -> None:
    assert "none of them has a window" in receptive_field.finding([reach_row("an-rnn", 0, 20, 0.1)])
    assert "In no model here does it reach an end" in receptive_field.finding([reach_row("a-cnn", 3, 0, 0.1)])


def cost_rows(growth: dict[str, float]) -> list[long_sequence_cost.LongSequenceCostRow]:
    """Rows whose time and memory grow by the given factors from 1,000 to 2,000 positions."""
    return [
        long_sequence_cost.LongSequenceCostRow(name, length, 1e-3 * factor, int(1e6 * factor))
        for name, ratio in growth.items()
        for length, factor in ((100, 0.1), (1_000, 1.0), (2_000, ratio))
    ]


def test_quadratic_growth_is_distinguished_from_linear_growth() -> None:
    text = long_sequence_cost.finding(
        cost_rows({"three convolutions": 1.9, "RNN": 2.0, "LSTM": 2.1, "Transformer": 3.9})
    )
    assert (
        "3.90 times (Transformer): only the Transformer grew faster than the length; the fastest was" in text
    )
    assert "only the Transformer, which holds a score for every pair of positions, grew faster than" in text
    assert "the fastest was the stack of convolutions at 100 and at 2,000" in text
    assert "at 2,000 the Transformer used 3.90 MB and the stack of convolutions 1.90 MB" in text


def test_linear_growth_and_another_fast_growing_layer_are_reported() -> None:
    even = cost_rows({"three convolutions": 2.0, "RNN": 2.0, "LSTM": 2.0, "Transformer": 2.0})
    assert "none of them faster than the length" in long_sequence_cost.finding(even)
    other = cost_rows({"three convolutions": 2.0, "RNN": 4.0, "LSTM": 2.0, "Transformer": 2.0})
    assert ": the RNN grew faster than the length" in long_sequence_cost.finding(other)


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


def test_a_difference_within_sampling_error_is_reported_as_such() -> None:
    text = comparison.finding([scored("sentiment-bow", 0.815, 2e-3), scored("sentiment-gru", 0.819, 9e-3)])
    assert "sentiment-gru is the most accurate on the 1,821 test sentences (81.9%)" in text
    assert "the difference to all of the other 1 is within sampling error" in text
    assert "the bag of words reaches 81.5% with 1,000 parameters" in text
    assert "200 words take 2.00 ms (sentiment-bow) to 9.00 ms (sentiment-gru)" in text
    assert "of which the model accounts for at most 10%" in text


def test_a_difference_beyond_sampling_error_is_reported_as_such() -> None:
    text = comparison.finding([scored("sentiment-bow", 0.7, 2e-3), scored("sentiment-gru", 0.9, 9e-3)])
    assert "the difference to each of the other 1 exceeds sampling error" in text


def test_a_bag_of_words_that_no_network_beats_is_reported() -> None:
    text = comparison.finding([scored("sentiment-bow", 0.82, 2e-3), scored("sentiment-gru", 0.80, 9e-3)])
    assert "no network beats the bag of words and its 1,000 parameters" in text


def test_texts_above_a_model_limit_are_shown_as_too_long() -> None:
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


def context_rows(lstm_s: float, gpt_s: tuple[float, float]) -> list[growing_context.GrowingContextRow]:
    """A model of constant step time, and one whose step time is that at 10 and at 1,000 characters."""
    lstm, gpt = growing_context.LSTM, growing_context.GPT
    return [
        growing_context.GrowingContextRow(model, context, rows, rows * seconds, held, bits)
        for rows in (1, 10)
        for at, context in enumerate((10, 1_000))
        for model, seconds, held, bits in (
            (lstm, lstm_s, 2_048, 2.3),
            (gpt, gpt_s[at], 4_096 * context, 2.26),
        )
    ]


def test_a_cache_that_overtakes_a_constant_state_is_reported_by_length() -> None:
    text = growing_context.finding(context_rows(2e-4, (1e-4, 5e-4)))
    assert "from 200 µs to 200 µs (1.00 times) in the LSTM and from 100 µs to 500 µs (5.00 times)" in text
    assert "the LSTM is faster at 1,000 and the GPT is faster at 10." in text
    assert "one core keeps 250 streams of the LSTM, whose states take 2.05 kB a stream" in text
    assert "a stream, or 500 to 100 streams of the GPT, whose states take 41.0 kB to 4.10 MB a stream" in text
    assert "the GPT predicts the test text better, by 2.26 bits a character against 2.30" in text


def test_equally_fast_steps_have_no_winner() -> None:
    text = growing_context.finding(context_rows(1e-4, (1.02e-4, 1.04e-4)))
    assert "they are equally fast at every length." in text


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_asks_a_question(name: str) -> None:
    assert STUDIES[name].question.endswith("?")


def test_the_catalogue_lists_all_seven_studies() -> None:
    names = (
        "sequential-cost gradients long-range receptive-field long-sequence-cost growing-context comparison"
    )
    assert list(STUDIES) == names.split()
