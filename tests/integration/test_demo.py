"""`python -m lockstep_client.demo` end to end: output, exit codes and cleanup."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from patience import PATIENCE_S, limit_s, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
MODELS = ("sentiment-bow", "sentiment-lstm", "sentiment-bilstm", "sentiment-transformer")
MOMENTS = [
    (signal.SIGTERM, "", ["sentiment-bow"]),
    (signal.SIGINT, "is ready", ["sentiment-bow"]),
    (signal.SIGTERM, "in flight", ["sentiment-transformer"]),
    (signal.SIGINT, "continues 'ROMEO:'", ["sentiment-bow", "shakespeare-char-lstm"]),
]
"""Signals, texts after which they are sent, and the models that the demo needs to come that far. The demo has
one handler for all signals, so each kind of part is interrupted by one of them: start, requests, streams."""


@pytest.fixture
def ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


@pytest.fixture
def demo(ports: tuple[int, int]) -> Iterator[subprocess.Popen[str]]:
    with _start(*ports) as process:
        yield process
        process.kill()


def _start(port: int, metrics_port: int, models: Path = ROOT / "models") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lockstep_client.demo", "--device", "cpu", "--models", str(models)]
    return subprocess.Popen(
        [*command, "--port", str(port), "--metrics-port", str(metrics_port)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _servers_at(port: int) -> list[int]:
    """Processes of servers with this port."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "lockstep_server" in words and str(port) in words:
            found.append(process.pid)
    return found


def _wait_for_server(demo: subprocess.Popen[str]) -> None:
    wait_until(lambda: bool(psutil.Process(demo.pid).children()), "the demo starts a server")


def _read_until(demo: subprocess.Popen[str], word: str) -> None:
    assert demo.stdout is not None
    for line in demo.stdout:
        if word in line:
            return
    assert demo.stderr is not None
    pytest.fail(f"the demo ended before it printed {word!r}: {demo.stderr.read()}")


def test_the_demo_shows_every_part(demo: subprocess.Popen[str], ports: tuple[int, int]) -> None:
    out, err = demo.communicate(timeout=limit_s(90))

    assert (demo.returncode, err) == (0, "")
    rows = {cells[0]: cells[1:] for line in out.splitlines() if len(cells := re.split(r"\s{2,}", line)) > 1}
    shipped = {path.parent.name for path in (ROOT / "models").glob("sentiment-*/model.toml")}
    labelled = re.findall(r"^(sentiment-\S+) +((?:(?:positive|negative) +\d+%[, ]*){6})$", out, re.MULTILINE)
    assert {model for model, _ in labelled} == shipped
    assert re.search(r"4,096 texts to sentiment-bow by classify_many: [\d,]+ texts/s", out)
    for model in MODELS:
        requests, runs, rows_a_run, padding, *rest = rows[model]
        assert requests == "512"
        assert 1 <= int(runs) <= 512
        assert float(rows_a_run) == pytest.approx(512 / int(runs), abs=0.051)
        assert 0 <= int(padding.rstrip("%")) < 100
        assert all(float(number) >= 0 for number in rest)
    assert float(rows["sentiment-lstm"][2]) > 1
    _check_streams(out)
    assert "`make ui`" in out.splitlines()[-1]
    assert not _servers_at(ports[0])


def _check_streams(out: str) -> None:
    """Check the later parts: generation, translation with attention, follow and race."""
    assert "shakespeare-char-lstm continues 'ROMEO:'" in out
    for path in (ROOT / "models").glob("captions-*/model.toml"):
        assert re.search(rf"^{path.parent.name} +a man in a blue \w+", out, re.MULTILINE)
    streams = [
        line.split() for line in out.splitlines() if re.fullmatch(r"\s*\d+(\s+[\d,.]+){5}\s+yes", line)
    ]
    assert [row[0] for row in streams] == ["1", "8", "64"]
    assert float(streams[-1][3]) > 8
    assert "Un homme" in out
    assert "░ from 10%" in out
    assert re.search(r"^film +positive \d+%", out, re.MULTILINE)
    ways = re.findall(r"^(step-wise|fused|one-shot|re-encoding) +sentiment-\S+ +(\d+) ", out, re.MULTILINE)
    assert len(set(ways)) == 8
    assert "At 100 words the step-wise model had its first prediction after" in out
    assert "skipp" not in out


def test_a_part_without_its_model_is_skipped(ports: tuple[int, int], tmp_path: Path) -> None:
    shutil.copytree(ROOT / "models" / "sentiment-tfidf", tmp_path / "sentiment-tfidf")
    shutil.copytree(ROOT / "models" / "sentiment-bow", tmp_path / "sentiment-bow")
    (tmp_path / "sentiment-bow" / "1" / "model.onnx").write_bytes(b"no model")
    with _start(*ports, tmp_path) as process:
        out, err = process.communicate(timeout=limit_s(90))

    assert (process.returncode, err) == (0, "")
    assert "  sentiment-bow is not served: " in out
    for part in ("continues a text", "translates", "classifies texts step by step", "returns its attention"):
        assert f"No model here {part}" in out
    assert "4,096 texts to sentiment-tfidf" in out
    assert "Done." in out


@pytest.mark.parametrize(("number", "moment", "models"), MOMENTS)
def test_a_signal_ends_the_demo_and_its_server(
    ports: tuple[int, int], tmp_path: Path, number: signal.Signals, moment: str, models: list[str]
) -> None:
    for model in models:
        shutil.copytree(ROOT / "models" / model, tmp_path / model)
    with _start(*ports, tmp_path) as demo:
        _wait_for_server(demo)
        if moment:
            _read_until(demo, moment)

        demo.send_signal(number)
        _, err = demo.communicate(timeout=PATIENCE_S)

    assert demo.returncode == 128 + number
    assert err.strip() == "demo: interrupted, the server is stopped"
    assert not _servers_at(ports[0])


@pytest.mark.parametrize("which", [0, 1])
def test_a_port_in_use_is_named_with_the_fix(ports: tuple[int, int], which: int) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", ports[which]))
        holder.listen()
        with _start(*ports) as process:
            out, err = process.communicate(timeout=PATIENCE_S)

    assert (process.returncode, out) == (1, "")
    assert f"port {ports[which]}" in err
    assert "make demo PORT=9001 METRICS_PORT=9002" in err
    assert len(err.splitlines()) == 1
