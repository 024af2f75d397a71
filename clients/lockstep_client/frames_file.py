"""Frames from a file: an array of numpy, or sound."""

from __future__ import annotations

import wave
from typing import TYPE_CHECKING, Any

import numpy as np

from lockstep_client.texts import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

_SAMPLE_BYTES = 2


def chunks(path: Path, size: int) -> Iterator[npt.NDArray[Any]]:
    """The frames of a file, `size` at a time; 0: all at once.

    A .npy file holds an array [frames, ...]; a .wav file holds one channel of 16-bit samples, which become
    float32 from -1 to 1.

    Raises:
        InputError: the file cannot be read, or has other content.
    """
    array = read(path)
    step = size or max(len(array), 1)
    for start in range(0, len(array), step):
        yield array[start : start + step]


def read(path: Path) -> npt.NDArray[Any]:
    """All frames of a file, as `chunks`.

    Raises:
        InputError: as `chunks`.
    """
    try:
        array = _sound(path) if path.suffix.lower() == ".wav" else np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, wave.Error) as error:
        raise InputError(f"{path}: cannot be read as .npy or .wav: {error}") from None
    if not isinstance(array, np.ndarray) or array.ndim == 0 or not len(array):
        raise InputError(f"{path}: no frames: save an array [frames, ...] with numpy.save")
    return array


def _sound(path: Path) -> npt.NDArray[Any]:
    with wave.open(str(path)) as file:
        if file.getnchannels() != 1 or file.getsampwidth() != _SAMPLE_BYTES:
            raise InputError(
                f"{path}: {file.getnchannels()} channels of {8 * file.getsampwidth()} bits: convert it to one"
                " channel of 16 bits"
            )
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    return samples.astype(np.float32) / np.float32(1 << 15)
