"""Rendered touch tones: sound of dialled keys, and the frames that the model reads.

keys → `render`: samples at 8,000 Hz with noise → `frames_of`: one frame of 36 log powers every 16 ms

Each key is two tones at once, one of its row and one of its column (ITU-T Q.23). Durations, pauses, levels,
detuning and noise are random.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RATE = 8000
WINDOW, HOP = 256, 128
FIRST_BIN, LAST_BIN = 20, 56  # of the spectrum: 625 to 1,719 Hz
FEATURES = LAST_BIN - FIRST_BIN
KEYS = "123A456B789C*0#D"
ROWS, COLUMNS = (697.0, 770.0, 852.0, 941.0), (1209.0, 1336.0, 1477.0, 1633.0)
MOST_KEYS = 8
QUIETEST = 1e-7  # power below which a frame is silence

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Conditions:
    """How sound is rendered: ranges of the random values."""

    tone_s: tuple[float, float] = (0.05, 0.2)
    pause_s: tuple[float, float] = (0.05, 0.25)
    level_db: tuple[float, float] = (-20.0, 0.0)
    twist_db: float = 4.0  # largest difference between the tones of a key
    detuning: float = 0.015  # largest, as a share of the frequency
    noise_db: tuple[float, float] = (-30.0, -6.0)  # of white noise, relative to the tones


CONDITIONS = Conditions()


def draw_keys(rng: np.random.Generator) -> str:
    """1 to 8 keys; every fourth repeats the one before it, which only a pause tells apart."""
    keys = ""
    for _ in range(rng.integers(1, MOST_KEYS + 1)):
        keys += keys[-1] if keys and rng.random() < 0.25 else KEYS[rng.integers(len(KEYS))]
    return keys


def render(keys: str, rng: np.random.Generator, conditions: Conditions = CONDITIONS) -> Samples:
    """The sound of these keys, with a pause before, between and after them."""
    return render_with_places(keys, rng, conditions)[0]


def render_with_places(
    keys: str, rng: np.random.Generator, conditions: Conditions = CONDITIONS
) -> tuple[Samples, list[tuple[int, int]]]:
    """As `render`, with the first sample of each key and the one after its last."""
    level = 10 ** (rng.uniform(*conditions.level_db) / 20) / 2
    parts, places = [_silence(rng, conditions)], []
    for key in keys:
        start = sum(map(len, parts))
        parts.append(level * _tone(key, rng, conditions))
        places.append((start, start + len(parts[-1])))
        parts.append(_silence(rng, conditions))
    clean = np.concatenate(parts)
    noise = level * 10 ** (rng.uniform(*conditions.noise_db) / 20)
    return (clean + noise * rng.standard_normal(len(clean))).astype(np.float32), places


def frames_of(samples: Samples) -> npt.NDArray[np.float32]:
    """Log powers [frames, 36] of windows of 256 samples, one every 128; a rest of the sound is left out."""
    count = max((len(samples) - WINDOW) // HOP + 1, 0)
    if not count:
        return np.zeros((0, FEATURES), np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
    spectrum = np.fft.rfft(windows * np.hanning(WINDOW), axis=1)[:, FIRST_BIN:LAST_BIN]
    return np.log10(np.abs(spectrum) ** 2 / WINDOW + QUIETEST).astype(np.float32)


def _silence(rng: np.random.Generator, conditions: Conditions) -> npt.NDArray[np.float64]:
    return np.zeros(int(RATE * rng.uniform(*conditions.pause_s)))


def _tone(key: str, rng: np.random.Generator, conditions: Conditions) -> npt.NDArray[np.float64]:
    place = KEYS.index(key)
    time = np.arange(int(RATE * rng.uniform(*conditions.tone_s))) / RATE
    found = np.zeros(len(time))
    for frequency in (ROWS[place // 4], COLUMNS[place % 4]):
        detuned = frequency * (1 + rng.uniform(-conditions.detuning, conditions.detuning))
        loudness = 10 ** (rng.uniform(-conditions.twist_db / 2, conditions.twist_db / 2) / 20)
        found += loudness * np.sin(2 * np.pi * detuned * time + rng.uniform(0, 2 * np.pi))
    return found
