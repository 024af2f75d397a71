"""The commands of docs/scaling.md are those that the fleet test runs."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from fleet.load import SEQUENCE_HEADER
from fleet.processes import CONFIGURATION, HAPROXY
from patience import PATIENCE_S

from lockstep_server import settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")


def test_the_servers_of_the_page_are_those_of_the_balancer() -> None:
    served: list[settings.Settings] = []

    def serve(one: settings.Settings) -> int:
        served.append(one)
        return 0

    command = settings.command(serve, "")
    for line in re.findall(r"^lockstep-serve (.*)$", PAGE, re.MULTILINE)[:3]:
        command.main(shlex.split(line), standalone_mode=False)
    configuration = CONFIGURATION.read_text(encoding="utf-8")
    addresses = re.findall(r"\{LOCKSTEP_\d-127\.0\.0\.1:(\d+)\}.* port .*-(\d+)\}", configuration)
    assert [(str(one.port), str(one.metrics_port)) for one in served] == addresses
    (interval_ms,) = re.findall(r"check inter (\d+)ms fall", configuration)
    (answer_ms,) = re.findall(r"timeout check (\d+)ms", configuration)
    noticed_s = (int(interval_ms) + int(answer_ms)) / 1000
    assert all(one.shutdown_delay_s > 2 * noticed_s for one in served)
    (peers,) = re.findall(r"LOCKSTEP_PEERS=(\S+)", PAGE)
    assert [name.rpartition(":")[2] for name in peers.split(",")] == [port for port, _ in addresses]
    assert f"`{SEQUENCE_HEADER}`" in PAGE
    assert f"hdr({SEQUENCE_HEADER})" in configuration


@pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed: apt install haproxy")
def test_haproxy_takes_the_configuration_without_a_warning() -> None:
    assert HAPROXY is not None
    checked = subprocess.run(
        [HAPROXY, "-c", "-f", str(CONFIGURATION)],
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert (checked.returncode, checked.stderr) == (0, "")
