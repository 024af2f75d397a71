"""Numbers and lists as text."""

from collections.abc import Sequence

RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def figures(value: float, digits: int = 3) -> str:
    """`digits` significant figures, with a power of ten if very small or large: 0.0123, 1.98, 12,300."""
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa} × 10{str(int(exponent)).translate(RAISED)}"
    rounded = float(f"{value:.{digits - 1}e}")
    if abs(rounded) >= 10 ** (digits - 1):
        return f"{rounded:,.0f}"
    return f"{value:#,.{digits}g}".rstrip(".")


def duration(seconds: float) -> str:
    """Seconds with a suitable unit: 85.2 µs, 1.98 ms, 12.3 s."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{figures(seconds / size)} {unit}"
    return f"{figures(seconds / 1e-6)} µs"


def size(count: float) -> str:
    """Bytes with a suitable unit: 213 kB, 7.30 MB."""
    for unit, least in (("MB", 1e6), ("kB", 1e3)):
        if count >= least:
            return f"{figures(count / least)} {unit}"
    return f"{count:.0f} bytes"


def join_list(parts: Sequence[str], joint: str = "and") -> str:
    """a; a and b; a, b and c."""
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} {joint} {parts[-1]}"
