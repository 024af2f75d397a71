"""What a server's processes hold: descriptors, threads, memory. Linux only."""

from __future__ import annotations

import os
import re
from pathlib import Path


def process_levels(pid: int) -> dict[str, float]:
    """Open descriptors, threads and resident MB of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines if ":" in line)
    return {
        "descriptors": float(len(os.listdir(f"/proc/{pid}/fd"))),
        "threads": float(status["Threads"]),
        "MB": round(int(status["VmRSS"].split()[0]) / 1024, 1),
    }


def pss_mb(pid: int) -> float:
    """Memory of a process in MB. Of a page that n processes share, an nth counts."""
    found = re.search(r"^Pss: *(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def engine_pid(server: int) -> int:
    """The engine process of a server; 0 if there is none."""
    children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
    alive = [int(one) for one in children if _is_alive(int(one))]
    return alive[-1] if alive else 0


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
