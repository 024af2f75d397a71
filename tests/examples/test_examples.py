"""Every script of examples/ against a real server: its output and exit code."""

from __future__ import annotations

import io
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from patience import limit_s

if TYPE_CHECKING:
    from integration.harness import Served

FOLDER = Path(__file__).parents[2] / "examples"
SHOWN = {
    "classify": (r"^(positive|negative) +\d+%  a warm", r"with 1 rows in the run", r"attention of \("),
    "classify_async": (r"^sentiment-bow +(positive|negative) \d+%$", r"^sentiment-transformer +"),
    "generate": (r"-- 200 tokens, ended by LENGTH, seed 7", r"-- first token after [\d.]+ ms"),
    "translate": (r"^Un homme .* vélo rouge", r"^▁vélo +▁bicycle +\d+%$"),
    "follow_live": (r"^dull +negative +#+$", r"^film +positive +#+$"),
    "many_texts": (r"^4 texts in ", r"^positive +\d", r"^invalid_request +1$"),
    "tensors": (r"TensorSpec\(name='tokens'", r"^step by step \[\[?[-\d.]+", r"^98 answers$"),
    "beside_tritonclient": (r"^tritonclient    \[\[[-\d. ]+\]\]$", r"^lockstep_client \[\["),
    "errors_and_deadlines": (
        r"^unknown model 'sentinent-lstm'; available: .*sentiment-lstm",
        r"^invalid: texts\[1\]: the text is empty",
        r"^deadline exceeded: .*(deadline|within 0.1 s)",
        r"^(overloaded|deadline_exceeded), retry in ",
        r"^unreachable: no server at localhost:1",
    ),
}


def test_every_example_is_tested_and_listed() -> None:
    scripts = {path.stem for path in FOLDER.glob("*.py")}
    assert scripts == SHOWN.keys()
    listed = (FOLDER / "README.md").read_text()
    assert all(f"`{name}.py`" in listed for name in scripts)


LINES = "a fine film\n\na warm , funny and moving film\ntwo hours of noise\n"
ALONE = "beside_tritonclient"
"""tritonclient registers messages that are registered here too."""


@pytest.mark.parametrize("name", sorted(SHOWN.keys() - {ALONE}))
def test_an_example_prints_the_expected_output(
    shipped: Served, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [f"{name}.py", shipped.address])
    monkeypatch.setattr("sys.stdin", io.StringIO(LINES))
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr()
    errors = "line 2: texts: the text is empty; send at least one word\n" if name == "many_texts" else ""
    assert printed.err == errors
    assert_shown(name, printed.out)


def test_the_example_beside_tritonclient_prints_the_expected_output(shipped: Served) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "error", FOLDER / f"{ALONE}.py", shipped.address],
        capture_output=True,
        text=True,
        timeout=limit_s(100),
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert_shown(ALONE, ended.stdout)


def assert_shown(name: str, output: str) -> None:
    for pattern in SHOWN[name]:
        assert re.search(pattern, output, re.MULTILINE), (pattern, output)
