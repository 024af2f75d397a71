"""*Step-wise against one-shot*: how do streams fare, and what does either way of asking cost?"""

from __future__ import annotations

from .kinds import bars, curves, heat_map
from .parts import RED, Dashboard, DashboardRow, Query
from .promql import SERVER, add, mean, quantile, rate, ratio, select

_LENGTHS = (("16", "up to 16"), ("64", "to 64"), ("256", "to 256"), ("1024|more", "more"))

_HOLDERS = select("lockstep_sequences", 'state!="waiting"')

_STREAMS = DashboardRow(
    "Streams",
    (
        curves(
            "Time to first token",
            "s",
            "From acceptance to a stream's first token: slot, prompt, first step. Points are traces.",
            Query(quantile(0.5, "lockstep_first_token_seconds", by=("model",)), "{{model}} p50"),
            Query(
                quantile(0.95, "lockstep_first_token_seconds", by=("model",)), "{{model}} p95", exemplars=True
            ),
        ),
        curves(
            "Time between tokens",
            "s",
            "Between two tokens of a stream, as the engine hands them over.",
            Query(quantile(0.5, "lockstep_inter_token_seconds", by=("model",)), "{{model}} p50"),
            Query(quantile(0.95, "lockstep_inter_token_seconds", by=("model",)), "{{model}} p95"),
        ),
        heat_map(
            "Time between tokens, all of it",
            "s",
            "Tokens by how long after the one before them they came.",
            Query(add(rate("lockstep_inter_token_seconds_bucket"), "le"), "{{le}}"),
        ),
        curves(
            "Tokens",
            "ops",
            "Tokens made and handed to streams a second.",
            Query(add(rate("lockstep_tokens_total"), "model"), "{{model}}"),
        ),
        curves(
            "Sequences",
            "short",
            "Step-wise sequences: those that step, those that wait for a slot, and those that wait for "
            "their caller.",
            Query(add(select("lockstep_sequences"), "state"), "{{state}}"),
            stacked=True,
        ),
        curves(
            "Slots in use",
            "percentunit",
            "Sequences that have a slot, as a share of the slots. At 100 % new ones wait.",
            Query(
                f"{add(_HOLDERS, 'model')} / {add(select('lockstep_slots'), 'model')}",
                "{{model}}",
            ),
            thresholds=((0.9, RED),),
            limit="dashed",
            field_options={"max": 1},
        ),
    ),
)


def _compute(mode: str) -> tuple[Query, ...]:
    """A bar for each bucket of lengths."""

    def seconds(length: str) -> str:
        matchers = (f'mode="{mode}"', f'length=~"{length}"')
        return mean("lockstep_compute_seconds", *matchers, by=("model",), over="$__range")

    return tuple(Query(seconds(length), name) for length, name in _LENGTHS)


_SIDES = DashboardRow(
    "Side by side",
    (
        bars(
            "Compute by length, one-shot",
            "s",
            "Time in runs of a one-shot request, by its length: a Transformer's grows faster than the "
            "text, a recurrent model's with it.",
            *_compute("oneshot"),
            group="model",
            width=12,
        ),
        bars(
            "Compute by length, step-wise",
            "s",
            "Time in runs of a step-wise sequence, by the elements that it read or made: a step for each.",
            *_compute("stepwise"),
            group="model",
            width=12,
        ),
        curves(
            "Rows in a run, by mode",
            "short",
            "How well each way of asking shares runs, the mean over all models.",
            Query(mean("lockstep_batch_rows", by=("mode",)), "{{mode}}"),
        ),
        curves(
            "Time of a row, by mode",
            "s",
            "Seconds of runs for each row: a whole text one-shot, one element step-wise, a prompt.",
            Query(
                ratio(rate("lockstep_run_seconds_sum"), rate("lockstep_batch_rows_sum"), "mode"), "{{mode}}"
            ),
        ),
        curves(
            "Device, by mode",
            "percentunit",
            "Seconds of runs for each second: who has the device.",
            Query(add(rate("lockstep_run_seconds_sum"), "mode"), "{{mode}}"),
            stacked=True,
        ),
        curves(
            "Messages to callers",
            "ops",
            "Messages that streams were sent a second. Several tokens go in one where the server is busy.",
            Query(
                add(
                    rate(
                        "grpc_server_msg_sent_total",
                        'grpc_method=~"Generate|Translate|Follow|ModelStreamInfer"',
                        of=SERVER,
                    ),
                    "grpc_method",
                ),
                "{{grpc_method}}",
            ),
        ),
        curves(
            "Time in the queue, by mode",
            "s",
            "From acceptance to the first run, the mean over all models.",
            Query(mean("lockstep_queue_seconds", by=("mode",)), "{{mode}}"),
        ),
        curves(
            "Streams that end",
            "reqps",
            "Streams that ended a second, by what became of them.",
            Query(
                add(
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
    "Step-wise against one-shot",
    "How do streams fare, and what does either way of asking cost?",
    (_STREAMS, _SIDES),
)
