"""A cell stepped word by word gives the states of the whole sequence."""

from typing import get_args

import pytest
import torch

from lockstep_export.recurrent import Cell, Kind, Packed

INPUTS, HIDDEN, WORDS, ROWS = 5, 4, 7, 3


@pytest.mark.parametrize("kind", get_args(Kind))
def test_steps_equal_the_sequence(kind: Kind) -> None:
    torch.manual_seed(1)
    packed = Packed(kind, INPUTS, HIDDEN)
    x = torch.randn(WORDS, ROWS, INPUTS)
    expected, ends = packed(x, torch.tensor([WORDS, 4, 1]))
    cell = Cell(packed)
    states = (torch.zeros(ROWS, HIDDEN),) * len(ends)
    found = []
    for element in x:
        states = cell(cell.project(element), states)
        found.append(states[0])
    for row, length in enumerate((WORDS, 4, 1)):
        stepped = torch.stack(found[:length])[:, row]
        assert torch.allclose(stepped, expected[:length, row], atol=1e-6)
        assert torch.equal(ends[0][0, row], expected[length - 1, row])
        assert not expected[length:, row].any()


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_sequence_continues_from_given_states(kind: Kind) -> None:
    torch.manual_seed(2)
    packed, x = Packed(kind, INPUTS, HIDDEN), torch.randn(WORDS, ROWS, INPUTS)
    whole, ends = packed(x, torch.full((ROWS,), WORDS))
    _, middle = packed(x[:3], torch.full((ROWS,), 3))
    rest, after = packed(x[3:], torch.full((ROWS,), WORDS - 3), middle)
    assert torch.allclose(rest, whole[3:], atol=1e-6)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(after, ends, strict=True))
