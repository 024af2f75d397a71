"""Which replica takes a call: the one that has its sequence or its model, or the less loaded of two."""

from __future__ import annotations

import random
from collections import OrderedDict
from typing import TYPE_CHECKING

from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter
from ray.serve.request_router import LocalityMixin, MultiplexMixin

if TYPE_CHECKING:
    from ray.serve.request_router import PendingRequest, ReplicaID, RunningReplica

_REMEMBERED = 100_000


class SequenceRouter(MultiplexMixin, LocalityMixin, ConsistentHashRouter):
    """Keeps the calls of a `sequence_id` on one replica.

    A proxy remembers where it sent a sequence, so a replica that starts takes none away. A sequence that it
    does not remember, or whose replica has gone, goes where the hash says, which all proxies compute alike.
    """

    def initialize_state(self, on_demand: bool = False) -> None:
        """
        Args:
            on_demand: replicas load models when they are asked for. Otherwise each has all of them, and to
                look for one that has reported the model would only take time.
        """
        super().initialize_state(num_fallback_replicas=0)
        self._on_demand = on_demand
        self._replica_of: OrderedDict[str, ReplicaID] = OrderedDict()

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        if pending_request is None or not candidate_replicas:
            return [candidate_replicas] if candidate_replicas else []
        if pending_request.metadata.session_id:
            return [[self._replicas[self._holder(pending_request.metadata.session_id)]]]
        if self._on_demand and pending_request.metadata.multiplexed_model_id:
            found = self.apply_multiplex_routing(pending_request=pending_request)
        else:
            found = self.apply_locality_routing(pending_request=pending_request)
        names = list(found)
        return [[self._replicas[name] for name in random.sample(names, min(2, len(names)))]]

    def _holder(self, sequence: str) -> ReplicaID:
        holder = self._replica_of.pop(sequence, None)
        if holder not in self._replicas:
            [holder] = self._lookup_ranked_replicas(sequence)
        self._replica_of[sequence] = holder
        if len(self._replica_of) > _REMEMBERED:
            self._replica_of.popitem(last=False)
        return holder
