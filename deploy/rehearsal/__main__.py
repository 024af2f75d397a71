"""`python -m deploy.rehearsal`: draw the pictures of docs/: the page, and the dashboards from a real run."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from lockstep_client.server_process import ProcessError

from . import grafana, page, traffic
from .dashboard_picture import draw_dashboard
from .processes import ROOT, has_prometheus, load, rehearsal, shipped_server

_RATE_SCRAPE_S = 4.0
"""Scrape interval assumed for rate windows, in seconds. Longer than the real one, for smoother curves."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.rehearsal",
        description="Draw the page of `lockstep ui`, then the dashboards from a run of a server under load.",
    )
    parser.add_argument("--seconds", type=float, default=300.0, help="duration of the load, in seconds")
    parser.add_argument("--to", type=Path, default=ROOT / "docs", help="folder of the pictures' folders")
    parser.add_argument("--only", choices=["page", "dashboards"], help="draw these pictures only")
    arguments = parser.parse_args()
    if arguments.only != "dashboards":
        _draw_page(arguments.to / "ui")
    if arguments.only != "page":
        _draw_dashboards(arguments.to / "observability", arguments.seconds)


def _draw_page(folder: Path) -> None:
    if page.CHROMIUM is None:
        sys.exit("chromium not found on the PATH; on Debian and Ubuntu: apt install chromium")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as cache, shipped_server(Path(cache)) as server:
        server.wait_ready()
        for file in page.draw_views(server.address, folder):
            print(f"drew {file}")


def _draw_dashboards(folder: Path, seconds: float) -> None:
    if not has_prometheus():
        sys.exit("prometheus not found on the PATH; on Debian and Ubuntu: apt install prometheus")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as data, rehearsal(Path(data), traffic.MODELS) as running:
        since = time.time()
        with load(running.address):
            print(f"running the load for {seconds:g} s")
            time.sleep(seconds)
            for dashboard in grafana.dashboards():
                file = folder / f"{dashboard['uid'].removeprefix('lockstep-')}.png"
                draw_dashboard(dashboard, running.prometheus, since, _RATE_SCRAPE_S, file)
                print(f"drew {file}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except ProcessError as error:
        sys.exit(f"python -m deploy.rehearsal: {error}")
