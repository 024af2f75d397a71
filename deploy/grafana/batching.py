"""The dashboard *Batching*: how well are requests batched, and what does it cost?"""

from __future__ import annotations

from .dashboard import RED, Dashboard, DashboardRow, Query
from .panel_types import bar_chart, heatmap, table, time_series
from .promql import max_by, mean, rate, ratio, select, sum_by

_UNPADDED, _PADDED = rate("lockstep_elements_total"), rate("lockstep_padded_elements_total")

_RUNS = DashboardRow(
    "Runs",
    (
        time_series(
            "Rows per run",
            "short",
            "Mean number of requests or sequences per run. 1 means no batching.",
            Query(mean("lockstep_batch_rows", by=("model", "mode")), "{{model}} {{mode}}"),
        ),
        time_series(
            "Runs",
            "ops",
            "Session runs per second.",
            Query(sum_by(rate("lockstep_batch_rows_count"), "model", "mode"), "{{model}} {{mode}}"),
        ),
        heatmap(
            "Rows per one-shot run, distribution",
            "short",
            "Distribution of the number of rows in one-shot runs over time.",
            Query(sum_by(rate("lockstep_batch_rows_bucket", 'mode="oneshot"'), "le"), "{{le}}"),
        ),
    ),
)

_PADDING = DashboardRow(
    "Padding",
    (
        time_series(
            "Padding",
            "percentunit",
            "Fraction of the computed elements that is padding. Grouping requests by length keeps it low.",
            Query(f"1 - {ratio(_UNPADDED, _PADDED, 'model')}", "{{model}}"),
            thresholds=((0.5, RED),),
            threshold_style="dashed",
            field_options={"max": 1},
        ),
        time_series(
            "Elements computed",
            "ops",
            "Elements computed per second: with padding (rows times longest row) and without.",
            Query(sum_by(_PADDED), "with padding"),
            Query(sum_by(_UNPADDED), "without padding"),
        ),
        time_series(
            "Time per row",
            "s",
            "Session time per row of a run. Batching reduces it.",
            Query(
                ratio(rate("lockstep_run_seconds_sum"), rate("lockstep_batch_rows_sum"), "model", "mode"),
                "{{model}} {{mode}}",
            ),
        ),
    ),
)

_TIME = DashboardRow(
    "Queue and compute",
    (
        time_series(
            "Queue time",
            "s",
            "Mean time from acceptance to the first run. If it exceeds the compute time, requests wait "
            "for other requests.",
            Query(mean("lockstep_queue_seconds", by=("model", "mode")), "{{model}} {{mode}}"),
        ),
        time_series(
            "Compute time",
            "s",
            "Mean session time of the runs that included a request.",
            Query(mean("lockstep_compute_seconds", by=("model", "mode")), "{{model}} {{mode}}"),
        ),
        bar_chart(
            "Queue and compute time",
            "s",
            "Mean queue time and compute time of one-shot requests over the time range.",
            Query(
                mean("lockstep_queue_seconds", 'mode="oneshot"', by=("model",), window="$__range"), "queue"
            ),
            Query(
                mean("lockstep_compute_seconds", 'mode="oneshot"', by=("model",), window="$__range"),
                "compute",
            ),
            group="model",
        ),
    ),
)


def _costs(mode: str, column: str, values: tuple[int, ...], *by: str) -> tuple[Query, ...]:
    """One query, and so one table column, per value of the label `column`."""
    return tuple(
        Query(
            max_by(select("lockstep_run_cost_seconds", f'mode="{mode}"', f'{column}="{value}"'), *by),
            f"{value} {'elements' if column == 'length' else 'rows'}",
        )
        for value in values
    )


_COSTS = DashboardRow(
    "Run cost",
    (
        table(
            "Expected cost of a one-shot run",
            "s",
            "Time that the planner expects a run with these rows and this length to take, from "
            "measurements at load time and from later runs. The planner forms batches with this table.",
            *_costs("oneshot", "length", (16, 64, 256), "model", "rows"),
            numeric_labels=("rows",),
            width=12,
            height=10,
        ),
        table(
            "Expected cost of a step",
            "s",
            "Expected time of a step with this number of sequences. Empty cells have not been measured.",
            *_costs("stepwise", "rows", (1, 4, 16, 64), "model"),
            width=12,
            height=10,
        ),
        time_series(
            "Run time",
            "s",
            "Mean measured session time of a run.",
            Query(mean("lockstep_run_seconds", by=("model", "mode")), "{{model}} {{mode}}"),
            width=24,
        ),
    ),
)

DASHBOARD = Dashboard(
    "lockstep-batching",
    "Batching",
    "How well are requests batched, and what does it cost?",
    (_RUNS, _PADDING, _TIME, _COSTS),
)
