"""Why a graph cannot be loaded, and what to do: from the file and the runtime's message to a `LoadError`.

The runtime's own text has absolute paths and lines of C++; it is the error's detail, for the log.
"""

from __future__ import annotations

import logging
import os
import re
from typing import TYPE_CHECKING

from ...errors import LoadError, ServingError

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

_LFS_POINTER = b"version https://git-lfs.github.com/"
_MAX_GRAPH_BYTES = 64 << 20
_NO_MEMORY = r"allocate memory|bad.alloc|out of memory|ALLOC_FAILED"
_NEWER = "install a newer onnxruntime, or export the model for an older one"

_CAUSES: tuple[tuple[str, str], ...] = (
    # a pattern in the runtime's message, and the cause and remedy, with the groups of the pattern
    (
        r"Unsupported model IR version: (\d+), max supported IR version: (\d+)",
        f"its IR version {{}} is newer than this ONNX Runtime knows, which is {{}}; {_NEWER}",
    ),
    (
        r"Opset (\d+) is under development[\s\S]* till opset (\d+)",
        f"its opset {{}} is newer than this ONNX Runtime knows, which is {{}}; {_NEWER}",
    ),
    (
        r"External data path escapes",
        "its weights are in a file outside of its folder; store them beside the graph",
    ),
    (r"No graph was found", "the file is empty or holds no graph; copy it again"),
    (r"Protobuf parsing failed", "the file is damaged, incomplete or no ONNX graph; copy it again"),
    (
        r"No Op registered for (\S+)|error: (\S+?)\(-?\d+\) is not a registered",
        "its operator {} is unknown to ONNX Runtime; export it with standard operators",
    ),
    (
        r"Could not find an implementation for ([^\s(]+)",
        "ONNX Runtime has no kernel for its operator {} with these types; export it with other types",
    ),
    (
        r"Permission denied|system error number 13",
        "the file is not readable; give the server's user the right",
    ),
    (_NO_MEMORY, "there is not enough memory for it; serve fewer models"),
    (
        r"invalid model|Invalid model|Type Error|INVALID_GRAPH",
        "the graph is invalid; check it with onnx.checker and export the model again",
    ),
)


def check_files(file: Path) -> None:
    """Check what the runtime would not notice: it takes any bytes as weights.

    Raises:
        LoadError: the graph, or a file with its weights, is missing, empty, or a Git LFS pointer.
    """
    fault = _fault(file)
    for name in [] if fault else _weight_files(file):
        if fault := _fault(file.parent / name):
            fault = f"has its weights in {name}, which {fault}"
            break
    if fault:
        raise LoadError(f"{file}: the graph {fault}")


def load_error(file: Path, error: Exception) -> LoadError:
    """The error of a graph that the runtime cannot load."""
    text = first_line(error)
    return LoadError(f"{file}: ONNX Runtime cannot load the graph: {_cause(file, str(error))}", text)


def _cause(file: Path, text: str) -> str:
    for pattern, cause in _CAUSES:
        if found := re.search(pattern, text):
            return cause.format(*(group for group in found.groups() if group))
    if re.search(r"external (initializer|data)", text, re.IGNORECASE):
        return f"its weights are in {' and '.join(_weight_files(file))}, which is incomplete; copy it again"
    return "see the server's log; export the model again if the file is complete"


def _fault(file: Path) -> str:
    """What is wrong with a file, as far as its first bytes tell; "" if nothing."""
    try:
        with file.open("rb") as opened:
            start = opened.read(len(_LFS_POINTER))
    except FileNotFoundError:
        return "does not exist; copy it there"
    except OSError as error:
        return f"is not readable ({error.strerror}); give the server's user the right to read it"
    if start == _LFS_POINTER:
        return "is a Git LFS pointer and not the content; run git lfs pull"
    return "" if start else "is empty; copy it again"


def _weight_files(file: Path) -> list[str]:
    """The names of the files that hold a graph's weights: entries `location` of its tensors."""
    with file.open("rb") as opened:
        graph = opened.read(_MAX_GRAPH_BYTES)
    found = re.finditer(rb"\x0a\x08location\x12(.)", graph, re.DOTALL)
    names = {graph[one.end() : one.end() + one[1][0]].decode(errors="replace") for one in found}
    return sorted(name for name in names if _stays_in(name))


def _stays_in(name: str) -> bool:
    """Whether a path lies below the folder that it is relative to. The runtime refuses all others."""
    return not os.path.isabs(name) and os.path.normpath(name).split(os.sep)[0] != ".."


def run_fault(error: Exception) -> str:
    """What went wrong in a run, for callers: without the text of the runtime, which quotes values."""
    if isinstance(error, ServingError):
        return error.message
    if not type(error).__module__.startswith("onnxruntime"):
        return first_line(error)
    if found := re.search(r"must be within the inclusive range \[-?\d+,(\d+)\]", str(error)):
        return f"an index is out of range: the model's table ends at {found[1]}"
    found = re.search(r"while running (\w+) node", str(error))
    return f"ONNX Runtime fails in a {found[1]} node" if found else "ONNX Runtime fails"


def is_out_of_memory(error: Exception) -> bool:
    """Whether a run failed because the device has not enough memory for it."""
    return bool(re.search(_NO_MEMORY, str(error)))


def logged_fault(error: Exception) -> str:
    """As `run_fault`, for a run on random input: the text of the runtime goes to the log."""
    log.warning("a run on random input failed: %s", first_line(error))
    return run_fault(error)


def first_line(error: Exception) -> str:
    """The first line of an exception's text; its type if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
