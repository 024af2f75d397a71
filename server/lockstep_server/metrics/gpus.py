"""What NVML says of the machine's GPUs, read at each scrape. No NVML, or no GPU: no metrics."""

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
    """None where this machine has no NVML that answers, or nvidia-ml-py is not installed."""
    try:
        import pynvml
    except ImportError:
        return None
    return Gpus.open(pynvml)


class Gpus(Collector):
    """Utilisation and memory of every GPU, by its index.

    Args:
        nvml: the module pynvml, which has been initialised.
    """

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        count = nvml.nvmlDeviceGetCount()
        self._handles = {str(index): nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)}
        self._names = {index: _text(nvml.nvmlDeviceGetName(one)) for index, one in self._handles.items()}

    @classmethod
    def open(cls, nvml: Any) -> Gpus | None:
        """None where NVML does not answer, or knows of no GPU."""
        try:
            nvml.nvmlInit()
            gpus = cls(nvml)
        except nvml.NVMLError as error:
            log.debug("no metrics of GPUs: %s", error)
            return None
        return gpus if gpus._handles else None

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("lockstep_gpu_info", "1, with the GPU's name.", labels=("gpu", "name"))
        for index, name in self._names.items():
            info.add_metric((index, name), 1)
        busy = _gauge(
            "utilization_ratio", "Share of time, 0 to 1, in which a kernel ran, by NVML's last sample."
        )
        used = _gauge("memory_used_bytes", "Bytes of the GPU's memory in use, by all processes.")
        total = _gauge("memory_total_bytes", "Bytes of memory that the GPU has.")
        for index, handle in self._handles.items():
            rates = self._asked(self._nvml.nvmlDeviceGetUtilizationRates, handle)
            memory = self._asked(self._nvml.nvmlDeviceGetMemoryInfo, handle)
            if rates is not None:
                busy.add_metric((index,), rates.gpu / 100)
            if memory is not None:
                used.add_metric((index,), memory.used)
                total.add_metric((index,), memory.total)
        yield from (info, busy, used, total)

    def _asked(self, question: Callable[[Any], Any], handle: Any) -> Any:
        """None where the GPU does not tell: a part of one has no utilisation of its own."""
        try:
            return question(handle)
        except self._nvml.NVMLError as error:
            log.debug("no metric of a GPU: %s", error)
            return None


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"lockstep_gpu_{name}", text, labels=("gpu",))


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
