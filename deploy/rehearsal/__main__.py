"""`python -m deploy.rehearsal`: draw the dashboards of docs/observability/ from a real run."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from . import grafana, traffic
from .draw import draw
from .stage import ROOT, has_prometheus, load, rehearsal

_SCRAPES = 4.0
"""Seconds between scrapes that the rates are taken for: smoother than the real ones would be."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.rehearsal",
        description="Run server, load and Prometheus, and draw what the dashboards show.",
    )
    parser.add_argument("--seconds", type=float, default=300.0, help="how long the load runs")
    parser.add_argument(
        "--to", type=Path, default=ROOT / "docs" / "observability", help="folder for the pictures"
    )
    arguments = parser.parse_args()
    if not has_prometheus():
        sys.exit("there is no prometheus on the PATH. On Debian and Ubuntu: apt install prometheus")
    arguments.to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, rehearsal(Path(folder), traffic.MODELS) as staged:
        since = time.time()
        with load(staged.address):
            print(f"the load runs for {arguments.seconds:g} s")
            time.sleep(arguments.seconds)
            for dashboard in grafana.dashboards():
                file = arguments.to / f"{dashboard['uid'].removeprefix('lockstep-')}.png"
                draw(dashboard, staged.prometheus, since, _SCRAPES, file)
                print(f"drew {file}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except RuntimeError as error:  # one of the processes did not start, or ended
        sys.exit(f"python -m deploy.rehearsal: {error}")
