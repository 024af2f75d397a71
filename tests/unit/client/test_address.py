"""Validation of server addresses."""

from __future__ import annotations

import pytest

from lockstep_client.address import checked, is_loopback


@pytest.mark.parametrize(
    "address", ["localhost:8001", "10.0.0.1:1", "[::1]:8001", "a.b-c:65535", "unix:/run/x.sock", "dns:///a:1"]
)
def test_valid_addresses(address):
    assert checked(address) == address


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("", "use HOST:PORT"),
        ("localhost", "use HOST:PORT"),
        (":8001", "use HOST:PORT"),
        ("localhost:", "no valid port"),
        ("localhost:http", "no valid port"),
        ("localhost:0", "no valid port"),
        ("localhost:65536", "no valid port"),
        ("local host:1", "no valid host"),
        ("localhost/x:1", "no valid host"),
        ("::1:8001", "IPv6"),
        ("http://localhost:8001", "remove http://"),
    ],
)
def test_invalid_addresses(address, message):
    with pytest.raises(ValueError, match=message):
        checked(address)


def test_loopback():
    assert is_loopback("localhost:1")
    assert is_loopback("[::1]:1")
    assert not is_loopback("example.org:1")
