"""Formulas of lengths: what they compute, what they refuse, and the formula that fits a graph's sizes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep_server.model import lengths


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("ceil(samples / 320)", 4),
        ("samples // 320", 3),
        ("floor(samples / 320)", 3),
        ("(samples - 400) // 320 + 1", 2),
        ("max(min(samples, 10) - 4, 1) * 2", 12),
        ("-samples + 1001", 1),
        ("ceil(samples * 0.02)", 20),
    ],
)
def test_a_formula_is_computed_exactly(formula: str, expected: int) -> None:
    assert lengths.parse(formula).value({"samples": 1000}) == expected


def test_a_quotient_is_exact_where_a_float_is_not() -> None:
    large = 2**53 + 1
    assert lengths.parse("ceil(n / 1)").value({"n": large}) == large
    assert lengths.parse("ceil(n * 0.1)").value({"n": 30}) == 3  # in floats, 3.0000000000000004


@pytest.mark.parametrize(
    ("formula", "why"), [("n / 3", "0.333333, not an integer"), ("4 // (n - 1)", "zero")]
)
def test_a_value_that_is_no_integer_is_refused(formula: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        lengths.parse(formula).value({"n": 1})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "n **",
        "n ** 2",
        "n % 2",
        "n if n else 1",
        "__import__('os')",
        "n.real",
        "n[0]",
        "abs(n)",
        "min(*n)",
        "ceil(x=n)",
        "ceil(n, 2)",
        "'n'",
        "True",
        "1e999",
        "99999999999",
        "(" * 150 + "n" + ")" * 40,
        "\0",
        "n + " * 100 + "n",
        "lambda: n",
    ],
)
def test_what_is_no_formula_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"use|give it"):
        lengths.parse(text)


@given(
    st.integers(2, 400), st.integers(-300, 300), st.integers(1, 50), st.sampled_from(["conv", "ceil", "up"])
)
def test_a_formula_that_fits_is_found(stride: int, shift: int, start: int, kind: str) -> None:
    def size_of(n: int) -> int:
        assert n <= start + 4096
        if kind == "up":
            return stride * n + shift
        return math.ceil(n / stride) if kind == "ceil" else (n + shift) // stride + 1

    found = lengths.fit("n", size_of, start, start + 4096)
    formula = lengths.parse(found)
    assert all(formula.value({"n": n}) == size_of(n) for n in range(start, start + 2000, 7))


def test_no_formula_is_invented_for_other_sizes() -> None:
    assert lengths.fit("n", lambda _: 7, 1, 4096) == ""
    assert lengths.fit("n", lambda n: n * n, 1, 4096) == ""
    assert lengths.fit("n", lambda n: n.bit_length(), 1, 4096) == ""
