"""examples/voice_activity: Silero's graph, from its package, answers as its package does, bit for bit.

The package is taken from this environment, or installed into a folder. Without either, the tests are skipped.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from integration.harness import Served, serve
from patience import PATIENCE_S, limit_s

from lockstep_client import Client

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).parents[2] / "examples" / "voice_activity"
CALLERS = 12
OWN = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np, torch
from silero_vad import load_silero_vad
model, found = load_silero_vad(onnx=True), {}
for name, sound in np.load(sys.argv[2]).items():
    model.reset_states()
    padded = np.pad(sound, (0, -len(sound) % 512))
    windows = padded.reshape(-1, 512)
    found[name] = np.array([model(torch.from_numpy(window), 16000).item() for window in windows], np.float32)
np.savez(sys.argv[3], **found)
"""
"""Probabilities by the package's own wrapper, with ONNX Runtime."""

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder that holds the package."""
    found = importlib.util.find_spec("silero_vad")
    if found is not None and found.origin is not None:
        return str(Path(found.origin).parents[1])
    folder = tmp_path_factory.mktemp("packages")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--retries", "0"]
    try:
        subprocess.run(
            [*install, "--timeout", "10", "--target", str(folder), "silero-vad"],
            capture_output=True,
            check=True,
            timeout=limit_s(60),
        )
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"silero-vad is not installed, and pip cannot install it: {error}")
    return str(folder)


@pytest.fixture(scope="module")
def sounds() -> dict[str, Array]:
    """A second or so of a voice-like buzz between noise, of another length and pitch for each caller."""
    rng = np.random.default_rng(4)
    made = {}
    for caller in range(CALLERS):
        time = np.arange(16000 + 777 * caller) / 16000
        pitch = (90 + 12 * caller) * (1 + 0.05 * np.sin(2 * np.pi * 3 * time))
        phase = 2 * np.pi * np.cumsum(pitch) / 16000
        buzz = sum(np.sin(k * phase) / k for k in range(1, 20))
        envelope = np.clip(np.sin(2 * np.pi * 1.5 * time), 0, None)
        sound = 0.2 * envelope * buzz + 0.005 * rng.standard_normal(len(time))
        made[str(caller)] = sound.astype(np.float32)
    return made


@pytest.fixture(scope="module")
def expected(
    packages: str, sounds: dict[str, Array], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Array]:
    folder = tmp_path_factory.mktemp("sounds")
    np.savez(folder / "sounds.npz", **sounds)  # type: ignore[arg-type]
    arguments = [packages, str(folder / "sounds.npz"), str(folder / "own.npz")]
    ended = subprocess.run(
        [sys.executable, "-c", OWN, *arguments], capture_output=True, text=True, timeout=limit_s(120)
    )
    if "ModuleNotFoundError" in ended.stderr:
        pytest.skip(f"the package cannot be imported: {ended.stderr.strip().splitlines()[-1]}")
    assert ended.returncode == 0, ended.stderr
    return dict(np.load(folder / "own.npz"))


@pytest.fixture(scope="module")
def server(packages: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    subprocess.run([sys.executable, FOLDER / "make_model.py", root, packages], check=True)
    with serve(root) as started:
        yield started


def test_streams_of_many_callers_step_together_and_get_the_packages_answers(
    server: Served, sounds: dict[str, Array], expected: dict[str, Array]
) -> None:
    spec = server.engine("silero-vad").spec
    assert (spec.batched, spec.deterministic, spec.notice) == (True, True, "")

    def follow(name: str) -> Array:
        sound, piece = sounds[name], 100 + 61 * int(name)  # samples at a time
        parts = [sound[start : start + piece] for start in range(0, len(sound), piece)]
        with Client(server.address, timeout_s=PATIENCE_S) as client:
            return np.array([one.outputs["output"][0] for one in client.follow_frames("silero-vad", parts)])

    with ThreadPoolExecutor(CALLERS) as pool:
        found = dict(zip(sounds, pool.map(follow, sounds), strict=True))
    for name, probabilities in expected.items():
        assert np.array_equal(found[name], probabilities), name
    rows, steps = (
        server.metric(f"lockstep_batch_rows_{part}", model="silero-vad") for part in ("sum", "count")
    )
    assert rows == sum(map(len, expected.values()))
    assert rows > 1.2 * steps


def test_the_example_prints_when_somebody_speaks(
    server: Served, sounds: dict[str, Array], expected: dict[str, Array], tmp_path: Path
) -> None:
    file = tmp_path / "speech.wav"
    with wave.open(str(file), "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(16000)
        written.writeframes((sounds["3"] * 20000).astype("<i2").tobytes())
    ended = subprocess.run(
        [sys.executable, "-W", "error", FOLDER / "detect.py", server.address, file],
        capture_output=True,
        text=True,
        timeout=limit_s(100),
    )
    assert ended.returncode == 0, ended.stderr
    assert f"{len(expected['3'])} windows" in ended.stdout
