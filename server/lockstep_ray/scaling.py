"""How many replicas there are: by the queues and slots that their servers report. Imports no Ray.

A server's /metrics → `load_of` → `record_autoscaling_stats` of each replica → `Policy` → Ray Serve
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lockstep_client.metrics_text import Scrape

LOAD = "lockstep_load"
"""Name of the replicas' metric: their load as a multiple of what one replica should have."""


def load_of(scrape: Scrape, open_calls: int, target_queue: float, target_slots: float) -> float:
    """The load of a replica, as a multiple of its target: of its requests, or of the slots of its busiest
    model, whichever is more.

    Args:
        scrape: the metrics of its server.
        open_calls: calls with one reply that it has taken and not answered. A small model answers faster than
            Ray passes calls on: then they wait in the replica, and the server's queue is empty.
        target_queue: requests accepted and not ended that a replica should have.
        target_slots: share of a model's slots that should be taken, above 0 and at most 1.
    """
    queue = max(open_calls, scrape.total("lockstep_queue_depth")) / target_queue
    slots = [
        scrape.total("lockstep_sequences", model=labels["model"]) / (count * target_slots)
        for labels, count in scrape.select("lockstep_slots")
        if count
    ]
    return max([queue, *slots])


class Policy:
    """As many replicas as bring the mean load to 1, and more for calls that no replica has taken yet.

    Ray Serve applies its own delays, factors and bounds to the result.
    """

    def __init__(self, target_queue: float) -> None:
        self._target_queue = target_queue

    def __call__(self, context: Any) -> tuple[float, dict[str, Any]]:
        loads = (context.aggregated_metrics or {}).get(LOAD, {})
        if not loads:
            return context.target_num_replicas, {}
        mean = sum(loads.values()) / len(loads)
        waiting = (context.total_queued_requests or 0.0) / self._target_queue
        return context.current_num_replicas * mean + waiting, {}
