"""docs/scaling.md: its commands are those of the fleet test, its rule is that of servers and clients."""

from __future__ import annotations

import hashlib
import re
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fleet.load import SEQUENCE_HEADER
from fleet.processes import CONFIGURATION, HAPROXY
from hypothesis import given
from hypothesis import strategies as st
from patience import PATIENCE_S

from lockstep_client.protocol import SequenceUse
from lockstep_client.routing import rendezvous
from lockstep_server import settings
from lockstep_server.frontend import peers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lockstep_server import messages

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


_IDS = st.integers(1, 2**63 - 1) | st.text(st.characters(codec="utf-8"), min_size=1, max_size=300)


def _by_server(addresses: Iterable[str], id_: messages.SequenceId) -> list[str]:
    link: Any = None
    return [peer.name for peer in peers.ranked([peers.Peer("", "", link, one) for one in addresses], id_)]


def _by_client(addresses: Iterable[str], id_: int | str) -> list[str]:
    return rendezvous(SequenceUse.key_of(id_), addresses)


@given(st.sets(st.from_regex(r"[a-d]{1,3}:[1-9]", fullmatch=True), max_size=6), _IDS)
def test_servers_and_clients_choose_the_same_server(addresses: set[str], id_: int | str) -> None:
    order = _by_client(addresses, id_)
    assert _by_server(addresses, id_) == _by_server(addresses, ("alice", id_)) == order


def test_the_orders_on_the_page_are_those_of_servers_and_clients() -> None:
    addresses = [f"10.0.0.{number}:8001" for number in (1, 2, 3)]
    found = re.findall(r"^\| `(\S+)` \| (\d), (\d), (\d) \|$", PAGE, re.MULTILINE)
    assert [id_ for id_, *_ in found] == ["7", "8", "seven", "été"]
    for id_, *order in found:
        expected = [f"10.0.0.{number}:8001" for number in order]
        assert _by_server(addresses, id_) == _by_client(addresses, id_) == expected
        if id_.isdigit():
            assert _by_server(addresses, int(id_)) == _by_client(addresses, int(id_)) == expected
    (code,) = re.findall(r"^(def ranked.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    exec(code, names := dict[str, Any](hashlib=hashlib))
    assert names["ranked"](addresses, "7") == _by_server(addresses, 7)


@pytest.mark.parametrize(
    ("named", "ranked_by"),
    [
        ("a:7,b:7", {"a:7", "b:7"}),
        ("a:7", {"10.0.0.1:7"}),
        ("many:7", {"10.0.0.3:7", "[fd00::1]:7"}),
        ("a:7,many:7", {"a:7", "10.0.0.3:7", "[fd00::1]:7"}),
    ],
)
async def test_peers_are_ranked_by_the_addresses_that_clients_have(
    named: str, ranked_by: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = {"a": ["10.0.0.1"], "b": ["10.0.0.2"], "many": ["10.0.0.3", "fd00::1"]}

    async def addresses(host: str, port: int) -> list[str]:
        return [settings.host_and_port(one, port) for one in hosts[host]]

    class Link:
        async def hello(self) -> peers.HelloAnswer:
            return peers.HelloAnswer("incarnation", "server")

    link: Any = Link()
    monkeypatch.setattr(peers, "_addresses", addresses)
    found = await peers.Peers(named, "own", lambda *_: link).current()
    assert {peer.name for peer in found} == ranked_by


@pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed: apt install haproxy")
def test_haproxy_takes_the_configuration_without_a_warning() -> None:
    assert HAPROXY is not None
    checked = subprocess.run(
        [HAPROXY, "-c", "-f", str(CONFIGURATION)],
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert (checked.returncode, checked.stderr) == (0, "")
