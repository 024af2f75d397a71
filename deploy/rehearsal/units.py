"""Values as Grafana writes them, roughly."""

from __future__ import annotations

import math


def formatted(value: float, unit: str) -> str:
    if math.isinf(value):
        return "more"
    if unit == "percentunit":
        return f"{value * 100:.4g} %"
    if unit == "s" and value < 60:
        for factor, name in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
            if value * factor >= 1 or name == "µs":
                return f"{value * factor:.3g} {name}"
    if unit == "s":
        return f"{value / 60:.3g} min"
    if unit == "bytes":
        return f"{value / 2**20:.0f} MiB"
    shown = f"{value / 1000:.3g}k" if value >= 10_000 else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return shown + {"reqps": " req/s", "ops": "/s"}.get(unit, "")
