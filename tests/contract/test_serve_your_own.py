"""Writes the files of docs/serve-your-own.md and runs its commands, in order.

Only the server's ports are changed, to free ones. Scripts and commands run in this process, as each would
import PyTorch for seconds; the server is a process.
"""

import io
import os
import re
import runpy
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, redirect_stdout, suppress
from pathlib import Path

import numpy as np
import pytest
from patience import PATIENCE_S, wait_until

import lockstep_export.__main__
from lockstep_client import Client, LockstepError, cli

PAGE = Path(__file__).parents[2] / "docs/serve-your-own.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SERVE = "lockstep-serve"
PORT = "8001"


class PageRunner:
    """Runs the blocks of a page in an empty folder; the server runs in the background."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server: subprocess.Popen[bytes] | None = None
        self.outputs: dict[str, str] = {}
        port, metrics_port = _free_ports()
        self.port = str(port)
        self.environment = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "LOCKSTEP_PORT": self.port,
            "LOCKSTEP_METRICS_PORT": str(metrics_port),
            "LOCKSTEP_ADDRESS": f"localhost:{port}",
            "LOCKSTEP_CACHE": "",
        }

    def follow(self, page: str) -> None:
        """Writes or runs every block, in order."""
        for language, block in BLOCK.findall(page):
            if language == "python":
                (name,) = re.findall(r"^# (\w+\.py)$", block.split("\n")[0])
                (self.folder / name).write_text(block.replace(PORT, self.port), encoding="utf-8")
            elif not language:
                for command in block.splitlines():
                    with pytest.MonkeyPatch.context() as patch, chdir(self.folder):
                        for name, value in self.environment.items():
                            patch.setenv(name, value)
                        self._run(command, patch)

    def close(self) -> None:
        """Stops the server with SIGINT."""
        if self.server is not None:
            self.server.send_signal(signal.SIGINT)
            self.server.wait(PATIENCE_S)

    def _is_ready(self) -> bool:
        with Client(f"localhost:{self.port}", retries=0) as client, suppress(LockstepError):
            return client.health(timeout_s=PATIENCE_S).serving
        return False

    def _run(self, command: str, patch: pytest.MonkeyPatch) -> None:
        program, *arguments = words = shlex.split(command)
        if program == "pip":
            return  # already installed
        if program == SERVE:
            self.close()
            self.server = subprocess.Popen(words)
            return
        if command == "lockstep health":
            wait_until(self._is_ready, "the server is ready")
        patch.setattr(sys, "argv", words)
        with redirect_stdout(io.StringIO()) as printed:
            if program == "python":
                [script] = arguments
                runpy.run_path(script, run_name="__main__")
            elif program == "lockstep":
                assert cli.run(arguments) == 0, command
            else:
                assert program == "lockstep-export"
                with pytest.raises(SystemExit, match="0"):
                    lockstep_export.__main__.main()
        self.outputs[command] = printed.getvalue()


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageRunner]:
    runner = PageRunner(tmp_path_factory.mktemp("page"))
    try:
        runner.follow(PAGE.read_text(encoding="utf-8"))
        yield runner
    finally:
        runner.close()


def output(followed: PageRunner, command: str) -> str:
    """The output of the one command that starts with `command`."""
    (found,) = [text for line, text in followed.outputs.items() if line.startswith(command)]
    return found


def test_all_blocks_of_the_page_run(followed: PageRunner) -> None:
    assert "models/reviews/1: parity holds" in output(followed, "python reviews.py")
    files = {str(path.relative_to(followed.folder)) for path in followed.folder.glob("models/reviews/**/*.*")}
    listed, *_ = [block for language, block in BLOCK.findall(PAGE.read_text()) if language == "text"]
    assert files == {line.split()[0] for line in listed.splitlines()}


def test_texts_are_classified_one_shot_and_word_by_word(followed: PageRunner) -> None:
    fine, dull = output(followed, "lockstep classify --model reviews").splitlines()
    assert fine.split("\t")[0] == "positive"
    assert dull.split("\t")[0] == "negative"
    assert len(output(followed, "lockstep follow --model reviews").splitlines()) == 6


def test_a_variant_is_reported_with_its_original(followed: PageRunner) -> None:
    first, *graphs = output(followed, "lockstep-export variant").splitlines()
    assert first.startswith("models/reviews-int8/1: ")
    assert [line.split()[0] for line in graphs] == ["model.onnx", "step.onnx"]


def test_a_text_is_generated(followed: PageRunner) -> None:
    text = output(followed, "lockstep generate --model letters")
    assert len(text.rstrip("\n")) == 30
    assert "not to be" in text


def test_a_decoder_with_a_prefill_and_a_cache_generates(followed: PageRunner) -> None:
    assert len(output(followed, "lockstep generate --model decoder").rstrip("\n")) == 20
    assert (followed.folder / "models/decoder/1/prefill.onnx").is_file()


def test_a_written_step_keeps_its_state(followed: PageRunner) -> None:
    last = output(followed, "python ask_average.py").splitlines()[-1]
    assert last == "[[3. 3. 3.]]"


def test_an_encoder_gives_batched_texts_their_unbatched_vectors(followed: PageRunner) -> None:
    lines = output(followed, "lockstep encode --model encoder").splitlines()
    vectors = [[float(number) for number in line.split("\t")[0].split()] for line in lines]
    assert [len(vector) for vector in vectors] == [32, 32]
    texts = ["a fine film", "a dull plot", "fine", "a film , a fine film , a dull plot"] * 3
    with Client(f"localhost:{followed.port}") as client:
        (served,) = [model for model in client.models() if model.name == "encoder"]
        batched = client.encode("encoder", texts)
        for text, one in zip(texts, batched, strict=True):
            (unbatched,) = client.encode("encoder", text)
            assert np.allclose(one.vector, unbatched.vector, atol=1e-5)
            assert np.isclose(np.linalg.norm(one.vector), 1, atol=1e-5)
    assert served.state == "READY"
    assert np.allclose(vectors[0], batched[0].vector, rtol=1e-4, atol=1e-5)


def test_a_tagger_labels_words_at_their_places(followed: PageRunner) -> None:
    rows = [line.split("\t") for line in output(followed, "lockstep classify-tokens").splitlines()]
    assert [(row[0], row[3]) for row in rows] == [
        ("0:3", "Ada"), ("4:12", "Lovelace"), ("13:18", "lives"), ("19:21", "in"), ("22:27", "Paris")
    ]  # fmt: skip
    assert all(row[1] in ("O", "B-PER", "I-PER", "B-LOC", "I-LOC") for row in rows)
