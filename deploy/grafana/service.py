"""The dashboard *Service*: are requests answered reliably and in time?"""

from __future__ import annotations

from ..prometheus.objectives import AVAILABILITY, OBJECTIVES, STREAMS, requests
from .dashboard import BLUE, GREEN, RED, YELLOW, Dashboard, DashboardRow, Query
from .panel_types import heatmap, stat, time_series
from .promql import MODEL, SERVER, max_by, quantile, rate, select, sum_by

_ONE_SHOT = f'method!~"{STREAMS}"'
_FAILED = requests(AVAILABILITY.bad, "rate", "$__rate_interval", MODEL)
_COUNTED = requests(AVAILABILITY.total, "rate", "$__rate_interval", MODEL)
_ACCEPTED = rate("lockstep_accepted_total")
_OVERLOADED = rate("lockstep_refused_total", 'code="overloaded"')
_REJECTED = f"({sum_by(_OVERLOADED)} or vector(0))"
_QUEUE_UTILISATION = f"{select('lockstep_estimated_wait_seconds')} / {select('lockstep_queue_limit_seconds')}"

_LEASES = sum_by(select("lockstep_device_permits", scope=SERVER))

_OVERVIEW = DashboardRow(
    "Overview",
    (
        stat(
            "Requests",
            "reqps",
            "Requests completed per second, with any outcome.",
            Query(sum_by(rate("lockstep_requests_total"))),
            base_colour=BLUE,
        ),
        stat(
            "Availability",
            "percentunit",
            "Fraction of requests that did not fail because of the server. The objective is 99.9 %. "
            "Invalid requests, requests cancelled by the client and overload rejections do not count.",
            Query(f"1 - ({_FAILED} or vector(0)) / {_COUNTED}"),
            nan_text="no traffic",
            base_colour=RED,
            thresholds=((0.99, YELLOW), (0.999, GREEN)),
        ),
        stat(
            "Rejected for overload",
            "percentunit",
            "Fraction of arriving requests that were rejected because their estimated wait was too long.",
            Query(f"{_REJECTED} / ({sum_by(_ACCEPTED)} + {_REJECTED})"),
            nan_text="no traffic",
            thresholds=((0.001, YELLOW), (0.01, RED)),
        ),
        stat(
            "One-shot latency, p95",
            "s",
            "95th percentile of the time from acceptance to end of a one-shot request.",
            Query(quantile(0.95, "lockstep_request_seconds", _ONE_SHOT)),
            nan_text="no traffic",
            thresholds=((0.1, YELLOW), (0.25, RED)),
        ),
        stat(
            "First token latency, p95",
            "s",
            "95th percentile of the time from acceptance of a stream to its first token.",
            Query(quantile(0.95, "lockstep_first_token_seconds")),
            nan_text="no traffic",
            thresholds=((0.1, YELLOW), (0.25, RED)),
        ),
        stat(
            "Firing alerts",
            "short",
            "Number of Lockstep alerts that are firing. docs/observability.md is their runbook.",
            Query('count(ALERTS{alertstate="firing", alertname=~"Lockstep.+"}) or vector(0)'),
            thresholds=((1, RED),),
        ),
    ),
)

_TRAFFIC = DashboardRow(
    "Traffic and errors",
    (
        time_series(
            "Requests by method",
            "reqps",
            "Requests accepted per second, by method.",
            Query(sum_by(_ACCEPTED, "method"), "{{method}}"),
        ),
        time_series(
            "Requests by model",
            "reqps",
            "Requests accepted per second, by model.",
            Query(sum_by(_ACCEPTED, "model"), "{{model}}"),
        ),
        time_series(
            "RPCs by status",
            "reqps",
            "RPCs completed per second, by gRPC status, health checks included. A stream of many "
            "requests is one RPC.",
            Query(sum_by(rate("grpc_server_handled_total", scope=SERVER), "grpc_code"), "{{grpc_code}}"),
        ),
        time_series(
            "Failed after acceptance",
            "reqps",
            "Accepted requests per second that ended without an answer, by error code. `failed` and "
            "`unavailable` are server errors, `cancelled` and `bad_input` are client errors.",
            Query(
                sum_by(rate("lockstep_requests_total", 'outcome!="ok"'), "outcome"),
                "{{outcome}}",
            ),
            width=12,
        ),
        time_series(
            "Rejected on arrival",
            "reqps",
            "Requests rejected per second before acceptance, by error code. `overloaded` responses "
            "include a retry delay, as `quota` does (a limit of one caller), `unavailable` means that the "
            "model is not ready, `failed` is a server error, and all other codes are client errors. Only "
            "requests to a known model have a model label.",
            Query(sum_by(rate("lockstep_refused_total"), "code"), "{{code}}"),
            width=12,
        ),
    ),
)

_LATENCY = DashboardRow(
    "Latency",
    (
        time_series(
            "One-shot latency",
            "s",
            "Time from acceptance to end of a one-shot request. Points are exemplars with a trace id, "
            "if traces are exported.",
            *(
                Query(
                    quantile(q, "lockstep_request_seconds", _ONE_SHOT), f"p{q * 100:g}", exemplars=q == 0.99
                )
                for q in (0.5, 0.95, 0.99)
            ),
        ),
        heatmap(
            "One-shot latency distribution",
            "s",
            "Distribution of one-shot latency over time. Two bands mean two kinds of requests, such as "
            "long and short texts or different models.",
            Query(
                sum_by(rate("lockstep_request_seconds_bucket", _ONE_SHOT), "le"),
                "{{le}}",
            ),
        ),
        time_series(
            "One-shot latency by model, p95",
            "s",
            "95th percentile of one-shot latency, by model.",
            Query(quantile(0.95, "lockstep_request_seconds", _ONE_SHOT, by=("model",)), "{{model}}"),
        ),
    ),
)


def _burn(window: str) -> tuple[Query, ...]:
    return tuple(
        Query(
            max_by(f'{objective.recorded("burn", window)}{{job=~"$job", model=~"$model"}}'),
            objective.name.replace("_", " "),
        )
        for objective in OBJECTIVES
    )


_OBJECTIVES = DashboardRow(
    "Objectives",
    (
        time_series(
            "Error budget burn rate, 1 h",
            "short",
            "How many times faster than allowed the error budget of an objective was spent over the "
            "last hour, for the worst model. 1 spends exactly the budget; the fast alerts page above "
            "14.4.",
            *_burn("1h"),
            thresholds=((14.4, RED),),
            threshold_style="dashed",
            width=12,
        ),
        time_series(
            "Error budget burn rate, 6 h",
            "short",
            "The same over the last six hours. The fast alerts page above 6.",
            *_burn("6h"),
            thresholds=((6, RED),),
            threshold_style="dashed",
            width=12,
        ),
    ),
)

_SATURATION = DashboardRow(
    "Saturation",
    (
        time_series(
            "Device utilisation",
            "percentunit",
            "Fraction of the available device time in which each model runs. A sum of 100 % means that "
            "the device is the bottleneck.",
            Query(
                f"{sum_by(rate('lockstep_run_seconds_sum'), 'model')} / on () group_left () {_LEASES}",
                "{{model}}",
            ),
            stacked=True,
        ),
        time_series(
            "Queue utilisation",
            "percentunit",
            "Estimated wait of a one-shot request accepted now, as a fraction of the queue limit. At "
            "100 % requests are rejected.",
            Query(max_by(_QUEUE_UTILISATION, "model"), "{{model}}"),
            thresholds=((0.8, RED),),
            threshold_style="dashed",
        ),
        time_series(
            "Requests in flight",
            "short",
            "Requests accepted and not yet ended.",
            Query(sum_by(select("lockstep_queue_depth"), "model"), "{{model}}"),
        ),
        time_series(
            "Queue time, p95",
            "s",
            "95th percentile of the time from acceptance to the first run.",
            Query(quantile(0.95, "lockstep_queue_seconds", by=("model", "mode")), "{{model}} {{mode}}"),
        ),
        time_series(
            "Device wait, p95",
            "s",
            "95th percentile of the time that a ready run waited while other models used the device.",
            Query(quantile(0.95, "lockstep_gate_wait_seconds", by=("device",), scope=SERVER), "{{device}}"),
        ),
        time_series(
            "Event loop lag, p99",
            "s",
            "99th percentile of the delay between an engine sending a result and the event loop "
            "processing it. Under load the flush interval grows: tokens are buffered so that the server "
            "keeps up.",
            Query(quantile(0.99, "lockstep_event_loop_lag_seconds", scope=SERVER), "lag"),
            Query(max_by(select("lockstep_flush_interval_seconds", scope=SERVER)), "flush interval"),
        ),
    ),
)

DASHBOARD = Dashboard(
    "lockstep-service",
    "Service",
    "Are requests answered reliably and in time?",
    (_OVERVIEW, _TRAFFIC, _LATENCY, _OBJECTIVES, _SATURATION),
)
