"""Runs the server's own self-test on a model, in a process of its own, by the code that loads models."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from lockstep_export.errors import ExportError

CHECK = "lockstep_server.engine.loading.check"
_NEEDED = ("lockstep_server", "onnxruntime", "tokenizers", "msgspec")
FAILED = "the self-test could not run"  # the server's words for a graph that fails on a random input
_LONGEST_S = 1800.0


class SelfTestError(ExportError):
    """The server refuses the model; the message is that of the server."""


def self_test(root: Path, name: str, version: int) -> list[str]:
    """What the self-test found, a sentence for each form of the model.

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
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise SelfTestError(f"the self-test has not ended after {_LONGEST_S:g} s") from error
    try:
        found = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        why = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise SelfTestError(f"the self-test ended with an error: {why[0]}") from None
    if "error" in found:
        raise SelfTestError(str(found["error"]).replace(f"{root}/", ""))
    return [_sentence(mode) for mode in found["modes"]]


def _sentence(mode: dict[str, object]) -> str:
    kind = "step-wise" if mode["mode"] == "stepwise" else "one-shot"
    batched = "batched answers equal those of each request alone" if mode["batched"] else "served one by one"
    return f"{kind}: {batched}" + (f"; {mode['notice']}" if mode["notice"] else "")
