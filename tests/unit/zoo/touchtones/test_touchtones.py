"""Touch tones: what is rendered, and the model that is committed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from lockstep_export.onnx_graph import OnnxGraph
from lockstep_zoo.touchtones.__main__ import edits, forms_of, measure
from lockstep_zoo.touchtones.model import LABELS, TouchTones, read_keys
from lockstep_zoo.touchtones.tones import (
    COLUMNS,
    FEATURES,
    HOP,
    KEYS,
    RATE,
    ROWS,
    WINDOW,
    Conditions,
    draw_keys,
    frames_of,
    render,
)

FOLDER = Path(__file__).parents[4] / "examples" / "models" / "touchtones"
MOST_BYTES = 1 << 20


def test_a_key_sounds_of_its_two_tones() -> None:
    clear = Conditions(tone_s=(0.5, 0.5), pause_s=(0, 0), twist_db=0, detuning=0, noise_db=(-80, -80))
    for place, key in enumerate(KEYS):
        sound = render(key, np.random.default_rng(0), clear)
        spectrum = np.abs(np.fft.rfft(sound))
        strongest = sorted(np.argsort(spectrum)[-2:] * RATE / len(sound))
        assert np.allclose(strongest, [ROWS[place // 4], COLUMNS[place % 4]], atol=2)


def test_frames_are_whole_windows() -> None:
    for size, count in ((WINDOW - 1, 0), (WINDOW, 1), (WINDOW + HOP - 1, 1), (WINDOW + HOP, 2)):
        assert frames_of(np.zeros(size, np.float32)).shape == (count, FEATURES)


def test_the_same_seed_gives_the_same_sound() -> None:
    one, other = (render(draw_keys(rng), rng) for rng in map(np.random.default_rng, (3, 3)))
    assert np.array_equal(one, other)


def test_keys_are_read_without_repetitions_and_blanks() -> None:
    best = [LABELS.index(key) if key in KEYS else 0 for key in "..11.1122..*"]
    assert read_keys(best) == "112*"
    assert edits("112*", "12*#") == 2


def test_the_committed_model_is_that_of_the_script() -> None:
    assert (FOLDER / "model.toml").read_text() == forms_of(TouchTones().eval()).manifest()
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) < MOST_BYTES


def test_the_committed_figures_are_those_of_the_model() -> None:
    figures = json.loads((FOLDER / "figures.json").read_text())
    assert measure(OnnxGraph(FOLDER / "1" / "model.onnx"), -12.0, 100)["key_error_rate"] < 0.03
    assert figures["usual"]["key_error_rate"] < 0.03
