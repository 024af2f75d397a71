"""*Batching*: what does sharing runs do, and what does it cost?"""

from __future__ import annotations

from .kinds import bars, curves, heat_map, table
from .parts import RED, Dashboard, DashboardRow, Query
from .promql import add, largest, mean, rate, ratio, select

_REAL, _PAID = rate("lockstep_elements_total"), rate("lockstep_padded_elements_total")

_RUNS = DashboardRow(
    "Runs",
    (
        curves(
            "Rows in a run",
            "short",
            "How many requests or sequences a run takes along, the mean. 1 is no batching.",
            Query(mean("lockstep_batch_rows", by=("model", "mode")), "{{model}} {{mode}}"),
        ),
        curves(
            "Runs",
            "ops",
            "Runs of a session a second.",
            Query(add(rate("lockstep_batch_rows_count"), "model", "mode"), "{{model}} {{mode}}"),
        ),
        heat_map(
            "Rows in one-shot runs, all of them",
            "short",
            "One-shot runs by how many rows they had.",
            Query(add(rate("lockstep_batch_rows_bucket", 'mode="oneshot"'), "le"), "{{le}}"),
        ),
    ),
)

_PADDING = DashboardRow(
    "Padding",
    (
        curves(
            "Padding",
            "percentunit",
            "Share of the elements computed that were no caller's: what grouping by length keeps small.",
            Query(f"1 - {ratio(_REAL, _PAID, 'model')}", "{{model}}"),
            thresholds=((0.5, RED),),
            limit="dashed",
            field_options={"max": 1},
        ),
        curves(
            "Elements paid for",
            "ops",
            "Elements computed a second, rows times longest, beside those that were real.",
            Query(add(_PAID), "paid for"),
            Query(add(_REAL), "real"),
        ),
        curves(
            "Time of a row",
            "s",
            "Seconds of runs for each row in them: what batching makes smaller.",
            Query(
                ratio(rate("lockstep_run_seconds_sum"), rate("lockstep_batch_rows_sum"), "model", "mode"),
                "{{model}} {{mode}}",
            ),
        ),
    ),
)

_TIME = DashboardRow(
    "Queue against compute",
    (
        curves(
            "Queue",
            "s",
            "Time from acceptance to the first run, the mean. Where it is longer than the time in runs, "
            "requests wait for others.",
            Query(mean("lockstep_queue_seconds", by=("model", "mode")), "{{model}} {{mode}}"),
        ),
        curves(
            "Compute",
            "s",
            "Time in the runs that a request took part in, the mean.",
            Query(mean("lockstep_compute_seconds", by=("model", "mode")), "{{model}} {{mode}}"),
        ),
        bars(
            "Queue against compute",
            "s",
            "The two side by side for one-shot requests, the mean of the time shown.",
            Query(mean("lockstep_queue_seconds", 'mode="oneshot"', by=("model",), over="$__range"), "queue"),
            Query(
                mean("lockstep_compute_seconds", 'mode="oneshot"', by=("model",), over="$__range"), "compute"
            ),
            group="model",
        ),
    ),
)


def _costs(mode: str, column: str, values: tuple[int, ...], *by: str) -> tuple[Query, ...]:
    """A column for each value of the label `column`."""
    return tuple(
        Query(
            largest(select("lockstep_run_cost_seconds", f'mode="{mode}"', f'{column}="{value}"'), *by),
            f"{value} {'elements' if column == 'length' else 'rows'}",
        )
        for value in values
    )


_COSTS = DashboardRow(
    "What runs cost",
    (
        table(
            "Cost of a one-shot run",
            "s",
            "What the planner holds a run of so many rows and elements to take, by what was measured and "
            "learned since. It forms the runs that pay by this table.",
            *_costs("oneshot", "length", (16, 64, 256), "model", "rows"),
            counted=("rows",),
            width=12,
            height=10,
        ),
        table(
            "Cost of a step",
            "s",
            "What a step of so many sequences takes. Empty cells have not been seen.",
            *_costs("stepwise", "rows", (1, 4, 16, 64), "model"),
            width=12,
            height=10,
        ),
        curves(
            "Time of a run",
            "s",
            "What runs really took, the mean.",
            Query(mean("lockstep_run_seconds", by=("model", "mode")), "{{model}} {{mode}}"),
            width=24,
        ),
    ),
)

DASHBOARD = Dashboard(
    "lockstep-batching",
    "Batching",
    "What does sharing runs do, and what does it cost?",
    (_RUNS, _PADDING, _TIME, _COSTS),
)
