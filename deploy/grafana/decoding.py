"""The dashboard *Step-wise and one-shot*: how do streams perform, and what does each mode cost?"""

from __future__ import annotations

from .dashboard import RED, Dashboard, DashboardRow, Query
from .panel_types import bar_chart, heatmap, time_series
from .promql import SERVER, mean, quantile, rate, ratio, select, sum_by

_LENGTHS = (("16", "1 to 16"), ("64", "17 to 64"), ("256", "65 to 256"), ("1024|more", "above 256"))

_RUNNING = select("lockstep_sequences", 'state="running"')

_WITH_SLOT = select("lockstep_sequences", 'state!="waiting"')

_STREAMS = DashboardRow(
    "Streams",
    (
        time_series(
            "Time to first token",
            "s",
            "Time from acceptance of a stream to its first token: waiting for a slot, prefill, first "
            "step. Points are exemplars with a trace id.",
            Query(quantile(0.5, "lockstep_first_token_seconds", by=("model",)), "{{model}} p50"),
            Query(
                quantile(0.95, "lockstep_first_token_seconds", by=("model",)), "{{model}} p95", exemplars=True
            ),
            width=12,
        ),
        time_series(
            "Time between tokens",
            "s",
            "Time between two tokens of a stream, as sent by the engine.",
            Query(quantile(0.5, "lockstep_inter_token_seconds", by=("model",)), "{{model}} p50"),
            Query(quantile(0.95, "lockstep_inter_token_seconds", by=("model",)), "{{model}} p95"),
            width=12,
        ),
        heatmap(
            "Time between tokens, distribution",
            "s",
            "Distribution of the time between two tokens of a stream.",
            Query(sum_by(rate("lockstep_inter_token_seconds_bucket"), "le"), "{{le}}"),
        ),
        time_series(
            "Tokens",
            "ops",
            "Tokens sent to streams per second.",
            Query(sum_by(rate("lockstep_tokens_total"), "model"), "{{model}}"),
        ),
        time_series(
            "Sequences",
            "short",
            "Step-wise sequences that are running, waiting for a slot, or idle (waiting for the client).",
            Query(sum_by(select("lockstep_sequences"), "state"), "{{state}}"),
            stacked=True,
        ),
        time_series(
            "Slot utilisation",
            "percentunit",
            "Fraction of the slots that are in use. At 100 % new sequences wait.",
            Query(
                f"{sum_by(_WITH_SLOT, 'model')} / {sum_by(select('lockstep_slots'), 'model')}",
                "{{model}}",
            ),
            thresholds=((0.9, RED),),
            threshold_style="dashed",
            field_options={"max": 1},
            width=12,
        ),
        time_series(
            "Sequence moves",
            "ops",
            "Live sequences per second that came from a peer (in) or went to one (out), that no peer took "
            "(refused), or that were lost with a peer on the way. Empty without peers.",
            Query(sum_by(rate("lockstep_sequence_moves_total"), "result"), "{{result}}"),
            width=12,
        ),
        time_series(
            "Step time",
            "s",
            "Mean time of a step, which all running sequences share. It grows with the context of a model "
            "that keeps caches, and not with that of one whose state has a constant size.",
            Query(mean("lockstep_run_seconds", 'mode="stepwise"', by=("model",)), "{{model}}"),
        ),
        time_series(
            "State memory per stream",
            "bytes",
            "Memory of the states per running stream, padding included: caches grow with the context.",
            Query(
                f"{sum_by(select('lockstep_state_bytes'), 'model')} / ({sum_by(_RUNNING, 'model')} > 0)",
                "{{model}}",
            ),
        ),
        time_series(
            "Streams per core",
            "short",
            "Running streams for each core that their prompts and steps keep busy, at their present speed.",
            Query(
                ratio(_RUNNING, rate("lockstep_run_seconds_sum", 'mode=~"stepwise|prefill"'), "model"),
                "{{model}}",
            ),
        ),
    ),
)


def _compute(mode: str) -> tuple[Query, ...]:
    """One query, and so one bar, per length bucket."""

    def seconds(length: str) -> str:
        matchers = (f'mode="{mode}"', f'length=~"{length}"')
        return mean("lockstep_compute_seconds", *matchers, by=("model",), window="$__range")

    return tuple(Query(seconds(length), name) for length, name in _LENGTHS)


_MODES = DashboardRow(
    "Modes compared",
    (
        bar_chart(
            "Compute time by length, one-shot",
            "s",
            "Mean session time of a one-shot request, by its length in elements. It grows faster than "
            "the length for a Transformer, and in proportion to it for a recurrent model.",
            *_compute("oneshot"),
            group="model",
            width=12,
        ),
        bar_chart(
            "Compute time by length, step-wise",
            "s",
            "Mean session time of a step-wise sequence, by the number of elements that it read or "
            "generated, one step each.",
            *_compute("stepwise"),
            group="model",
            width=12,
        ),
        time_series(
            "Rows per run, by mode",
            "short",
            "Mean number of rows per run, over all models.",
            Query(mean("lockstep_batch_rows", by=("mode",)), "{{mode}}"),
        ),
        time_series(
            "Time per row, by mode",
            "s",
            "Session time per row. A row is a whole text (one-shot), one element (step-wise) or a "
            "prompt (prefill).",
            Query(
                ratio(rate("lockstep_run_seconds_sum"), rate("lockstep_batch_rows_sum"), "mode"), "{{mode}}"
            ),
        ),
        time_series(
            "Device utilisation, by mode",
            "percentunit",
            "Session time per second, by mode.",
            Query(sum_by(rate("lockstep_run_seconds_sum"), "mode"), "{{mode}}"),
            stacked=True,
        ),
        time_series(
            "Messages to clients",
            "ops",
            "Stream messages sent to clients per second. Under load one message carries several tokens.",
            Query(
                sum_by(
                    rate(
                        "grpc_server_msg_sent_total",
                        'grpc_method=~"Generate|Translate|Follow|ModelStreamInfer"',
                        scope=SERVER,
                    ),
                    "grpc_method",
                ),
                "{{grpc_method}}",
            ),
        ),
        time_series(
            "Queue time, by mode",
            "s",
            "Mean time from acceptance to the first run, over all models.",
            Query(mean("lockstep_queue_seconds", by=("mode",)), "{{mode}}"),
        ),
        time_series(
            "Ended streams",
            "reqps",
            "Streams ended per second, by method and outcome.",
            Query(
                sum_by(
                    rate("lockstep_requests_total", 'method=~"Generate|Translate|Follow"'),
                    "method",
                    "outcome",
                ),
                "{{method}} {{outcome}}",
            ),
        ),
    ),
)

DASHBOARD = Dashboard(
    "lockstep-decoding",
    "Step-wise and one-shot",
    "How do streams perform, and what does each mode cost?",
    (_STREAMS, _MODES),
)
