"""The cost of TLS and of callers with names: servers side by side, loaded in turn."""

from __future__ import annotations

import hashlib
import json
import statistics
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lockstep_client.server_process import ServerProcess

from . import processes
from .feature_costs import cpu_s
from .result import Result
from .step_scenarios import MODEL

if TYPE_CHECKING:
    from collections.abc import Iterator

_CERTS = Path(__file__).parents[1] / "deploy" / "certs.sh"
_TOKEN = "of-the-benchmark"
_REQUESTS, _TOKENS, _STREAMS = 3000, 400, 64


def security(models: Path, rounds: int) -> Iterator[Result]:
    """TLS with a token, and mutual TLS, against neither: unary calls of a no-op model, and 64 streams.

    The CPU time of the server shows the cost where other work shares the machine.
    """
    folder = models.parent / "certs"
    subprocess.run([_CERTS, folder, "caller"], check=True, capture_output=True)
    auth = models.parent / "auth.toml"
    auth.touch(mode=0o600)
    digest = hashlib.sha256(_TOKEN.encode()).hexdigest()
    auth.write_text(f'[callers.caller]\ntokens = ["{digest}"]\ncertificates = ["caller"]\n')
    tls = (
        "--tls-cert",
        f"{folder}/server.pem",
        "--tls-key",
        f"{folder}/server.key",
        "--auth-file",
        str(auth),
    )
    kinds: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
        "plaintext": ((), {}),
        "TLS and a token": (tls, {"certs": str(folder), "token": _TOKEN}),
        "mutual TLS": ((*tls, "--tls-client-ca", f"{folder}/ca.pem"), {"certs": str(folder)}),
    }
    rates: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for kind, (flags, shown) in kinds.items():
            for work, rate in _measured(models, flags, shown).items():
                rates.setdefault((work, kind), []).append(rate)
    for (work, kind), found in rates.items():
        if kind != "plaintext":
            base = statistics.median(rates[work, "plaintext"])
            unit = "us" if work.startswith("CPU") else "per second"
            yield Result(f"{kind}: {work}", statistics.median(found), unit, base, None)


def _measured(models: Path, flags: tuple[str, ...], shown: dict[str, str]) -> dict[str, float]:
    """Calls and tokens per second of one server, and its CPU time for each."""
    names = ("bench-noop", MODEL)
    more = ("--cache", str(models.parent / "cache"), "--only", ",".join(names))
    with ServerProcess("--models", str(models), *more, *flags) as running:
        running.wait_listening()
        for name in names:
            running.wait_for_log(f"model {name}/1 is ready")
        address = f"localhost:{running.port}"
        spec: dict[str, Any] = {"address": address, **shown}
        one_shot = spec | {
            "model": "bench-noop",
            "lengths": [32] * _REQUESTS,
            "inflight": 64,
            "mode": "unary",
        }
        step_wise = spec | {"model": MODEL, "streams": _STREAMS, "tokens": _TOKENS, "mode": "streams"}
        begun_s = cpu_s(running.process.pid)
        calls = processes.tool("drive", json.dumps(one_shot))
        if calls["failed"]:
            raise RuntimeError(f"{calls['failed']:.0f} of {_REQUESTS} calls failed")
        called_s = cpu_s(running.process.pid)
        tokens = processes.tool("streams", json.dumps(step_wise))
        streamed_s = cpu_s(running.process.pid)
        return {
            "unary calls": calls["rate"],
            "CPU of a unary call": (called_s - begun_s) / _REQUESTS * 1e6,
            "tokens of 64 streams": tokens["rate"],
            "CPU of a token": (streamed_s - called_s) / (_STREAMS * _TOKENS) * 1e6,
        }
