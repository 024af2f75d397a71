"""One layer at one length in a process of its own: `python weigh.py GRAPH LENGTH WIDTH RUNS`.

    open the graph, run it once on a short sequence → what the process holds now
    → run it on the long one, `RUNS` times          → the peak of what it held meanwhile

Prints {"seconds", "bytes"}: the median run in processor time, and the peak above what was held before. The
peak is Linux's VmHWM, set back before the long runs, so the memory that loading takes for a moment does not
count. This file is run by its path and imports nothing of its package, which has torch in it: what it weighs
is ONNX Runtime, on one thread.
"""

import json
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
from onnxruntime import InferenceSession, SessionOptions

SHORT, SEED = 10, 1
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
PEAK_IS_NOW = "5"  # proc(5): set the peak resident set size back to the current one


def measure_memory(graph: str, length: int, width: int, runs: int) -> dict[str, float]:
    """Seconds of a run over x [1, length, width], and bytes at its peak."""
    session = _open(graph)
    x = np.random.default_rng(SEED).standard_normal((1, length, width), np.float32)
    session.run(["states"], {"x": x[:, :SHORT]})
    forget_peak()
    held = _bytes("VmRSS")
    laps = [_lap(session, x) for _ in range(runs)]
    return {"seconds": median(laps), "bytes": _bytes("VmHWM") - held}


def can_measure_memory() -> bool:
    """Whether this system tells the peak, and lets it be set back."""
    try:
        forget_peak()
    except OSError:
        return False
    return True


def forget_peak() -> None:
    """The peak is what is held now."""
    CLEAR.write_text(PEAK_IS_NOW, encoding="ascii")


def _open(graph: str) -> InferenceSession:
    options = SessionOptions()
    options.intra_op_num_threads = 1
    return InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _lap(session: InferenceSession, x: np.ndarray[tuple[int, int, int], np.dtype[np.float32]]) -> float:
    started = time.thread_time()
    session.run(["states"], {"x": x})
    return time.thread_time() - started


def _bytes(field: str) -> int:
    lines = STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    [line] = [line for line in lines if line.startswith(f"{field}:")]
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    file, *numbers = sys.argv[1:]
    print(json.dumps(measure_memory(file, *(int(number) for number in numbers))))
