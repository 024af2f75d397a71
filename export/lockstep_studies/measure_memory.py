"""Time and memory of one graph at one length: `python measure_memory.py GRAPH LENGTH WIDTH RUNS`.

    open the graph, run it once on a short sequence → resident memory now
    → run it on the long sequence, `RUNS` times     → peak resident memory

Prints {"seconds", "bytes"}: the median processor time of a run, and the peak above the resident memory before
it. The peak is Linux's VmHWM, reset before the long runs, so temporary memory of loading does not count. This
file is run by its path and imports nothing from its package, which imports torch: it measures ONNX Runtime
only, on one thread.
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
Array = np.ndarray[tuple[int, int, int], np.dtype[np.float32]]
PEAK_IS_NOW = "5"  # proc(5): set the peak resident set size back to the current one


def measure_memory(graph: str, length: int, width: int, runs: int) -> dict[str, float]:
    """Median seconds of a run over x [1, length, width], and its peak in bytes."""
    session = _open(graph)
    x = np.random.default_rng(SEED).standard_normal((1, length, width), np.float32)
    session.run(["states"], {"x": x[:, :SHORT]})
    reset_peak()
    held = _bytes("VmRSS")
    seconds = [_run_seconds(session, x) for _ in range(runs)]
    return {"seconds": median(seconds), "bytes": _bytes("VmHWM") - held}


def can_measure_memory() -> bool:
    """Whether this system reports the peak and can reset it."""
    try:
        reset_peak()
    except OSError:
        return False
    return True


def reset_peak() -> None:
    """Sets the peak to the current resident memory."""
    CLEAR.write_text(PEAK_IS_NOW, encoding="ascii")


def _open(graph: str) -> InferenceSession:
    options = SessionOptions()
    options.intra_op_num_threads = 1
    return InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _run_seconds(
    session: InferenceSession, x: np.ndarray[tuple[int, int, int], np.dtype[np.float32]]
) -> float:
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
