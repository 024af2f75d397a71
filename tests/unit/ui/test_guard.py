"""What the page's server refuses: other names, other sites."""

from __future__ import annotations

import pytest

from lockstep_ui.guard import LOOPBACK, refusal

OWN = {"host": "localhost:8003"}


def refused(headers: dict[str, str], kind: str = "http", method: str = "GET", path: str = "/") -> str:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return refusal({"type": kind, "method": method, "path": path, "headers": raw}, (*LOOPBACK, "box.lan"))


@pytest.mark.parametrize("host", ["localhost:8003", "127.0.0.1", "[::1]:8003", "LOCALHOST:1", "box.lan:9"])
def test_the_names_of_the_page_are_served(host: str) -> None:
    assert refused({"host": host}) == ""


@pytest.mark.parametrize(
    "host", ["", "evil.example", "localhost.evil.example:8003", "127.0.0.1.evil.example", "[::2]:8003", "::1"]
)
def test_a_name_that_somebody_points_here_is_refused(host: str) -> None:
    assert "--allow-host" in refused({"host": host})


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "http://localhost:3000", "null", "", "http://localhost:8003.evil.example"],
)
def test_requests_of_other_origins_are_refused(kind: str, origin: str) -> None:
    assert "only this page" in refused({**OWN, "origin": origin}, kind, "POST", "/api/generate")


def test_requests_of_the_page_are_served() -> None:
    own = {**OWN, "origin": "http://localhost:8003", "sec-fetch-site": "same-origin"}
    assert refused(own, "websocket", path="/api/follow") == ""
    assert refused(own, method="POST", path="/api/race") == ""


def test_a_websocket_without_an_origin_is_refused() -> None:
    assert "Origin" in refused(OWN, "websocket", path="/api/follow")


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_link_to_the_page_may_be_followed_and_nothing_else_is_loaded_from_elsewhere(site: str) -> None:
    link = {**OWN, "sec-fetch-site": site, "sec-fetch-mode": "navigate"}
    assert refused(link) == ""
    for other in (
        refused(link, path="/api/server"),
        refused(link, method="POST"),
        refused({**link, "sec-fetch-mode": "no-cors"}),
    ):
        assert "other sites" in other
