"""*Service*: are callers served well?"""

from __future__ import annotations

from ..prometheus.objectives import AVAILABILITY, OBJECTIVES, STREAMS, requests
from .kinds import curves, heat_map, number
from .parts import BLUE, GREEN, RED, YELLOW, Dashboard, DashboardRow, Query
from .promql import MODEL, SERVER, add, largest, quantile, rate, select

_ONE_SHOT = f'method!~"{STREAMS}"'
_FAILED = requests(AVAILABILITY.bad, "rate", "$__rate_interval", MODEL)
_COUNTED = requests(AVAILABILITY.total, "rate", "$__rate_interval", MODEL)
_ACCEPTED, _REFUSED = rate("lockstep_accepted_total"), rate("lockstep_refused_total", 'code="overloaded"')
_FILLED = f"{select('lockstep_estimated_wait_seconds')} / {select('lockstep_queue_limit_seconds')}"

_PERMITS = add(select("lockstep_device_permits", of=SERVER))

_GLANCE = DashboardRow(
    "In ten seconds",
    (
        number(
            "Requests",
            "reqps",
            "Requests that ended a second, whatever became of them.",
            Query(add(rate("lockstep_requests_total"))),
            base=BLUE,
        ),
        number(
            "Availability",
            "percentunit",
            "Share of the requests that did not fail by the server's fault: the objective is 99.9 %. What is "
            "wrong in a request, cancelled by its caller or refused for overload does not count.",
            Query(f"1 - ({_FAILED} or vector(0)) / {_COUNTED}"),
            without="no traffic",
            base=RED,
            thresholds=((0.99, YELLOW), (0.999, GREEN)),
        ),
        number(
            "Refused for overload",
            "percentunit",
            "Share of the arriving requests that were turned away because the wait would have been too long.",
            Query(f"({add(_REFUSED)} or vector(0)) / ({add(_ACCEPTED)} + ({add(_REFUSED)} or vector(0)))"),
            without="no traffic",
            thresholds=((0.001, YELLOW), (0.01, RED)),
        ),
        number(
            "One-shot latency, p95",
            "s",
            "95 of 100 one-shot requests ended within this time of their acceptance.",
            Query(quantile(0.95, "lockstep_request_seconds", _ONE_SHOT)),
            without="no traffic",
            thresholds=((0.1, YELLOW), (0.25, RED)),
        ),
        number(
            "First token, p95",
            "s",
            "95 of 100 streams had their first token within this time.",
            Query(quantile(0.95, "lockstep_first_token_seconds")),
            without="no traffic",
            thresholds=((0.1, YELLOW), (0.25, RED)),
        ),
        number(
            "Alerts that fire",
            "short",
            "Lockstep's alerts that fire now. Their runbook is docs/observability.md.",
            Query('count(ALERTS{alertstate="firing", alertname=~"Lockstep.+"}) or vector(0)'),
            thresholds=((1, RED),),
        ),
    ),
)

_TRAFFIC = DashboardRow(
    "Traffic and errors",
    (
        curves(
            "Requests by method",
            "reqps",
            "Which calls arrive: requests accepted a second.",
            Query(add(_ACCEPTED, "method"), "{{method}}"),
        ),
        curves(
            "Requests by model",
            "reqps",
            "Who is asked: requests accepted a second.",
            Query(add(_ACCEPTED, "model"), "{{model}}"),
        ),
        curves(
            "RPCs by status",
            "reqps",
            "What callers see: the gRPC status of each call that ended, health checks included. "
            "A stream of many requests is one call.",
            Query(add(rate("grpc_server_handled_total", of=SERVER), "grpc_code"), "{{grpc_code}}"),
        ),
        curves(
            "Accepted, and not answered",
            "reqps",
            "Accepted requests that ended without an answer, by why. `failed` and `unavailable` are the "
            "server's fault, `cancelled` and `bad_input` its callers'.",
            Query(
                add(rate("lockstep_requests_total", 'outcome!="ok"'), "outcome"),
                "{{outcome}}",
            ),
            width=12,
        ),
        curves(
            "Refused at the door",
            "reqps",
            "Requests that were never accepted, by why. `overloaded` is told with a time to come back, "
            "`unavailable` is a model that is not ready, the rest are requests that are wrong. "
            "They have a model where its name is known.",
            Query(add(rate("lockstep_refused_total"), "code"), "{{code}}"),
            width=12,
        ),
    ),
)

_LATENCY = DashboardRow(
    "Latency",
    (
        curves(
            "One-shot latency",
            "s",
            "Time from acceptance to the end of a one-shot request. Points are traces, where there are any.",
            *(
                Query(
                    quantile(q, "lockstep_request_seconds", _ONE_SHOT), f"p{q * 100:g}", exemplars=q == 0.99
                )
                for q in (0.5, 0.95, 0.99)
            ),
        ),
        heat_map(
            "One-shot latency, all of it",
            "s",
            "Requests by how long they took. Two bands are two kinds of requests: long and short texts, "
            "or models.",
            Query(
                add(rate("lockstep_request_seconds_bucket", _ONE_SHOT), "le"),
                "{{le}}",
            ),
        ),
        curves(
            "One-shot latency by model, p95",
            "s",
            "Which model's callers wait.",
            Query(quantile(0.95, "lockstep_request_seconds", _ONE_SHOT, by=("model",)), "{{model}}"),
        ),
    ),
)


def _burn(window: str) -> tuple[Query, ...]:
    return tuple(
        Query(
            largest(f'{one.recorded("burn", window)}{{job=~"$job", model=~"$model"}}'),
            one.name.replace("_", " "),
        )
        for one in OBJECTIVES
    )


_OBJECTIVES = DashboardRow(
    "Objectives",
    (
        curves(
            "Error budget burnt, last hour",
            "short",
            "How many times faster than allowed the budget of an objective is spent, at the worst model, "
            "over the last hour. 1 spends it exactly; above 14.4 someone is called.",
            *_burn("1h"),
            thresholds=((14.4, RED),),
            limit="dashed",
            width=12,
        ),
        curves(
            "Error budget burnt, last six hours",
            "short",
            "The same over six hours. Above 6 someone is called.",
            *_burn("6h"),
            thresholds=((6, RED),),
            limit="dashed",
            width=12,
        ),
    ),
)

_SATURATION = DashboardRow(
    "Saturation",
    (
        curves(
            "Device busy",
            "percentunit",
            "Share of the time in which models run, of all that the devices could: at 100 % in sum the "
            "machine is the limit.",
            Query(
                f"{add(rate('lockstep_run_seconds_sum'), 'model')} / on () group_left () {_PERMITS}",
                "{{model}}",
            ),
            stacked=True,
        ),
        curves(
            "Queue, full to",
            "percentunit",
            "The wait of a one-shot request that is accepted now, as a share of the longest at which one "
            "is. At 100 % requests are refused.",
            Query(largest(_FILLED, "model"), "{{model}}"),
            thresholds=((0.8, RED),),
            limit="dashed",
        ),
        curves(
            "Requests in flight",
            "short",
            "Requests accepted and not ended.",
            Query(add(select("lockstep_queue_depth"), "model"), "{{model}}"),
        ),
        curves(
            "Time in the queue, p95",
            "s",
            "Time from acceptance to the first run.",
            Query(quantile(0.95, "lockstep_queue_seconds", by=("model", "mode")), "{{model}} {{mode}}"),
        ),
        curves(
            "Wait for the device, p95",
            "s",
            "How long a run that was ready waited for its turn: other models had the device.",
            Query(quantile(0.95, "lockstep_gate_wait_seconds", by=("device",), of=SERVER), "{{device}}"),
        ),
        curves(
            "Event loop lag, p99",
            "s",
            "How long what the engines send waits for the process that speaks gRPC. Tokens are held back "
            "for the flush interval, so that it keeps up.",
            Query(quantile(0.99, "lockstep_event_loop_lag_seconds", of=SERVER), "lag"),
            Query(largest(select("lockstep_flush_interval_seconds", of=SERVER)), "flush interval"),
        ),
    ),
)

DASHBOARD = Dashboard(
    "lockstep-service",
    "Service",
    "Are callers served well?",
    (_GLANCE, _TRAFFIC, _LATENCY, _OBJECTIVES, _SATURATION),
)
