"""The dashboard *Models and machine*: which models are served, and which resources do they use?"""

from __future__ import annotations

from .dashboard import BLUE, GREEN, RED, Dashboard, DashboardRow, Query
from .panel_types import stat, state_timeline, table, time_series
from .promql import MODEL, SERVER, max_by, rate, select, sum_by

_WITH_STEP_FORM = MODEL.replace("$model", "$model(.step)?")
"""Also matches the step-wise form of a chosen model, which is exported under the name `<model>.step`."""


def _with_provider(metric: str) -> str:
    """A metric of a model version, with its execution provider added as a label."""
    value = max_by(select(metric, scope=_WITH_STEP_FORM), "instance", "model", "version")
    info = max_by(
        select("lockstep_execution_provider_info", scope=_WITH_STEP_FORM), "instance", "model", "provider"
    )
    return f"{value} * on (instance, model) group_left (provider) {info}"


_MODELS = DashboardRow(
    "Models",
    (
        stat(
            "Models ready",
            "percentunit",
            "Fraction of the model versions that are ready.",
            Query(f"avg({select('lockstep_model_ready', scope=_WITH_STEP_FORM)})"),
            base_colour=RED,
            thresholds=((1, GREEN),),
        ),
        stat(
            "Engine up",
            "short",
            "1 if the engine can be reached, on the worst server.",
            Query(f"min({select('lockstep_engine_up', scope=SERVER)})"),
            base_colour=RED,
            thresholds=((1, GREEN),),
        ),
        stat(
            "Engine restarts",
            "short",
            "Restarts of engine processes that died, over the time range.",
            Query(f"sum(increase({select('lockstep_engine_restarts_total', scope=SERVER)}[$__range]))"),
            thresholds=((1, RED),),
        ),
        stat(
            "Draining servers",
            "short",
            "Number of servers that are shutting down and finishing their requests.",
            Query(sum_by(select("lockstep_draining", scope=SERVER))),
            base_colour=BLUE,
        ),
        table(
            "Server versions",
            "short",
            "Versions of the servers and their ONNX Runtime.",
            Query(
                f"count by (instance, version, onnxruntime) ({select('lockstep_build_info', scope=SERVER)})",
                "servers",
            ),
            height=4,
        ),
        state_timeline(
            "Model readiness",
            "Readiness of each model version over time.",
            Query(
                max_by(select("lockstep_model_ready", scope=_WITH_STEP_FORM), "model", "version"),
                "{{model}} {{version}}",
            ),
            off="not ready",
            on="ready",
            width=12,
        ),
        table(
            "Load results",
            "short",
            "Whether the self-test allows batching (1 or 0), and how long loading took in seconds.",
            Query(_with_provider("lockstep_model_batched"), "batched"),
            Query(_with_provider("lockstep_model_load_seconds"), "load time, s"),
            width=12,
        ),
    ),
)

_PROCESSES = DashboardRow(
    "Processes",
    (
        time_series(
            "CPU",
            "short",
            "CPU cores used by the server process (gRPC) and by the engine process.",
            Query(sum_by(rate("process_cpu_seconds_total", scope=SERVER)), "server"),
            Query(sum_by(rate("lockstep_engine_process_cpu_seconds_total", scope=SERVER)), "engine"),
        ),
        time_series(
            "Memory",
            "bytes",
            "Resident memory of the server process and the engine process.",
            Query(sum_by(select("process_resident_memory_bytes", scope=SERVER)), "server"),
            Query(sum_by(select("lockstep_engine_process_resident_memory_bytes", scope=SERVER)), "engine"),
        ),
        time_series(
            "Open files",
            "percentunit",
            "Open file descriptors as a fraction of the limit. Each connection uses one.",
            Query(
                f"max({select('process_open_fds', scope=SERVER)}"
                f" / {select('process_max_fds', scope=SERVER)})",
                "server",
            ),
            Query(
                f"max({select('lockstep_engine_process_open_fds', scope=SERVER)}"
                f" / {select('lockstep_engine_process_max_fds', scope=SERVER)})",
                "engine",
            ),
            thresholds=((0.8, RED),),
            threshold_style="dashed",
        ),
        time_series(
            "Garbage collections",
            "ops",
            "Python garbage collections per second, by generation. A collection of generation 2 pauses "
            "the process for milliseconds.",
            Query(
                sum_by(rate("python_gc_collections_total", scope=SERVER), "generation"),
                "server {{generation}}",
            ),
            Query(
                sum_by(rate("lockstep_engine_gc_collections_total", scope=SERVER), "generation"),
                "engine {{generation}}",
            ),
        ),
        time_series(
            "Uptime",
            "s",
            "Time since the process started. A drop is a restart of the server or the engine process.",
            Query(f"time() - max({select('process_start_time_seconds', scope=SERVER)})", "server"),
            Query(
                f"time() - max({select('lockstep_engine_process_start_time_seconds', scope=SERVER)})",
                "engine",
            ),
        ),
        time_series(
            "Scrape duration",
            "s",
            "How long Prometheus takes to scrape the metrics of a server.",
            Query(f"max by (instance) ({select('scrape_duration_seconds', scope=SERVER)})", "{{instance}}"),
        ),
    ),
)

_GPU = DashboardRow(
    "GPU",
    (
        time_series(
            "GPU utilisation",
            "percentunit",
            "Fraction of time in which at least one kernel ran, from NVML. Empty without a GPU.",
            Query(
                max_by(select("lockstep_gpu_utilization_ratio", scope=SERVER), "instance", "gpu"),
                "{{instance}} {{gpu}}",
            ),
            field_options={"max": 1},
        ),
        time_series(
            "GPU memory",
            "percentunit",
            "Fraction of GPU memory in use by all processes. Empty without a GPU.",
            Query(
                f"{max_by(select('lockstep_gpu_memory_used_bytes', scope=SERVER), 'instance', 'gpu')}"
                f" / {max_by(select('lockstep_gpu_memory_total_bytes', scope=SERVER), 'instance', 'gpu')}",
                "{{instance}} {{gpu}}",
            ),
            thresholds=((0.9, RED),),
            threshold_style="dashed",
            field_options={"max": 1},
        ),
        table(
            "GPUs",
            "short",
            "GPUs visible to the servers. Empty without a GPU.",
            Query(f"count by (instance, gpu, name) ({select('lockstep_gpu_info', scope=SERVER)})", "servers"),
        ),
    ),
)

DASHBOARD = Dashboard(
    "lockstep-machine",
    "Models and machine",
    "Which models are served, and which resources do they use?",
    (_MODELS, _PROCESSES, _GPU),
)
