"""Builds the application of Ray Serve from its arguments.

`serve run` and `serve deploy` call `build` with the `args` of a configuration file; deploy/ray/serve.yaml is
one. Python calls it with keywords: `serve.run(build({"models": "/srv/models"}))`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig
from ray.serve.schema import LoggingConfig

from lockstep_ray.replica import Replica, ReplicaOptions
from lockstep_ray.routing import SequenceRouter
from lockstep_ray.scaling import Policy

SERVICES = "lockstep_ray.ingress:add_services"
"""For the `grpc_servicer_functions` of Serve's gRPC options."""


if TYPE_CHECKING:
    from collections.abc import Mapping

_OWN_FLAGS = ("--models", "--host", "--port", "--trusted-proxies", "--model-control", "--tls")


class Arguments(BaseModel):
    """The arguments of the application. An unknown one is an error."""

    model_config = ConfigDict(extra="forbid")

    models: str
    """Path of the model repository, the same on every node."""
    flags: list[str] = []
    """More flags of lockstep-serve, for instance `["--auth-file", "/etc/lockstep/auth.toml"]`. A replica sets
    those of `_OWN_FLAGS`; none for TLS, as it reaches its server over the loopback interface."""
    max_models: int = Field(0, ge=0)
    """Models that a replica keeps loaded; others are loaded when a call names them. 0: all, at the start."""
    min_replicas: int = Field(1, ge=1)
    max_replicas: int = Field(1, ge=1)
    target_queue: float = Field(16.0, gt=0)
    """Requests accepted and not ended that a replica should have."""
    target_slots: float = Field(0.8, gt=0, le=1)
    """Share of the slots of a step-wise model that should be taken."""
    upscale_delay_s: float = Field(10.0, ge=0)
    downscale_delay_s: float = Field(300.0, ge=0)
    look_back_s: float = Field(15.0, gt=0)
    """Loads are averaged over it; replicas report theirs five times in it."""
    num_cpus: float = Field(2.0, ge=0)
    num_gpus: float = Field(0.0, ge=0)
    drain_s: float = Field(120.0, gt=0)
    """How long a replica that is taken away may finish its calls."""
    max_calls: int = Field(1000, ge=1)
    """Calls in flight on a replica, streams included; more wait in the proxy."""
    max_waiting_calls: int = Field(-1, ge=-1)
    """Calls that may wait in each proxy; more are RESOURCE_EXHAUSTED. -1: no limit."""
    start_timeout_s: float = Field(300.0, gt=0)

    @field_validator("flags")
    @classmethod
    def _leave_own_flags(cls, flags: list[str]) -> list[str]:
        if own := [flag for flag in flags if flag.startswith(_OWN_FLAGS)]:
            raise ValueError(f"{own[0]} cannot be set: each replica sets it for its own server; remove it")
        return flags


def build(arguments: Mapping[str, Any] | Arguments) -> serve.Application:
    """The application.

    Raises:
        pydantic.ValidationError: an argument is missing, unknown or not valid.
    """
    given = arguments if isinstance(arguments, Arguments) else Arguments(**arguments)
    deployment = serve.deployment(
        Replica,
        name="Lockstep",
        ray_actor_options={"num_cpus": given.num_cpus, "num_gpus": given.num_gpus},
        max_ongoing_requests=given.max_calls,
        max_queued_requests=given.max_waiting_calls,
        graceful_shutdown_timeout_s=given.drain_s,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=5,
        logging_config=LoggingConfig(enable_access_log=False),  # the server has a log, and metrics
        request_router_config=RequestRouterConfig(
            request_router_class=SequenceRouter, request_router_kwargs={"on_demand": bool(given.max_models)}
        ),
        autoscaling_config=AutoscalingConfig(
            min_replicas=given.min_replicas,
            max_replicas=given.max_replicas,
            upscale_delay_s=given.upscale_delay_s,
            downscale_delay_s=given.downscale_delay_s,
            look_back_period_s=given.look_back_s,
            metrics_interval_s=given.look_back_s / 5,
            policy=AutoscalingPolicy(
                policy_function=Policy, policy_kwargs={"target_queue": given.target_queue}
            ),
        ),
    )
    return deployment.bind(
        ReplicaOptions(
            models=given.models,
            flags=tuple(given.flags),
            max_models=given.max_models,
            target_queue=given.target_queue,
            target_slots=given.target_slots,
            start_timeout_s=given.start_timeout_s,
        )
    )
