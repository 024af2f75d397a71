"""The page of `lockstep ui` in a real browser, against a real server: each view does its work."""

from __future__ import annotations

import http.client
import json
import re
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
from integration.harness import REPOSITORY
from patience import PATIENCE_S

from deploy.rehearsal import page as driver
from lockstep_client import Client
from lockstep_ui.app import STATIC, to_json
from lockstep_ui.lanes import LanesRequest, lengths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from integration.harness import Served
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request

LSTM, TRANSFORMER, WRITER = "sentiment-lstm", "sentiment-transformer", "shakespeare-char-lstm"
SECRET = "a-token-that-no-page-may-see"
TEXT = "it is not a bad film , it is funny"
WIDTHS = (360, 768, 1440)
CLASSIFIERS = {path.parent.name for path in REPOSITORY.glob("sentiment-*/model.toml")}

in_a_browser = pytest.mark.skipif(driver.CHROMIUM is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def url(shipped: Served) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCKSTEP_TOKEN", SECRET)
        with driver.served_page(shipped.address) as one:
            yield one


@pytest.fixture(scope="module")
def client(shipped: Served) -> Iterator[Client]:
    with Client(shipped.address, timeout_s=PATIENCE_S) as one:
        yield one


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with driver.browser(PATIENCE_S) as one:
        yield one


@pytest.fixture
def opened(browser: Browser, url: str) -> Iterator[Callable[..., Page]]:
    """Opens views. What the page logs as an error, and what it loads from elsewhere, fails the test."""
    contexts: list[BrowserContext] = []
    wrong: list[str] = []

    def on_console(message: ConsoleMessage) -> None:
        if message.type == "error":
            wrong.append(message.text)

    def on_request(request: Request) -> None:
        if not request.url.startswith(url):
            wrong.append(request.url)

    def open_view(name: str, **how: Any) -> Page:
        how = {"reduced_motion": "reduce", "viewport": {"width": 1200, "height": 900}, **how}
        contexts.append(browser.new_context(**how))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE_S * 1e3)
        page.add_init_script(_SHIFTS)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", on_console)
        page.on("request", on_request)
        driver.open_view(page, url, name)
        return page

    yield open_view
    for context in contexts:
        context.close()
    assert wrong == []


# --- the views ------------------------------------------------------------------------------------


@in_a_browser
def test_the_race_is_played_back_on_one_time_axis(opened: Callable[..., Page], client: Client) -> None:
    page = opened("race")
    page.locator("#race textarea").fill(TEXT)
    driver.submit(page, "race")
    words = len(TEXT.split())
    lanes = page.locator("#race .lane")
    assert lanes.locator(".who").all_inner_texts() == ["step-wise", "fused", "one-shot", "re-encoding"]
    predictions = [
        re.match(r"(\d+) of (\d+) ", text).groups() for text in lanes.locator(".sums").all_inner_texts()
    ]
    assert predictions == [(f"{n}", f"{n}") for n in (words, 1, 1, words)]
    for lane, model in enumerate((LSTM, LSTM, TRANSFORMER, TRANSFORMER)):
        [whole] = client.classify(model, TEXT)
        share = f"{whole.best.name} {whole.best.probability:.0%}".replace("%", " %")
        assert lanes.nth(lane).locator(".answer").inner_text() == share
    assert lanes.nth(0).locator(".words .read").all_inner_texts() == TEXT.split()
    assert "computed 10 elements" in page.locator("#race .reading").inner_text()
    assert "re-encoding 55" in page.locator("#race .reading").inner_text()

    time = page.locator("#race .player input")
    time.focus()
    page.keyboard.press("Home")
    assert [text[:2] for text in lanes.locator(".sums").all_inner_texts()] == ["0 "] * 4
    assert page.locator("#race .words .read").count() == 0
    assert lanes.nth(2).locator(".words .now").count() == words, "the whole text at once"
    assert lanes.nth(0).locator(".words .now").count() == 1, "one word at a time"


@in_a_browser
def test_a_translation_has_lines_between_its_words(opened: Callable[..., Page], client: Client) -> None:
    page = opened("translate")
    driver.submit(page, "translate")
    whole = client.translate("translate-en-fr", "A man is riding a red bicycle .", attention=True).result()
    assert whole.attention is not None
    weights = whole.attention.round(4)
    rows = page.locator("#translate ol")
    source, target = (
        [one.removeprefix("▁") or "␣" for one in s] for s in (whole.source_tokens, whole.pieces)
    )
    assert rows.nth(0).locator("button").all_inner_texts() == source
    assert rows.nth(1).locator("button").all_inner_texts() == target
    assert whole.text in page.locator("#translate .reading").inner_text()
    lines = page.locator("#translate path")
    assert lines.count() == (weights >= 0.03).sum()

    rows.nth(1).locator("button").first.focus()
    page.keyboard.press("ArrowRight")
    best = source[weights[1].argmax()]
    said = page.locator("#translate .reading").inner_text()
    assert said.startswith(f"“{target[1]}” attended to “{best}” {weights[1].max():.0%}"[:-1])
    assert lines.count() == (weights[1] >= 0.03).sum()


@in_a_browser
def test_a_generated_text_shows_what_was_probable(opened: Callable[..., Page], client: Client) -> None:
    page = opened("generate")
    page.locator("#generate input[name=max_tokens]").fill("40")
    driver.submit(page, "generate")
    whole = client.generate(
        WRITER,
        "ROMEO:",
        max_tokens=40,
        temperature=0.8,
        seed=7,
        log_probabilities=True,
        top_log_probabilities=5,
    ).result()
    tokens = page.locator("#generate .token")
    shown = tokens.locator("> span:first-child").all_text_contents()
    assert "".join(shown) == whole.text.replace("\n", "⏎")
    assert len(shown) == 40

    tokens.nth(8).focus()
    page.keyboard.press("ArrowRight")
    place, share = page.locator("#generate .place"), 2.718281828 ** whole.log_probabilities[9]
    assert place.locator("h2").inner_text().startswith("Token 10: ")
    assert f"log-probability {whole.log_probabilities[9]:.2f}" in place.inner_text()
    named = place.locator(".name").all_text_contents()
    assert [one.replace("␣", " ").replace("⏎", "\n") for one in named[:5]] == list(whole.top[9].texts)
    height = tokens.nth(9).locator(".chosen").evaluate("one => parseFloat(one.style.height)")
    assert height == pytest.approx(100 * share, abs=0.01)


@in_a_browser
def test_a_prediction_moves_with_each_word(opened: Callable[..., Page], client: Client) -> None:
    page = opened("classify")
    text = page.locator("#classify textarea")
    text.fill("it is fun")
    page.wait_for_selector("#classify[data-position='3']")
    text.press("End")
    page.keyboard.type("ny , not sad ")
    page.wait_for_selector("#classify[data-position='6']")
    said = page.locator("#classify .reading")
    assert "1 step, " in said.inner_text()
    assert page.locator("#classify .word").all_inner_texts() == ["it", "is", "funny", ",", "not", "sad"]
    followed = client.follow(LSTM, "it is funny , not sad").result()
    assert said.inner_text().startswith(f"{followed[-1].best.name} {followed[-1].best.probability:.0%}"[:-1])
    page.locator("#classify select").select_option(TRANSFORMER)
    said.filter(has_text="6 words read again").wait_for()

    page.wait_for_selector("#classify[data-state=done]")
    rows = dict(zip(
        page.locator("#classify tbody th").all_inner_texts(),
        page.locator("#classify tbody td.answer").all_inner_texts(),
        strict=True,
    ))  # fmt: skip
    assert rows == {name: client.classify(name, "it is funny , not sad")[0].best.name for name in CLASSIFIERS}


@in_a_browser
def test_streams_write_in_lockstep(opened: Callable[..., Page], client: Client) -> None:
    page = opened("lockstep")
    page.locator("#lockstep input[name=streams]").fill("6")
    page.locator("#lockstep input[name=max_tokens]").fill("40")
    driver.submit(page, "lockstep")
    wanted = LanesRequest(WRITER, "ROMEO:", streams=6, max_tokens=40)
    assert page.locator("#lockstep .writing").inner_text() == f"0 of 6 write · {sum(lengths(wanted))} tokens"
    for lane, tail in enumerate(page.locator("#lockstep .tail").all_text_contents()):
        length, seed = lengths(wanted)[lane], wanted.seed + lane
        alone = client.generate(WRITER, "ROMEO:", max_tokens=length, temperature=0.8, seed=seed).result()
        assert tail == alone.text.replace("\n", "⏎")
    assert page.locator("#lockstep canvas").evaluate(
        "one => one.getContext('2d').getImageData(0, 0, one.width, one.height).data.some(Boolean)"
    )
    said = page.locator("#lockstep .reading").inner_text()
    found = re.search(
        r"([\d,]+) runs of the model wrote them, ([\d.]+) streams in each; one by one .* ([\d,]+)\.$", said
    )
    assert found, said
    shared, each, singly = (float(one.replace(",", "")) for one in found.groups())
    assert sum(lengths(wanted)) <= singly
    assert each == pytest.approx(singly / shared, abs=0.06)
    assert shared < singly, "steps advance several streams"
    page.locator("#lockstep .player input").focus()
    page.keyboard.press("Home")
    assert page.locator("#lockstep .writing").inner_text().startswith("1 of 6 write")


@in_a_browser
def test_the_models_have_states_costs_and_batch_sizes(opened: Callable[..., Page], client: Client) -> None:
    client.classify(LSTM, [TEXT] * 3)
    page = opened("models")
    page.wait_for_selector("#models[data-state=done]")
    names = page.locator("#models .name").all_inner_texts()
    assert names == [state.name for state in client.models()]
    entry = page.locator("#models details").nth(names.index(LSTM))
    entry.locator("summary").focus()
    page.keyboard.press("Enter")
    entry.locator("figure").first.wait_for()
    assert entry.locator("figcaption").all_inner_texts() == [
        "Cost of a run by its length, as the server has learned it",
        "Runs by batch size, in rows",
        "Latest runs by the share of padding",
    ]
    assert entry.locator(".state").inner_text() == "ready"
    [counted] = client.model_statistics(LSTM)
    sizes = {int(rows): f"{one.count:,}" for rows, one in counted.runs_by_rows.items() if rows <= 4}
    titles = entry.locator("rect title").all_text_contents()
    assert {f"{rows}: {count}" for rows, count in sizes.items()} <= set(titles)


# --- for everybody --------------------------------------------------------------------------------

_SHIFTS = """
  window.shifted = 0;
  new PerformanceObserver((list) => {
    for (const one of list.getEntries()) if (!one.hadRecentInput) window.shifted += one.value;
  }).observe({ type: "layout-shift", buffered: true });
"""
_LAYOUT = """() => {
  const shown = [...document.querySelectorAll("html, section:not([hidden]) .table")];
  return [Math.max(...shown.map((one) => one.scrollWidth)), innerWidth];
}"""
_CONTRAST = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (colour) => colour.slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const colour = rgb(getComputedStyle(at).backgroundColor);
      if ((colour[3] ?? 1) > 0) return colour;
    }
  };
  const low = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const one = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !one.checkVisibility()) continue;
    if (one.closest("noscript, :disabled")) continue;
    const style = getComputedStyle(one);
    const [a, b] = [light(rgb(one.closest("svg") ? style.fill : style.color)), light(behind(one))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push(`${walker.currentNode.data.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return low;
}"""


@in_a_browser
def test_every_view_fits_every_width_and_can_be_read_in_light_and_dark(
    opened: Callable[..., Page], url: str
) -> None:
    page = opened("race")
    for name, steps in driver.STEPS.items():
        driver.open_view(page, url, name)
        page.evaluate("window.shifted = 0")
        steps(page)
        assert page.evaluate("window.shifted") < 0.1, f"what {name} shows moves"
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
            scrolled, inner = page.evaluate(_LAYOUT)
            assert scrolled <= inner, f"{name} at {width} px"
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate(_CONTRAST) == [], f"{name}, {scheme}"


@in_a_browser
def test_the_views_are_reached_by_the_keyboard(opened: Callable[..., Page]) -> None:
    page = opened("race")
    page.locator(".skip").focus()
    for _ in range(3):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#generate:not([hidden])")
    assert page.title() == "Generate – Lockstep"
    assert page.locator("nav a[aria-current]").all_inner_texts() == ["Generate"]
    unnamed = page.evaluate(
        "() => [...document.querySelectorAll('input, select, textarea, button')]"
        ".filter((one) => !one.labels?.length && !one.ariaLabel && !one.textContent.trim())"
        ".map((one) => one.outerHTML)"
    )
    assert unnamed == []


@in_a_browser
def test_an_error_is_said_in_words_with_what_to_do(opened: Callable[..., Page]) -> None:
    page = opened("race")
    problem = page.locator("#race .problem")
    page.locator("#race textarea").fill(" ")
    driver.submit(page, "race")
    assert problem.inner_text().startswith("The text is empty")
    page.evaluate("document.querySelector('#race select[name=transformer]').append(new Option('nobody'))")
    page.locator("#race select[name=transformer]").select_option("nobody")
    page.locator("#race textarea").fill("short")
    driver.submit(page, "race")
    assert "nobody" in problem.inner_text()
    assert "Choose another model" in problem.inner_text()
    page.goto(f"{page.url.partition('#')[0]}#translate")
    page.locator("#translate input").fill("long " * 3000)
    driver.submit(page, "translate")
    assert "3000" in page.locator("#translate .problem").inner_text()


@in_a_browser
def test_without_a_server_the_page_says_how_to_start_one(browser: Browser) -> None:
    with driver.served_page("127.0.0.1:1") as url:
        page = browser.new_page()
        page.goto(url)
        page.wait_for_selector("body[data-server=down]")
        assert (
            page.locator("#race .problem")
            .inner_text()
            .startswith("No server answers at 127.0.0.1:1. Start one")
        )
        page.close()


@in_a_browser
def test_leaving_the_page_ends_its_work_on_the_server(opened: Callable[..., Page], shipped: Served) -> None:
    page = opened("generate")
    page.locator("#generate input[name=max_tokens]").fill("1000")
    page.locator("#generate select").select_option("shakespeare-gpt")
    page.locator("#generate button.go").click()
    page.locator("#generate .token").nth(3).wait_for()
    page.locator("#generate button.stop").click()
    shipped.wait_idle()
    assert page.locator("#generate .token").count() < 1000
    page.goto(f"{page.url.partition('#')[0]}#classify")
    page.wait_for_selector("#classify[data-position]")
    page.close()
    shipped.wait_idle()


# --- for nobody else ------------------------------------------------------------------------------


def answer(
    url: str, method: str, path: str, body: str = "", **headers: str
) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=PATIENCE_S)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, sent)
    response = connection.getresponse()
    found = response.status, response.read().decode(), {k.lower(): v for k, v in response.getheaders()}
    connection.close()
    return found


def test_other_names_and_other_sites_are_refused(url: str) -> None:
    assert answer(url, "GET", "/", host="evil.example")[0] == 403
    json_type = {"content_type": "application/json"}
    wanted = json.dumps({"model": WRITER, "prompt": "a"})
    for origin in ("http://evil.example", "http://localhost:1"):
        assert answer(url, "POST", "/api/generate", wanted, origin=origin, **json_type)[0] == 403
    upgrade = {"connection": "Upgrade", "upgrade": "websocket", "sec_websocket_version": "13",
               "sec_websocket_key": "AAAAAAAAAAAAAAAAAAAAAA=="}  # fmt: skip
    assert answer(url, "GET", "/api/follow", **upgrade)[0] == 403
    assert answer(url, "GET", "/api/follow", origin="http://evil.example", **upgrade)[0] == 403
    status, text, _ = answer(url, "POST", "/api/generate", wanted, content_type="text/plain")
    assert (status, "not JSON" in text) == (400, True)


def test_the_page_may_run_its_own_scripts_only_and_has_no_credentials(url: str) -> None:
    _, page, headers = answer(url, "GET", "/")
    policy = headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]* src=\"/static/)|<style| style=| on\w+=", page)
    paths = {"/", "/api/server", "/api/models", *re.findall(r"/static/[\w.]+", page)}
    paths |= {f"/static/{file.name}" for file in STATIC.iterdir()}
    for path in paths:
        status, text, sent = answer(url, "GET", path)
        assert status == 200, path
        assert SECRET not in text + str(sent)
        assert not re.findall(r"https?://(?!www\.w3\.org/)", text), path
    for path in ("/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py"):
        assert answer(url, "GET", path)[0] == 404


def test_packages_have_all_files_of_the_page() -> None:
    project = tomllib.loads((REPOSITORY.parent / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["lockstep_ui"]
    packed = {file for pattern in patterns for file in STATIC.parent.glob(pattern)}
    assert packed == {file for file in STATIC.rglob("*") if file.is_file()}


def test_each_view_has_a_small_picture_in_the_docs() -> None:
    pictures = {file.stem: file.stat().st_size for file in (REPOSITORY.parent / "docs/ui").glob("*.png")}
    assert pictures.keys() == driver.STEPS.keys()
    assert max(pictures.values()) <= 60_000
    assert sum(pictures.values()) <= 300_000


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("race", "{", "JSON"),
        ("race", '{"text": "a", "recurrent": "m", "transformer": "m", "more": 1}', "more"),
        ("generate", '{"model": "m", "temperature": "hot"}', "temperature"),
        ("generate", '{"model": "m", "max_tokens": 100000}', "max_tokens"),
        ("lockstep", '{"model": "m", "streams": 65}', "streams"),
        ("classify", '{"models": [], "text": "a"}', "models"),
        ("classify", json.dumps({"models": ["m"], "text": "a" * (1 << 20)}), "too long"),
    ],
)
def test_a_request_that_is_not_valid_is_refused_with_its_field(
    url: str, path: str, body: str, words: str
) -> None:
    status, text, _ = answer(url, "POST", f"/api/{path}", body, content_type="application/json")
    assert status == 400
    assert words in json.loads(text)["problem"]["message"]


def test_a_reader_that_goes_away_cancels_the_streams(url: str, shipped: Served) -> None:
    before = shipped.metric("lockstep_tokens_total")
    wanted = LanesRequest(WRITER, streams=8, max_tokens=1000)
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=PATIENCE_S)
    connection.request("POST", "/api/lockstep", to_json(wanted), {"content-type": "application/json"})
    response = connection.getresponse()
    assert json.loads(response.readline())["joined"]
    response.close()
    connection.close()
    shipped.wait_idle()
    assert shipped.metric("lockstep_tokens_total") - before < sum(lengths(wanted))
