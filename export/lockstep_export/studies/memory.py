"""What a process holds in memory and held at most, as Linux tells it in /proc/self."""

from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
PEAK_AGAIN = "5"  # proc(5): set the peak resident set size back to the current one


def can_weigh() -> bool:
    """Whether this system tells, and lets the peak be set back."""
    try:
        forget_peak()
    except OSError:
        return False
    return True


def forget_peak() -> None:
    """The peak is what is held now."""
    CLEAR.write_text(PEAK_AGAIN, encoding="ascii")


def resident_bytes() -> int:
    """Held now."""
    return _field("VmRSS")


def peak_bytes() -> int:
    """Held at most since `forget_peak`."""
    return _field("VmHWM")


def _field(name: str) -> int:
    for line in STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{STATUS} has no {name}")
