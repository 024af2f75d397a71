"""Runs the server's own self-test on a model, in a process of its own, by the code that loads models."""

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from lockstep_export.errors import ExportError

CHECK = "lockstep_server.engine.loading.check"
_NEEDED = ("lockstep_server", "onnxruntime", "tokenizers", "msgspec")
FAILED = "the self-test could not run"  # the server's words for a graph that fails on a random input
_LONGEST_S = 1800.0


class SelfTestError(ExportError):
    """The server refuses the model; the message is that of the server."""


def self_test(
    root: Path, name: str, version: int, begin: Callable[[str], None] = lambda _: None
) -> list[str]:
    """What the self-test found, a sentence for each form of the model. `begin` is called as its parts begin.

    Raises:
        SelfTestError: the server would not load the model.
        ExportError: the server is not installed.
    """
    missing = [package for package in _NEEDED if not find_spec(package)]
    if missing:
        raise ExportError(
            f"the self-test is the server's, and {', '.join(missing)} is missing:"
            " pip install 'lockstep-inference[server-cpu]'"
        )
    command = [sys.executable, "-m", CHECK, str(root), name, str(version)]
    lines, why = _run(command, begin)
    try:
        found = json.loads(lines[-1])
    except (ValueError, IndexError):
        raise SelfTestError(f"the self-test ended with an error: {why}") from None
    if "error" in found:
        raise SelfTestError(str(found["error"]).replace(f"{root}/", ""))
    return [_sentence(mode) for mode in found["modes"]]


def _run(command: list[str], begin: Callable[[str], None]) -> tuple[list[str], str]:
    """What a command wrote, and why it failed if it did. A line {"step": …} says what begins.

    Raises:
        SelfTestError: it took too long.
    """
    late = threading.Event()
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):

        def end() -> None:
            late.set()
            process.kill()

        limit = threading.Timer(_LONGEST_S, end)
        limit.start()
        lines = []
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith('{"step": '):
                    begin(json.loads(line)["step"])
                else:
                    lines.append(line)
        except BaseException:  # Ctrl-C
            process.kill()
            raise
        finally:
            limit.cancel()
        process.wait()
        errors.seek(0)
        last = errors.read().strip().splitlines()[-1:]
    if late.is_set():
        raise SelfTestError(f"the self-test has not ended after {_LONGEST_S:g} s")
    return lines, last[0] if last else f"exit status {process.returncode}"


def _sentence(mode: dict[str, object]) -> str:
    kind = "step-wise" if mode["mode"] == "stepwise" else "one-shot"
    batched = "batched answers equal those of each request alone" if mode["batched"] else "served one by one"
    return f"{kind}: {batched}" + (f"; {mode['notice']}" if mode["notice"] else "")
