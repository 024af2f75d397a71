"""GPUs as NVML tells of them, and machines without."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import prometheus_client as prometheus
import pytest

from lockstep_server.metrics.gpus import Gpus, open_gpus


class NVMLError(Exception):
    """As pynvml's."""


class Nvml:
    """Answers as pynvml does, for two GPUs of which the second is a part of one."""

    NVMLError = NVMLError

    def __init__(self, count: int = 2, *, there: bool = True) -> None:
        self.count, self.there = count, there
        self.busy = 40

    def nvmlInit(self) -> None:
        if not self.there:
            raise NVMLError("NVML Shared Library Not Found")

    def nvmlDeviceGetCount(self) -> int:
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> str | bytes:
        return b"An old one" if handle else "A new one"

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        if handle:
            raise NVMLError("Not Supported")
        return SimpleNamespace(gpu=self.busy, memory=3)

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(total=80 << 30, used=1 << 30, free=79 << 30)


def registry_of(nvml: Nvml) -> prometheus.CollectorRegistry:
    registry = prometheus.CollectorRegistry()
    gpus = Gpus.open(nvml)
    assert gpus is not None
    registry.register(gpus)
    return registry


def test_utilisation_and_memory_of_every_gpu_are_read_at_the_scrape() -> None:
    nvml = Nvml()
    told = registry_of(nvml).get_sample_value
    for busy in (40, 95):
        nvml.busy = busy
        assert told("lockstep_gpu_utilization_ratio", {"gpu": "0"}) == busy / 100
    assert told("lockstep_gpu_memory_used_bytes", {"gpu": "0"}) == 1 << 30
    assert told("lockstep_gpu_memory_total_bytes", {"gpu": "1"}) == 80 << 30
    assert told("lockstep_gpu_info", {"gpu": "0", "name": "A new one"}) == 1
    assert told("lockstep_gpu_info", {"gpu": "1", "name": "An old one"}) == 1


def test_what_a_gpu_does_not_tell_is_left_out() -> None:
    told = registry_of(Nvml()).get_sample_value
    assert told("lockstep_gpu_utilization_ratio", {"gpu": "1"}) is None
    assert told("lockstep_gpu_memory_used_bytes", {"gpu": "1"}) == 1 << 30


@pytest.mark.parametrize("nvml", [Nvml(there=False), Nvml(count=0)])
def test_without_nvml_or_gpus_there_is_nothing(nvml: Nvml) -> None:
    assert Gpus.open(nvml) is None


@pytest.mark.gpu
@pytest.mark.skipif(open_gpus() is None, reason="NVML knows of no GPU here")
def test_the_gpu_of_this_machine() -> None:
    gpus = open_gpus()
    assert gpus is not None
    registry = prometheus.CollectorRegistry()
    registry.register(gpus)
    used = registry.get_sample_value("lockstep_gpu_memory_used_bytes", {"gpu": "0"})
    total = registry.get_sample_value("lockstep_gpu_memory_total_bytes", {"gpu": "0"})
    assert used is not None
    assert total is not None
    assert 0 < used <= total
