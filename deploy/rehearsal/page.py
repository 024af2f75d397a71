"""Drives the page of `lockstep ui` in a real browser, and takes the pictures of docs/ui.md.

server → `lockstep ui` on a free port → Chromium, driven by Playwright → the steps of each view → PNG
"""

from __future__ import annotations

import io
import re
import shutil
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from PIL import Image

from lockstep_client.server_process import LoggedProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--mute-audio")
_COMMAND = "from lockstep_client.__main__ import main; main()"
_COLOURS = 96


@contextmanager
def served_page(address: str, *flags: str) -> Iterator[str]:
    """Run `lockstep ui` for the server at `address`. Yields the URL of the page.

    Raises:
        ProcessError: it exited, or was not ready in time.
    """
    command = [sys.executable, "-c", _COMMAND, "ui", "--address", address, "--port", "0", "--json", *flags]
    with LoggedProcess("lockstep ui", command) as process:
        (url,) = process.wait_for_log(r'"url": "(http[^"]+)"')
        yield url


@contextmanager
def browser(timeout_s: float) -> Iterator[Browser]:
    """A Chromium without a window. Needs Debian's package `chromium` and the Python package `playwright`."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=timeout_s * 1e3)
    with sync_playwright() as playwright:
        one = playwright.chromium.launch(executable_path=CHROMIUM, args=list(_FLAGS), timeout=timeout_s * 1e3)
        try:
            yield one
        finally:
            one.close()


def open_view(page: Page, url: str, name: str) -> None:
    """Open a view of the page, and wait until it knows the server's models."""
    page.goto(f"{url}/#{name}")
    page.wait_for_selector(f"body[data-server] #{name}:not([hidden])")


def submit(page: Page, name: str) -> None:
    """Press the button of a view's form, and wait until its work is done."""
    view = page.locator(f"#{name}")
    view.locator("button.go").click()
    page.wait_for_selector(f"#{name}[data-state=done]")


def seek(page: Page, name: str, share: float) -> None:
    """Show a recording as it was after a share of its time."""
    page.locator(f"#{name} .player input").fill(str(round(1000 * share)))
    page.evaluate("scrollTo(0, 0)")


def _race(page: Page) -> None:
    submit(page, "race")
    seek(page, "race", 0.43)


def _lockstep(page: Page) -> None:
    submit(page, "lockstep")
    seek(page, "lockstep", 0.6)


def _generate(page: Page) -> None:
    submit(page, "generate")
    page.locator("#generate .token").nth(24).focus()


def _translate(page: Page) -> None:
    submit(page, "translate")


def _classify(page: Page) -> None:
    page.wait_for_selector("#classify[data-position]")
    page.wait_for_selector("#classify[data-state=done]")


def _models(page: Page) -> None:
    page.wait_for_selector("#models[data-state=done]")
    page.locator("#models summary", has_text=re.compile("^shakespeare-char-lstm")).click()
    page.wait_for_selector("#models details[open] figure")
    page.locator("#models details[open] figure").last.scroll_into_view_if_needed()


STEPS: dict[str, Callable[[Page], None]] = {
    "race": _race,
    "lockstep": _lockstep,
    "generate": _generate,
    "translate": _translate,
    "classify": _classify,
    "models": _models,
}
"""What each view does for its picture."""


def draw_views(address: str, folder: Path, timeout_s: float = 60.0) -> Iterator[Path]:
    """Take a picture of each view of the page for the server at `address`. Yields the files."""
    with served_page(address) as url, browser(timeout_s) as one:
        context = one.new_context(
            viewport={"width": 1080, "height": 1000}, reduced_motion="reduce", color_scheme="light"
        )
        page = context.new_page()
        for name, steps in STEPS.items():
            open_view(page, url, name)
            steps(page)
            shot = Image.open(io.BytesIO(page.screenshot()))
            file = folder / f"{name}.png"
            shot.convert("RGB").quantize(_COLOURS).save(file, optimize=True)
            yield file
