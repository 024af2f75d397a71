"""GPU metrics from NVML, and machines without NVML or a GPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import prometheus_client as prometheus
import pytest

from lockstep_server.metrics.gpus import Gpus, open_gpus


class NVMLError(Exception):
    """Stands for pynvml.NVMLError."""


class FakeNvml:
    """Stands for pynvml with two GPUs. The second, a MIG instance, reports no utilisation."""

    NVMLError = NVMLError

    def __init__(self, count: int = 2, *, available: bool = True) -> None:
        self.count, self.available = count, available
        self.busy = 40

    def nvmlInit(self) -> None:
        if not self.available:
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


def registry_with_gpus(nvml: FakeNvml) -> prometheus.CollectorRegistry:
    registry = prometheus.CollectorRegistry()
    gpus = Gpus.open(nvml)
    assert gpus is not None
    registry.register(gpus)
    return registry


def test_utilisation_and_memory_of_every_gpu_are_read_at_the_scrape() -> None:
    nvml = FakeNvml()
    sample = registry_with_gpus(nvml).get_sample_value
    for busy in (40, 95):
        nvml.busy = busy
        assert sample("lockstep_gpu_utilization_ratio", {"gpu": "0"}) == busy / 100
    assert sample("lockstep_gpu_memory_used_bytes", {"gpu": "0"}) == 1 << 30
    assert sample("lockstep_gpu_memory_total_bytes", {"gpu": "1"}) == 80 << 30
    assert sample("lockstep_gpu_info", {"gpu": "0", "name": "A new one"}) == 1
    assert sample("lockstep_gpu_info", {"gpu": "1", "name": "An old one"}) == 1


def test_unsupported_metrics_are_left_out() -> None:
    sample = registry_with_gpus(FakeNvml()).get_sample_value
    assert sample("lockstep_gpu_utilization_ratio", {"gpu": "1"}) is None
    assert sample("lockstep_gpu_memory_used_bytes", {"gpu": "1"}) == 1 << 30


@pytest.mark.parametrize("nvml", [FakeNvml(available=False), FakeNvml(count=0)])
def test_without_nvml_or_a_gpu_there_are_no_metrics(nvml: FakeNvml) -> None:
    assert Gpus.open(nvml) is None


@pytest.mark.gpu
@pytest.mark.skipif(open_gpus() is None, reason="no GPU found by NVML")
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
