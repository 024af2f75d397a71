"""Whether a long run ended as it began: its first third against its last, as two runs are compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lockstep_load import compare

if TYPE_CHECKING:
    from lockstep_load.run_record import Document

LEAST_SECONDS = 6


def drift(run: Document) -> dict[str, Any] | None:
    """The comparison; None where the run is too short for one."""
    seconds = run["seconds"]
    third = len(seconds) // 3
    if len(seconds) < LEAST_SECONDS:
        return None
    rows = compare.compared({**run, "seconds": seconds[:third]}, {**run, "seconds": seconds[-third:]})
    return {
        "seconds": third,
        "metrics": [row.as_json() for row in rows if row.low is not None],
        "in_flight": [seconds[third - 1]["in_flight"], seconds[-1]["in_flight"]],
    }
