"""Builds the document of a run from its counts, and writes and reads documents as JSON (see results.py)."""

from __future__ import annotations

import json
import os
import platform
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from lockstep_load import validity
from lockstep_load.outcome import RequestOutcome
from lockstep_load.plan import ClosedLoop, LoadProfile, Offline, OpenLoop, Target, Workload
from lockstep_load.results import (
    FORMAT,
    Document,
    GeneratorUse,
    LengthSummary,
    LoadSettings,
    Machine,
    Rates,
    RequestCounts,
    RunDocument,
    SecondResult,
    TargetInfo,
)

if TYPE_CHECKING:
    from pathlib import Path

    from lockstep_load.counts import RunCounts, SecondCounts
    from lockstep_load.histogram import LatencyHistogram


def run_document(
    target: Target,
    workload: Workload,
    load: LoadProfile,
    counts: RunCounts,
    *,
    started_at: str,
    partial: bool,
    max_lag_ms: float,
    own_cpu_s: float,
) -> RunDocument:
    """The document of a finished run."""
    measured_s = _measured_s(load, counts, partial=partial)
    facts = _facts(load, counts, partial=partial, max_lag_ms=max_lag_ms)
    reasons = validity.reasons(facts)
    return RunDocument(
        format=FORMAT,
        started_at=started_at,
        target=TargetInfo(address=target.address, model=target.model, version=target.version),
        load=_load(target, workload, load),
        valid=not reasons,
        reasons=reasons,
        notes=validity.notes(facts),
        partial=partial,
        measured_s=round(measured_s, 3),
        outcomes={
            one.label: counts.outcomes[one] for one in RequestOutcome if counts.outcomes[one] or one == 0
        },
        examples={one.label: why for one, why in counts.examples.items() if counts.outcomes[one]},
        requests=RequestCounts(sent=sum(counts.outcomes.values()), unsent=facts.unsent, warmup=counts.warmup),
        rates=_rates(counts, measured_s),
        latency_ms=counts.latency.summary(),
        first_token_ms=counts.first.summary(),
        per_token_ms=counts.per_token.summary(),
        gap_ms=counts.gaps.summary(),
        by_length=[
            length for most, times in sorted(counts.lengths.items()) if (length := _by_length(most, times))
        ],
        generator=_generator(load, counts, facts, own_cpu_s, measured_s),
        histogram=counts.latency.encoded,
        seconds=[second_result(number, one) for number, one in sorted(counts.seconds.items())],
        machine=Machine(cpus=os.cpu_count(), system=platform.system(), python=platform.python_version()),
    )


def second_result(number: int, one: SecondCounts) -> SecondResult:
    """The entry of one second."""
    return SecondResult(
        second=number,
        sent=one.due,
        ended={outcome.label: count for outcome, count in one.ended.items()},
        elements=one.elements,
        tokens=one.tokens,
        in_flight=one.in_flight,
        p50_ms=one.latency.percentile_ms(50) if one.latency.count else None,
        p99_ms=one.latency.percentile_ms(99) if one.latency.count else None,
        histogram=one.latency.encoded if one.latency.count else None,
    )


def to_json(document: Any) -> Any:
    """A document, or anything made of results, as plain JSON values."""
    return msgspec.to_builtins(document)


def write(path: Path, document: Any) -> None:
    """Write JSON atomically, so that a reader never sees a partial file; pipes, devices and links directly.

    Raises:
        OSError: the file cannot be written.
    """
    text = json.dumps(to_json(document), indent=1) + "\n"
    if path.is_symlink() or (path.exists() and not path.is_file()):
        path.write_text(text, "utf-8")
        return
    partial_file = path.with_name(f"{path.name}.part")
    try:
        partial_file.write_text(text, "utf-8")
        partial_file.replace(path)
    except OSError:
        with suppress(OSError):
            partial_file.unlink()
        raise


def read(path: Path) -> Document:
    """Read a document that `write` wrote. Raises ValueError, which names the file and the key, if it is not
    one.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"{path}: not a report of `lockstep load`: expected format {FORMAT}")
    try:
        return msgspec.convert(document, Document)  # type: ignore[no-any-return]
    except msgspec.ValidationError as error:
        raise ValueError(f"{path}: not a report of `lockstep load`: {error}") from None


def _measured_s(load: LoadProfile, counts: RunCounts, *, partial: bool) -> float:
    if isinstance(load.pattern, Offline):
        return max(counts.last_answer_s, 1e-3)
    return max(min(load.seconds, counts.now_s), 1e-3) if partial else load.seconds


def _facts(load: LoadProfile, counts: RunCounts, *, partial: bool, max_lag_ms: float) -> validity.RunFacts:
    return validity.RunFacts(
        open_loop=isinstance(load.pattern, OpenLoop),
        offline=isinstance(load.pattern, Offline),
        lag_p99_ms=counts.lag.percentile_ms(99),
        max_lag_ms=max_lag_ms,
        latency_p50_ms=counts.latency.percentile_ms(50),
        unsent=sum(one.unsent for one in counts.ended),
        capped=any(one.capped for one in counts.ended),
        cpu_shares=[one.cpu_s / one.wall_s for one in counts.ended if one.wall_s],
        failures=[one.error for one in counts.failures],
        outcomes=counts.outcomes,
        partial=partial,
    )


def _load(target: Target, workload: Workload, load: LoadProfile) -> LoadSettings:
    return LoadSettings(
        **_pattern(load),
        call=workload.call,
        lengths=workload.lengths.name,
        ids=list(workload.ids) if workload.ids else None,
        rows=workload.rows,
        one_by_one=workload.one_by_one or None,
        max_tokens=workload.tokens.name if workload.tokens else None,
        seconds=load.seconds,
        warmup_s=load.warmup_s,
        timeout_s=target.timeout_s,
        seed=load.seed,
        processes=load.processes,
    )


def _pattern(load: LoadProfile) -> dict[str, Any]:
    pattern = load.pattern
    if isinstance(pattern, OpenLoop):
        return {"loop": "open", "arrivals": pattern.arrivals, "rate": pattern.rate}
    if isinstance(pattern, ClosedLoop):
        return {"loop": "closed", "concurrency": pattern.concurrency}
    return {"loop": "offline", "samples": pattern.samples, "concurrency": pattern.concurrency}


def _by_length(most: int, times: LatencyHistogram) -> LengthSummary | None:
    summary = times.summary()
    if summary is None:
        return None
    return LengthSummary(
        **{name: getattr(summary, name) for name in summary.__struct_fields__}, least=most // 2 + 1, most=most
    )


def _rates(counts: RunCounts, measured_s: float) -> Rates:
    return Rates(
        sent=round(sum(counts.outcomes.values()) / measured_s, 3),
        ended=round(sum(counts.completions.values()) / measured_s, 3),
        ok=round(counts.completions[RequestOutcome.OK] / measured_s, 3),
        elements=round(counts.elements / measured_s, 3),
        tokens=round(counts.tokens / measured_s, 3),
    )


def _generator(
    load: LoadProfile, counts: RunCounts, facts: validity.RunFacts, own_cpu_s: float, measured_s: float
) -> GeneratorUse:
    """Resources that the generator used; those of the parent (aggregation, display) are separate."""
    cpu_s = sum(one.cpu_s for one in counts.ended)
    return GeneratorUse(
        processes=load.processes,
        lag_ms=counts.lag.summary() if facts.open_loop else None,
        max_lag_ms=facts.max_lag_ms,
        cpu_share_of_a_core=[round(share, 4) for share in facts.cpu_shares],
        parent_cpu_share_of_a_core=round(own_cpu_s / measured_s, 4),
        cpu_share_of_the_machine=round((cpu_s + own_cpu_s) / measured_s / (os.cpu_count() or 1), 4),
    )
