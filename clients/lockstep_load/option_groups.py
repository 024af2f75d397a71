"""Groups of options that commands share, as dataclasses; `expand_options` adds their fields to a command."""

import functools
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from lockstep_client import address as addresses
from lockstep_load import options
from lockstep_load.plan import LoadPattern, LoadProfile, Target, Workload
from lockstep_load.preflight import TensorOverrides
from lockstep_load.validity import MAX_LAG_MS


@dataclass(frozen=True)
class TargetOptions:
    """Options that describe the requests."""

    model: options.Model
    call: options.Call = None
    version: options.Version = ""
    lengths: options.LengthsGiven = "sst2"
    ids: options.Ids = ""
    rows: options.Rows = 1
    tokens: options.Tokens = ""
    shape: options.Shapes = None
    fill: options.Fills = None
    timeout: options.Timeout = 10.0

    def target(self, common: "CommonOptions") -> Target:
        return common.with_server(Target(common.address, self.model, self.version, self.timeout))

    @property
    def workload(self) -> Workload:
        """The workload as given; preflight fills in its call and tensors."""
        tokens = options.lengths("--tokens", self.tokens) if self.tokens else None
        drawn = options.lengths("--lengths", self.lengths)
        return Workload(self.call or "infer", drawn, options.ids(self.ids), self.rows, tokens)

    @property
    def overrides(self) -> TensorOverrides:
        return options.tensor_overrides(self.shape, self.fill)


@dataclass(frozen=True)
class LoadOptions:
    """Options that describe the load."""

    warmup: options.Warmup = 1.0
    processes: options.Processes = None
    seed: options.Seed = 0
    max_in_flight: options.MaxInFlight = 10_000

    def load(self, pattern: LoadPattern, seconds: float) -> LoadProfile:
        processes = options.processes(self.processes, pattern)
        return LoadProfile(pattern, seconds, self.warmup, self.seed, processes, self.max_in_flight)


@dataclass(frozen=True)
class CommonOptions:
    """Options of every measuring command: the server, and the outputs."""

    address: options.Address = addresses.DEFAULT
    tls: options.Encryption = ""
    tls_cert: options.Certificate = ""
    tls_key: options.Key = ""
    wait: options.Wait = 0.0
    metrics: options.Metrics = ""
    max_lag_ms: options.MaxLag = MAX_LAG_MS
    json_file: options.Json = None
    jsonl: options.Jsonl = None
    html: options.Html = None
    quiet: options.Quiet = False

    def with_server(self, target: Target) -> Target:
        """The target with this server's address, TLS and token."""
        token = os.environ.get("LOCKSTEP_TOKEN", "")
        return replace(
            target,
            address=self.address,
            tls=self.tls,
            tls_cert=self.tls_cert,
            tls_key=self.tls_key,
            token=token,
            metrics_token=os.environ.get("LOCKSTEP_METRICS_TOKEN", token),
        )


def expand_options(function: Callable[..., None]) -> Callable[..., None]:
    """A command with the options of `function` in which each group is replaced by its fields."""
    parameters = inspect.signature(function).parameters
    groups: dict[str, Any] = {
        name: one.annotation for name, one in parameters.items() if is_dataclass(one.annotation)
    }
    own_parameters = [one for name, one in parameters.items() if name not in groups]
    group_parameters = [
        one for group in groups.values() for one in inspect.signature(group).parameters.values()
    ]

    @functools.wraps(function)
    def command(**given: Any) -> None:
        group_values = {
            name: group(**{one.name: given.pop(one.name) for one in fields(group)})
            for name, group in groups.items()
        }
        function(**group_values, **given)

    command.__annotations__ = {}
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*own_parameters, *group_parameters)]
    )
    del command.__wrapped__
    return command
