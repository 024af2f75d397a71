"""`python -m fleet`: rounds of rolling restarts, stalls and kills. Exits with 1 if a promise was broken."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from .experiments import kill, lost_by_failure, lost_by_restart, restart, stall
from .load import load
from .processes import HAPROXY, NAMES, Fleet, write_models

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from .load import Call, History

_SHOWN = 10
_PAUSE_S = 0.002


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fleet", description="A fleet under load, disturbed.")
    parser.add_argument("--rounds", type=int, default=3, help="of three restarts, a stall and a kill each")
    parser.add_argument(
        "--callers", type=int, default=4, help="callers of one-shot calls, one after the other"
    )
    parser.add_argument("--tokens", type=int, default=5000, help="the length of a stream")
    parser.add_argument("--shutdown-delay-s", type=float, default=2.0, help="of the servers; 0 loses calls")
    options = parser.parse_args()
    if HAPROXY is None:
        print("make fleet: there is no haproxy. On Debian and Ubuntu: apt install haproxy", file=sys.stderr)
        return 2
    broken = 0
    with tempfile.TemporaryDirectory(prefix="lockstep-fleet-") as folder:
        models = Path(folder) / "models"
        models.mkdir()
        write_models(models)
        with Fleet(models, delay_s=options.shutdown_delay_s) as fleet:

            def loaded() -> AbstractContextManager[History]:
                direct = next(iter(fleet.servers.values())).address
                return load(
                    fleet.address,
                    direct,
                    tokens=options.tokens,
                    pause_s=_PAUSE_S,
                    callers=options.callers,
                    streams=6,
                    stream_pause_s=_PAUSE_S,
                )

            for number in range(1, options.rounds + 1):
                with loaded() as history:
                    for name in NAMES:
                        restart(fleet, history, name)
                broken += _report(f"round {number}, rolling restart", history, lost_by_restart(history))
                for what, disturb in (("stall", stall), ("kill", kill)):
                    name = NAMES[number % len(NAMES)]
                    with loaded() as history:
                        failure = disturb(fleet, history, name)
                    title = f"round {number}, {what} of {name}, out after {failure.out - failure.began:.2f} s"
                    broken += _report(title, history, lost_by_failure(history, failure))
                fleet.start(name)
    return int(broken > 0)


def _report(title: str, history: History, lost: list[Call]) -> int:
    """Print the ends of all calls. Returns how many a promise covers and were lost."""
    print(f"{title}: {len(lost)} calls lost against the promises")
    for kind in ("oneshot", "stream", "step"):
        ends = Counter(call.code if call.code != "OK" or call.right else "WRONG" for call in history.of(kind))
        print(f"  {kind:8} " + ", ".join(f"{code} {count}" for code, count in ends.most_common()))
    for call in lost[:_SHOWN]:
        print(f"  lost: {call}")
    sys.stdout.flush()
    return len(lost)


if __name__ == "__main__":
    sys.exit(main())
