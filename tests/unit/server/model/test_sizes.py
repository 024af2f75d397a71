"""Measuring the rows and lengths of a request."""

from __future__ import annotations

import numpy as np
import pytest
from unit.server import sample_models

from lockstep_server.errors import ServingError
from lockstep_server.model.sizes import RequestSize, measure_request


def test_named_lengths_are_read_from_their_axes() -> None:
    assert measure_request(sample_models.ragged(), {"x": np.zeros((3, 7))}) == RequestSize(3, (7,), 7)
    assert measure_request(sample_models.ragged(axis=1), {"x": np.zeros((7, 3))}) == RequestSize(3, (7,), 7)


def test_two_named_lengths_add_up() -> None:
    found = measure_request(sample_models.two_lengths(), {"x": np.zeros((2, 3)), "z": np.zeros((2, 40))})
    assert found == RequestSize(2, (3, 40), 43)
    assert found.elements == 86


def test_without_named_lengths_the_largest_tensor_sets_the_size() -> None:
    assert measure_request(sample_models.plain(), {"x": np.zeros((4, 5))}) == RequestSize(4, (), 5)
    assert measure_request(sample_models.plain(), {"x": np.zeros((0, 5))}).size == 1


@pytest.mark.parametrize(
    ("shapes", "field"),
    [
        ({"x": (1, 2), "z": (2, 2)}, "z"),
        ({"x": (0, 2), "z": (0, 2)}, "x"),
        ({"x": (1, 0), "z": (1, 2)}, "x"),
        ({"x": (1, 1001), "z": (1, 2)}, "x"),
        ({"x": (1, 2), "z": (1, 0)}, "z"),
        ({"x": (1, 2), "z": (1, 1001)}, "z"),
    ],
)
def test_an_invalid_size_is_reported_for_its_tensor(shapes: dict, field: str) -> None:
    with pytest.raises(ServingError) as caught:
        measure_request(
            sample_models.two_lengths(), {name: np.zeros(shape) for name, shape in shapes.items()}
        )
    assert caught.value.field == field
