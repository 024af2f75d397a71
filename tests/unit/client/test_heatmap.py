"""The heat map: shades, colours, headers and blocks."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from lockstep_client.heatmap import heat_map

WORDS = ("a", "man", "in", "blue")
WEIGHTS = np.array([[0.9, 0.05, 0.05, 0.0], [0.12, 0.3, 0.55, 0.03]], np.float32)


def lines(width=80, colour=None, encoding="utf-8", weights=WEIGHTS, across=WORDS, down=("un", "▁homme")):
    file = io.TextIOWrapper(io.BytesIO(), encoding)
    console = Console(file=file, width=width, color_system=colour, force_terminal=colour is not None)
    for line in heat_map(weights, across, down, console):
        console.print(line, no_wrap=True, crop=False)
    file.seek(0)
    return file.read().splitlines()


def test_weights_are_shown_as_shades():
    assert lines() == [
        "      a    man  in   blue",
        "un    ████",
        "homme ░░░░ ▒▒▒▒ ▓▓▓▓",
        "      ░ from 10%  ▒ from 25%  ▓ from 50%  █ from 75%",
    ]


def test_shades_are_ascii_in_an_ascii_terminal():
    assert lines(encoding="ascii", down=("un", "homme"))[1:3] == ["un    ####", "homme .... :::: ****"]


def test_wide_headers_are_printed_vertically():
    assert lines(width=18)[:6] == [
        "               b",
        "         m     l",
        "         a  i  u",
        "      a  n  n  e",
        "un    ██",
        "homme ░░ ▒▒ ▓▓",
    ]


def test_a_wide_map_is_split_into_blocks():
    shown = lines(width=10)
    assert [line.rstrip() for line in shown if line.startswith(("un", "homme"))] == [
        "un    █",
        "homme ░ ▒",
        "un",
        "homme ▓",
    ]


@pytest.mark.parametrize("system", ["256", "truecolor"])
def test_weights_are_shown_as_colours(system):
    shown = "\n".join(lines(colour=system))
    assert "\x1b[48;" in shown
    assert "█" not in shown


def test_sixteen_colours_fall_back_to_shades():
    assert lines(colour="standard")[1] == "un    ████"


def test_white_space_is_made_visible_and_long_tokens_are_cut():
    header = lines(across=(" ", "\n", "▁", "antidisestablishmentarianism"), width=100)[0]
    assert header.split() == ["␣", "␣", "▁", "antidisestab"[:11] + "…"]


def test_an_empty_map_is_only_a_legend():
    assert len(lines(weights=np.zeros((0, 0), np.float32), across=(), down=())) == 1
