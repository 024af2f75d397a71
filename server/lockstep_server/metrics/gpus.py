"""GPU metrics from NVML, read at each scrape. Without NVML or a GPU there are no metrics."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.core import Metric

log = logging.getLogger(__name__)


def open_gpus() -> Gpus | None:
    """Return None if NVML is not available, no GPU is found, or nvidia-ml-py is not installed."""
    try:
        import pynvml
    except ImportError:
        return None
    return Gpus.open(pynvml)


class Gpus(Collector):
    """Collects utilisation and memory of every GPU, by index.

    Args:
        nvml: the module pynvml, already initialised.
    """

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        count = nvml.nvmlDeviceGetCount()
        self._handles = {str(index): nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)}
        self._names = {
            index: _decoded(nvml.nvmlDeviceGetName(handle)) for index, handle in self._handles.items()
        }

    @classmethod
    def open(cls, nvml: Any) -> Gpus | None:
        """Initialise NVML. Returns None if that fails or no GPU is found."""
        try:
            nvml.nvmlInit()
            gpus = cls(nvml)
        except nvml.NVMLError as error:
            log.debug("GPU metrics are not available: %s", error)
            return None
        return gpus if gpus._handles else None

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily(
            "lockstep_gpu_info",
            "Always 1. The label `name` is the product name of the GPU.",
            labels=("gpu", "name"),
        )
        for index, name in self._names.items():
            info.add_metric((index, name), 1)
        busy = _gauge(
            "utilization_ratio",
            "Ratio of time (0 to 1) with a kernel running, over NVML's last sample period.",
        )
        used = _gauge("memory_used_bytes", "Bytes of GPU memory in use by all processes.")
        total = _gauge("memory_total_bytes", "Bytes of GPU memory.")
        for index, handle in self._handles.items():
            rates = self._read(self._nvml.nvmlDeviceGetUtilizationRates, handle)
            memory = self._read(self._nvml.nvmlDeviceGetMemoryInfo, handle)
            if rates is not None:
                busy.add_metric((index,), rates.gpu / 100)
            if memory is not None:
                used.add_metric((index,), memory.used)
                total.add_metric((index,), memory.total)
        yield from (info, busy, used, total)

    def _read(self, function: Callable[[Any], Any], handle: Any) -> Any:
        """Return None if the GPU does not support the query: MIG instances report no utilisation."""
        try:
            return function(handle)
        except self._nvml.NVMLError as error:
            log.debug("GPU metric is not available: %s", error)
            return None


def _gauge(name: str, help_: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"lockstep_gpu_{name}", help_, labels=("gpu",))


def _decoded(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
