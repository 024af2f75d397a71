"""*Models and machine*: what is served, by what, and is there room?"""

from __future__ import annotations

from .kinds import curves, number, states, table
from .parts import BLUE, GREEN, RED, Dashboard, DashboardRow, Query
from .promql import MODEL, SERVER, add, largest, rate, select

_FACES = MODEL.replace("$model", "$model(.step)?")
"""The step-wise form of a model is told of as a model of its own."""


def _with_provider(metric: str) -> str:
    """A model version's value, with the provider that runs it as a label."""
    value = largest(select(metric, of=_FACES), "instance", "model", "version")
    info = largest(select("lockstep_execution_provider_info", of=_FACES), "instance", "model", "provider")
    return f"{value} * on (instance, model) group_left (provider) {info}"


_MODELS = DashboardRow(
    "Models",
    (
        number(
            "Models ready",
            "percentunit",
            "Share of the known model versions that answer.",
            Query(f"avg({select('lockstep_model_ready', of=_FACES)})"),
            base=RED,
            thresholds=((1, GREEN),),
        ),
        number(
            "Engines",
            "short",
            "1 while the engine process can be reached, at the worst server.",
            Query(f"min({select('lockstep_engine_up', of=SERVER)})"),
            base=RED,
            thresholds=((1, GREEN),),
        ),
        number(
            "Engine restarts",
            "short",
            "Times that an engine process ended by itself and was started again, in the time shown.",
            Query(f"sum(increase({select('lockstep_engine_restarts_total', of=SERVER)}[$__range]))"),
            thresholds=((1, RED),),
        ),
        number(
            "Draining",
            "short",
            "Servers that have been told to stop and answer what is in flight.",
            Query(add(select("lockstep_draining", of=SERVER))),
            base=BLUE,
        ),
        table(
            "Server",
            "short",
            "Versions of the servers and of their runtime.",
            Query(
                f"count by (instance, version, onnxruntime) ({select('lockstep_build_info', of=SERVER)})",
                "servers",
            ),
            height=4,
        ),
        states(
            "Ready",
            "Which model versions answered when.",
            Query(
                largest(select("lockstep_model_ready", of=_FACES), "model", "version"),
                "{{model}} {{version}}",
            ),
            off="not ready",
            on="ready",
            width=12,
        ),
        table(
            "What was found when loading",
            "short",
            "Whether the self-test allows requests to share runs (1), and how many seconds the loading took.",
            Query(_with_provider("lockstep_model_batched"), "may share runs"),
            Query(_with_provider("lockstep_model_load_seconds"), "seconds to load"),
            width=12,
        ),
    ),
)

_PROCESSES = DashboardRow(
    "Processes",
    (
        curves(
            "CPU",
            "short",
            "Cores in use by the process that speaks gRPC and by the one that holds the engines.",
            Query(add(rate("process_cpu_seconds_total", of=SERVER)), "server"),
            Query(add(rate("lockstep_engine_process_cpu_seconds_total", of=SERVER)), "engines"),
        ),
        curves(
            "Memory",
            "bytes",
            "Resident memory of the two.",
            Query(add(select("process_resident_memory_bytes", of=SERVER)), "server"),
            Query(add(select("lockstep_engine_process_resident_memory_bytes", of=SERVER)), "engines"),
        ),
        curves(
            "Open files",
            "percentunit",
            "File descriptors in use, as a share of those that the process may have. Each connection is one.",
            Query(
                f"max({select('process_open_fds', of=SERVER)} / {select('process_max_fds', of=SERVER)})",
                "server",
            ),
            Query(
                f"max({select('lockstep_engine_process_open_fds', of=SERVER)}"
                f" / {select('lockstep_engine_process_max_fds', of=SERVER)})",
                "engines",
            ),
            thresholds=((0.8, RED),),
            limit="dashed",
        ),
        curves(
            "Garbage collections",
            "ops",
            "Collections of Python's garbage collector a second, by generation. Those of generation 2 stop "
            "everything for milliseconds.",
            Query(add(rate("python_gc_collections_total", of=SERVER), "generation"), "server {{generation}}"),
            Query(
                add(rate("lockstep_engine_gc_collections_total", of=SERVER), "generation"),
                "engines {{generation}}",
            ),
        ),
        curves(
            "Time since the start",
            "s",
            "A fall is a restart of the server, or of its engines.",
            Query(f"time() - max({select('process_start_time_seconds', of=SERVER)})", "server"),
            Query(
                f"time() - max({select('lockstep_engine_process_start_time_seconds', of=SERVER)})", "engines"
            ),
        ),
        curves(
            "Scrape",
            "s",
            "How long Prometheus takes to read the server's metrics.",
            Query(f"max by (instance) ({select('scrape_duration_seconds', of=SERVER)})", "{{instance}}"),
        ),
    ),
)

_GPU = DashboardRow(
    "GPU",
    (
        curves(
            "GPU in use",
            "percentunit",
            "Share of the time in which the GPU ran anything at all, by NVML. Empty without a GPU.",
            Query(
                largest(select("lockstep_gpu_utilization_ratio", of=SERVER), "instance", "gpu"),
                "{{instance}} {{gpu}}",
            ),
            field_options={"max": 1},
        ),
        curves(
            "GPU memory",
            "percentunit",
            "Memory in use on the GPU, by anyone. Empty without a GPU.",
            Query(
                f"{largest(select('lockstep_gpu_memory_used_bytes', of=SERVER), 'instance', 'gpu')}"
                f" / {largest(select('lockstep_gpu_memory_total_bytes', of=SERVER), 'instance', 'gpu')}",
                "{{instance}} {{gpu}}",
            ),
            thresholds=((0.9, RED),),
            limit="dashed",
            field_options={"max": 1},
        ),
        table(
            "GPUs",
            "short",
            "The GPUs that the servers see. Empty without a GPU.",
            Query(f"count by (instance, gpu, name) ({select('lockstep_gpu_info', of=SERVER)})", "servers"),
        ),
    ),
)

DASHBOARD = Dashboard(
    "lockstep-machine",
    "Models and machine",
    "What is served, by what, and is there room?",
    (_MODELS, _PROCESSES, _GPU),
)
