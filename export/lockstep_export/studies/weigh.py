"""One layer at one length in a process of its own: `python -m ….studies.weigh GRAPH LENGTH WIDTH RUNS`.

    open the graph, run it once on a short sequence → what the process holds now
    → run it on the long one, `RUNS` times          → the peak of what it held meanwhile

Prints {"seconds", "bytes"}: the median run in processor time, and the peak above what was held before. The
peak is Linux's VmHWM, set back before the long runs, so the memory that loading takes for a moment does not
count. It imports neither torch nor anything that does: what it weighs is ONNX Runtime, on one thread.
"""

import json
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
from onnxruntime import InferenceSession, SessionOptions

from lockstep_export.studies.memory import forget_peak, peak_bytes, resident_bytes

SHORT, SEED = 10, 1


def weigh(graph: str, length: int, width: int, runs: int) -> dict[str, float]:
    """Seconds of a run over x [1, length, width], and bytes at its peak."""
    session = _open(graph)
    x = np.random.default_rng(SEED).standard_normal((1, length, width), np.float32)
    session.run(["states"], {"x": x[:, :SHORT]})
    forget_peak()
    held = resident_bytes()
    laps = [_lap(session, x) for _ in range(runs)]
    return {"seconds": median(laps), "bytes": peak_bytes() - held}


def _open(graph: str) -> InferenceSession:
    options = SessionOptions()
    options.intra_op_num_threads = 1
    return InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _lap(session: InferenceSession, x: np.ndarray[tuple[int, int, int], np.dtype[np.float32]]) -> float:
    started = time.thread_time()
    session.run(["states"], {"x": x})
    return time.thread_time() - started


if __name__ == "__main__":
    path, *numbers = sys.argv[1:]
    print(json.dumps(weigh(str(Path(path)), *(int(number) for number in numbers))))
