"""The exponential moving average."""

from __future__ import annotations

import pytest

from lockstep_server.model.moving_average import moving_average


@pytest.mark.parametrize(
    ("average", "value", "rate", "expected"),
    [
        (4.0, 14.0, 0.1, 5.0),
        (4.0, 4.0, 0.1, 4.0),
        (4.0, 14.0, 0.0, 4.0),
        (4.0, 14.0, 1.0, 14.0),
        (0.0, -1.0, 0.5, -0.5),
    ],
)
def test_a_value_counts_by_the_rate(average: float, value: float, rate: float, expected: float) -> None:
    assert moving_average(average, value, rate) == pytest.approx(expected)


def test_an_average_converges_to_a_constant_value() -> None:
    average = 100.0
    for _ in range(200):
        average = moving_average(average, 3.0, 0.1)
    assert average == pytest.approx(3.0)
