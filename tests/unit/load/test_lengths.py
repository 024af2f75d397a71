"""Lengths from notations, files and the bundled counts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep_load.lengths import EmpiricalLengths, parse
from lockstep_load.lengths_file import BUNDLED, TextFile, resolve_lengths
from lockstep_load.tensors import sample_text

if TYPE_CHECKING:
    from pathlib import Path


def draw(given: str, count: int = 20_000) -> np.ndarray:
    return resolve_lengths(given).draw(np.random.default_rng(1), count)


def test_fixed_lengths_are_all_equal() -> None:
    assert set(draw("20")) == set(draw("fixed:20")) == {20}


def test_uniform_lengths_are_equally_likely() -> None:
    drawn = draw("uniform:5,50")
    assert (drawn.min(), drawn.max()) == (5, 50)
    assert drawn.mean() == pytest.approx(27.5, rel=0.02)
    assert drawn.std() == pytest.approx(np.sqrt((46**2 - 1) / 12), rel=0.02)


def test_lognormal_lengths_have_their_median_and_sigma_within_bounds() -> None:
    drawn = draw("lognormal:20,0.6,max=200")
    assert np.median(drawn) == pytest.approx(20, abs=1)
    assert np.log(drawn).std() == pytest.approx(0.6, rel=0.05)
    assert draw("lognormal:20,0.6,min=10,max=30").min() == 10
    assert draw("lognormal:20,0.6,min=10,max=30").max() == 30


def test_zipf_probabilities_fall_with_the_exponent() -> None:
    drawn = draw("zipf:1,max=100", 100_000)
    ones, tens = (drawn == 1).sum(), (drawn == 10).sum()
    assert ones / tens == pytest.approx(10, rel=0.15)
    assert drawn.max() <= 100


def test_bimodal_lengths_have_two_modes_with_the_given_shares() -> None:
    drawn = draw("bimodal:8,120,0.2")
    assert (drawn > 60).mean() == pytest.approx(0.2, abs=0.02)
    assert np.median(drawn[drawn <= 60]) == pytest.approx(8, abs=1)
    assert np.median(drawn[drawn > 60]) == pytest.approx(120, rel=0.05)


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_lengths_follow_their_counts(name: str) -> None:
    counted = resolve_lengths(name)
    assert isinstance(counted, EmpiricalLengths)
    mean = np.average(counted.values, weights=counted.weights)
    assert draw(name).mean() == pytest.approx(mean, rel=0.03)


@given(st.integers(1, 500), st.integers(1, 500), st.integers(0, 9))
def test_drawn_lengths_are_at_least_1(a: int, b: int, seed: int) -> None:
    low, high = sorted((a, b))
    for notation in (f"uniform:{low},{high}", f"lognormal:{a},1.5,max={high}", f"bimodal:{low},{high},0.5"):
        found = parse(notation)
        assert found is not None
        drawn = found.draw(np.random.default_rng(seed), 50)
        assert len(drawn) == 50
        assert drawn.min() >= 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("uniform:5", "use the form uniform:5,50"),
        ("uniform:50,5", "minimum 50 is more than the maximum 5"),
        ("uniform:0,5", "0 is not a length"),
        ("lognormal:20,x", "'x' is not a number"),
        ("lognormal:20,0.5,most=3,min=1,oops=2", "use the form lognormal"),
        ("lognormal:-1,0.5", "median must be above 0"),
        ("zipf:1.2", "use the form zipf"),
        ("bimodal:8,120,1.5", "0 to 1"),
        ("0", "0 is not a length"),
        ("nosuchfile.txt", "no such file"),
        ("poisson:3", "no such file"),
    ],
)
def test_a_wrong_notation_is_rejected(given: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_lengths(given)


def test_lengths_from_a_file_follow_their_counts(tmp_path: Path) -> None:
    file = tmp_path / "lengths.txt"
    file.write_text("3\n3\n3\n9\n\n")
    drawn = draw(str(file))
    assert (drawn == 3).mean() == pytest.approx(0.75, abs=0.02)
    assert set(drawn) == {3, 9}


def test_texts_from_a_file_are_drawn(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("a fine film\nnot at all\nthe end of the story\n")
    found = resolve_lengths(str(file))
    assert isinstance(found, TextFile)
    assert set(found.pick(np.random.default_rng(0), 50)) == set(found.texts)
    assert set(draw(str(file))) == {3, 5}


@pytest.mark.parametrize("content", [[4, 4, 8], {"lengths": {"4": 2, "8": 1}}])
def test_a_json_file_may_hold_lengths_or_counts(tmp_path: Path, content: object) -> None:
    file = tmp_path / "lengths.json"
    file.write_text(json.dumps(content))
    assert set(draw(str(file))) == {4, 8}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "the file is empty"),
        ("a.txt", b"3\n-4\n", "-4 is not a length"),
        ("a.txt", b"\xff\xfe", "not UTF-8"),
        ("a.json", b"{", "not JSON"),
        ("a.json", b"7", "expected a list"),
        ("a.json", b'{"lengths": {"x": 1}}', "must be numbers"),
        ("a.json", b'{"lengths": {"3": 0}}', "at least one above 0"),
        ("a.json", b"[3, null]", "entry 1 is neither"),
    ],
)
def test_an_invalid_file_is_rejected(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        resolve_lengths(str(file))


@given(st.integers(1, 300), st.integers(0, 99))
def test_a_sample_text_has_the_given_number_of_words(count: int, seed: int) -> None:
    assert len(sample_text(count, np.random.default_rng(seed)).split()) == count
