"""`python -m deploy.rehearsal`: draw the dashboards of docs/observability/ from a real run."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from lockstep_client.server_process import ProcessError

from . import grafana, traffic
from .dashboard_picture import draw_dashboard
from .processes import ROOT, has_prometheus, load, rehearsal

_RATE_SCRAPE_S = 4.0
"""Scrape interval assumed for rate windows, in seconds. Longer than the real one, for smoother curves."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.rehearsal",
        description="Run a server, a load and Prometheus, and draw the dashboards.",
    )
    parser.add_argument("--seconds", type=float, default=300.0, help="duration of the load, in seconds")
    parser.add_argument(
        "--to", type=Path, default=ROOT / "docs" / "observability", help="output folder for the pictures"
    )
    arguments = parser.parse_args()
    if not has_prometheus():
        sys.exit("prometheus not found on the PATH; on Debian and Ubuntu: apt install prometheus")
    arguments.to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, rehearsal(Path(folder), traffic.MODELS) as running:
        since = time.time()
        with load(running.address):
            print(f"running the load for {arguments.seconds:g} s")
            time.sleep(arguments.seconds)
            for dashboard in grafana.dashboards():
                file = arguments.to / f"{dashboard['uid'].removeprefix('lockstep-')}.png"
                draw_dashboard(dashboard, running.prometheus, since, _RATE_SCRAPE_S, file)
                print(f"drew {file}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except ProcessError as error:
        sys.exit(f"python -m deploy.rehearsal: {error}")
