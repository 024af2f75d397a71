"""A Ray cluster of several nodes on this machine, with Serve's gRPC ingress on the head node."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from typing import TYPE_CHECKING, Any, Self

# Read when Ray is imported. docs/ray.md says what the last two bring; what is set already stays.
os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
} | os.environ

import ray
from ray import serve
from ray.cluster_utils import Cluster
from ray.serve.config import HTTPOptions, ProxyLocation, gRPCOptions
from ray.serve.schema import LoggingConfig

from lockstep_client import Client, LockstepError
from lockstep_ray import scaling
from lockstep_ray.application import SERVICES, build

if TYPE_CHECKING:
    from collections.abc import Mapping

APPLICATION = "lockstep"
_STORE_BYTES = 80 << 20
_POLL_S = 0.1
_WITHIN_S = 180.0


class LocalCluster:
    """A head node without engines, and worker nodes that have room for one replica each.

    Args:
        nodes: worker nodes. 0: the head node has room for two replicas, and no node can be killed.
    """

    def __init__(self, nodes: int) -> None:
        self._nodes = nodes
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]

    def __enter__(self) -> Self:
        system = {
            # A node counts as dead after 10 s without an answer, so that a killed one is missed soon.
            "health_check_period_ms": 1000,
            "health_check_failure_threshold": 10,
            # Ray's nice value of 15 would let everything else on this machine go first.
            "worker_niceness": 0,
        }
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0 if self._nodes else 2,
                "include_dashboard": False,
                "object_store_memory": _STORE_BYTES,
                "_system_config": system,
            },
        )
        self._workers: dict[str, Any] = {}
        for _ in range(self._nodes):
            self.add_node()
        ray.init(address=self._cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        serve.start(
            proxy_location=ProxyLocation.HeadOnly,
            http_options=HTTPOptions(port=0, location=ProxyLocation.HeadOnly),
            grpc_options=gRPCOptions(port=self.port, grpc_servicer_functions=[SERVICES]),
            logging_config=LoggingConfig(enable_access_log=False),
        )
        return self

    def __exit__(self, *_: object) -> None:
        serve.shutdown()
        ray.shutdown()
        self._cluster.shutdown()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def deploy(self, **arguments: Any) -> None:
        """Deploy the application, or its new arguments, and wait until it answers."""
        serve.run(build(arguments), name=APPLICATION, route_prefix="/lockstep")
        end = time.monotonic() + _WITHIN_S
        with Client(self.address, retries=0) as client:
            while not _answers(client):
                _wait_until(end, "the ingress does not know the application")

    def add_node(self) -> None:
        node = self._cluster.add_node(num_cpus=1, object_store_memory=_STORE_BYTES)
        self._workers[node.node_id] = node

    def kill_node_of(self, replica: Mapping[str, Any]) -> None:
        """End all processes of the node at once, the replica first, which would end after it."""
        os.kill(replica["pid"], signal.SIGKILL)
        self._cluster.remove_node(self._workers.pop(replica["node_id"]), allow_graceful=False)

    def infer(self, model: str, inputs: dict[str, Any]) -> dict[str, Any]:
        """Outputs by a deployment handle, as tasks in the cluster get them."""
        found: dict[str, Any] = serve.get_app_handle(APPLICATION).infer.remote(model, inputs).result()
        return found

    def load(self) -> float:
        """The load that one of the replicas reports."""
        stats = serve.get_app_handle(APPLICATION).record_autoscaling_stats.remote().result()
        return float(stats[scaling.LOAD])

    def replicas(self) -> list[dict[str, Any]]:
        """The replicas that run: `replica_id`, `node_id`, `pid`."""
        details = serve.context._get_global_client().get_serve_details()
        replicas = details["applications"][APPLICATION]["deployments"]["Lockstep"]["replicas"]
        return [replica for replica in replicas if replica["state"] == "RUNNING"]

    def wait_for_replicas(self, count: int, *, without: str = "") -> list[dict[str, Any]]:
        """Wait until there are `count`, none of them on the node `without`.

        Raises:
            TimeoutError: there are not.
        """
        end = time.monotonic() + _WITHIN_S
        while len(found := self.replicas()) != count or any(one["node_id"] == without for one in found):
            _wait_until(end, f"there are {len(found)} replicas, not {count}")
        return found


def _answers(client: Client) -> bool:
    try:
        client.health()
    except LockstepError:
        return False
    return True


def _wait_until(end: float, problem: str) -> None:
    if time.monotonic() > end:
        raise TimeoutError(f"after {_WITHIN_S:g} s {problem}")
    time.sleep(_POLL_S)
