"""Frames from files: arrays and sound, in chunks, or the reason why not."""

from __future__ import annotations

import wave
from typing import TYPE_CHECKING

import numpy as np
import pytest

from lockstep_client import frames_file
from lockstep_client.texts import InputError

if TYPE_CHECKING:
    from pathlib import Path


def write_wave(path: Path, channels: int = 1) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(np.array([0, 1 << 14, -(1 << 15), 32767], "<i2").tobytes())


def test_an_array_is_read_in_chunks(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(10, dtype=np.float32).reshape(5, 2))
    assert [len(chunk) for chunk in frames_file.chunks(tmp_path / "x.npy", 2)] == [2, 2, 1]
    assert [len(chunk) for chunk in frames_file.chunks(tmp_path / "x.npy", 0)] == [5]


def test_sound_is_float32_from_minus_one_to_one(tmp_path: Path) -> None:
    write_wave(tmp_path / "x.wav")
    samples = frames_file.read(tmp_path / "x.wav")
    assert samples.dtype == np.float32
    assert samples.tolist() == [0, 0.5, -1, 32767 / 32768]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("stereo.wav", "convert it to one"),
        ("text.npy", "cannot be read as"),
        ("text.wav", "cannot be read as"),
        ("missing.npy", "cannot be read as"),
        ("empty.npy", "no frames"),
        ("scalar.npy", "no frames"),
        ("object.npy", "cannot be read as"),
    ],
)
def test_another_file_is_refused_with_the_reason(tmp_path: Path, name: str, reason: str) -> None:
    write_wave(tmp_path / "stereo.wav", channels=2)
    for text in ("text.npy", "text.wav"):
        (tmp_path / text).write_text("no frames")
    np.save(tmp_path / "empty.npy", np.zeros((0, 3)))
    np.save(tmp_path / "scalar.npy", np.zeros(()))
    np.save(tmp_path / "object.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(InputError, match=reason):
        list(frames_file.chunks(tmp_path / name, 0))
