"""`lockstep doctor`, with things that are broken for real, and on servers that run."""

from __future__ import annotations

import http.server
import json
import shutil
import threading
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import security
from integration.harness import Served, settings

from lockstep_client import cli

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Doctor = Callable[..., tuple[int, dict[str, dict[str, str]]]]

MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture
def doctor(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """Run it. Returns the exit code, and the findings by what was checked."""
    monkeypatch.delenv("LOCKSTEP_ADDRESS", raising=False)

    def run(*arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
        code = cli.run(["doctor", "--json", *arguments])
        printed = capsys.readouterr()
        assert printed.err == ""
        return code, {one["check"]: one for one in map(json.loads, printed.out.splitlines())}

    return run


class _Silent(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web_port() -> Iterator[int]:
    """The port of an HTTP server that is not ours."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Silent) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def problems(findings: dict[str, dict[str, str]]) -> set[str]:
    assert all(one["remedy"] for one in findings.values() if one["state"] == "problem")
    return {check for check, one in findings.items() if one["state"] == "problem"}


def test_what_is_broken_is_named_with_what_to_do(doctor: Doctor, tmp_path: Path, web_port: int) -> None:
    root = tmp_path / "models"
    for name in (
        "sentiment-bow",
        "sentiment-lstm",
        "sentiment-mean",
        "sentiment-attention",
        "sentiment-tfidf",
    ):
        shutil.copytree(MODELS / name, root / name)
    shutil.copy(MODELS / "SHA256SUMS", root)
    (root / "no-version").mkdir()
    (root / "sentiment-bow" / "model.toml").write_text('task = "clasify"')
    (root / "sentiment-lstm" / "1" / "weights.bin").unlink()
    (root / "sentiment-mean" / "tokenizer.json").unlink()
    (root / "sentiment-attention" / "1" / "model.onnx").write_text(
        "version https://git-lfs.github.com/spec/v1\n"
    )
    taken = tmp_path / "file"
    taken.touch()

    code, found = doctor(
        "--models", str(root), "--port", str(web_port), "--metrics-port", "0", "--device", "cpu",
        "--cache", str(taken / "cache"),
    )  # fmt: skip
    assert code == 1
    broken = {f"model sentiment-{name}" for name in ("bow", "lstm", "mean", "attention")}
    assert problems(found) == {*broken, "gRPC port", "hashes"}
    assert "task: invalid value 'clasify'" in found["model sentiment-bow"]["detail"]
    assert "weights.bin, which does not exist" in found["model sentiment-lstm"]["detail"]
    assert "text.source: 'tokenizer.json' does not exist" in found["model sentiment-mean"]["detail"]
    assert found["model sentiment-attention"]["remedy"] == "run git lfs pull"
    assert found["models"]["detail"].startswith("1 of 5 versions")
    assert "3 of " in found["hashes"]["detail"]
    assert found["gRPC port"]["detail"] == f"{web_port} is taken by an HTTP server"
    assert found["cache"]["state"] == "warning"
    assert found["model no-version"]["state"] == "warning"


def test_settings_that_are_not_valid_are_a_problem(doctor: Doctor, tmp_path: Path) -> None:
    config = tmp_path / "server.toml"
    config.write_text("prot = 1\n")
    code, found = doctor("--config", str(config))
    assert (code, problems(found)) == (1, {"server"})
    assert "did you mean 'port'?" in found["server"]["detail"] + found["server"]["remedy"]


def test_a_healthy_server_and_its_ports_are_no_problem(doctor: Doctor, shipped: Served) -> None:
    port = shipped.address.rpartition(":")[2]
    code, found = doctor(
        "--address", shipped.address, "--port", port, "--metrics-port", "0", "--models", "examples:"
    )
    assert (code, problems(found)) == (0, set())
    assert found["connection"]["detail"].startswith(f"{shipped.address}: Lockstep ")
    assert found["health"]["detail"].startswith("SERVING, ")
    assert "taken by a server: Lockstep" in found["gRPC port"]["detail"]
    assert found["hashes"]["state"] == "ok"


def test_a_server_with_tls_is_told_from_one_without(doctor: Doctor, tmp_path: Path) -> None:
    certs = security.certificates()
    shutil.copytree(MODELS / "sentiment-bow", tmp_path / "sentiment-bow")
    server = Served(settings(tmp_path, **security.tls(certs)))
    with closing(server):
        address = f"localhost:{server.address.rpartition(':')[2]}"
        code, found = doctor("--address", address, "--metrics-port", "0", "--port", "0")
        assert (code, problems(found)) == (1, {"connection"})
        assert "set --tls" in found["connection"]["remedy"]
        _, found = doctor("--address", address, "--tls", str(certs / "ca.pem"), "--port", "0")
        assert found["connection"]["state"] == "ok"
        assert found["certificate"]["detail"].startswith("valid for ")


def test_a_package_below_its_bound_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    from lockstep_client import doctor as checks

    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.1" if name == "msgspec" else real(name))
    wrong = [one for one in checks.packages() if one.state == "problem"]
    assert len(wrong) == 1
    assert wrong[0].detail.startswith("msgspec 0.1 is installed, >=")
    assert wrong[0].remedy.startswith("pip install 'lockstep-inference[")
