"""`python -m chaos`: a chaos run of any length. Exits with 1 if the validator found anything."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .run import chaos_server, run

if TYPE_CHECKING:
    from .run import Outcome

_SHOWN = 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description="Random calls and faults, validated.")
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no round later")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    parser.add_argument("--round", type=int, default=3000, help="calls between two checks that all is back")
    parser.add_argument("--slow-disk-ms", type=float, default=30.0, help="each file takes up to this to open")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="lockstep-chaos-") as folder,
        chaos_server(Path(folder), options.slow_disk_ms / 1000) as server,
    ):
        outcome = asyncio.run(
            run(
                server,
                seed=options.seed,
                requests=options.requests,
                seconds=options.seconds,
                per_round=options.round,
                report=_report,
            )
        )
        if outcome.found:
            log = Path("chaos-server.log")
            log.write_text(server.log_text())
            print(f"the log of the server is in {log}")
    if options.json:
        options.json.write_text(json.dumps(outcome.figures(), indent=1) + "\n")
    return bool(outcome.found)


def _report(outcome: Outcome) -> None:
    levels = ", ".join(f"{name} {value:g}" for name, value in outcome.levels[-1].items())
    print(
        f"round {outcome.rounds}: {outcome.requests} requests in {outcome.seconds:.0f} s; faults"
        f" {dict(outcome.faults)}; statuses {dict(outcome.by_status)}; {levels};"
        f" {len(outcome.found)} findings",
        flush=True,
    )
    for one in outcome.found[:_SHOWN]:
        print(f"  {one.kind}: {one.what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
