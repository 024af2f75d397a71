"""`python -m bench.peers`: Lockstep and the servers that people would use instead, in interleaved rounds.

Writes bench/results/peers.json and docs/peers.md. `--quick` tries everything in one short round and writes
nothing unless `--out` names a folder.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from . import catalogue, environments, measure, table

_ROOT = Path(__file__).parent.parent.parent
RESULTS, PAGE = _ROOT / "bench" / "results" / "peers.json", _ROOT / "docs" / "peers.md"
_BEGIN = "<!-- written by make bench-peers: -->"


def main() -> None:
    options = _options()
    if options.from_results:
        write_page(json.loads(RESULTS.read_text()))
        return
    plan = measure.QUICK
    if not options.quick:
        chosen = tuple(options.models), tuple(options.inflight), options.checks
        plan = measure.Plan(options.rounds, options.scale, *chosen)
    names = options.servers or (catalogue.ESSENTIAL[:2] if options.quick else catalogue.ESSENTIAL)
    if names == ["all"]:
        names = list(catalogue.BY_NAME)
    document = measure.run([catalogue.BY_NAME[name] for name in names], plan, options.cache)
    if options.quick:
        print(table.markdown(document))
        return
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    write_page(document)
    print(f"written: {RESULTS} and {PAGE}", file=sys.stderr)


def write_page(document: dict[str, object]) -> None:
    """Replace what the page says after its introduction."""
    introduction = PAGE.read_text().split(_BEGIN, 1)[0]
    PAGE.write_text(f"{introduction}{_BEGIN}\n\n{table.markdown(document)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--servers", nargs="+", choices=["all", *catalogue.BY_NAME], metavar="NAME",
        help=f"servers to compare: all, or some of {', '.join(map(repr, catalogue.BY_NAME))}; "
        f"without it {', '.join(map(repr, catalogue.ESSENTIAL))}",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds; medians are reported")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="times the usual seconds of each measurement"
    )
    everything = measure.Plan()
    parser.add_argument(
        "--models", nargs="+", choices=everything.models, default=everything.models, metavar="MODEL",
        help=f"models to load: {', '.join(map(repr, everything.models))}; without it all of them",
    )  # fmt: skip
    parser.add_argument(
        "--inflight", nargs="+", type=int, choices=everything.inflight, default=everything.inflight,
        metavar="CALLS", help=f"calls in flight: {', '.join(map(str, everything.inflight))}; all of them",
    )  # fmt: skip
    parser.add_argument(
        "--no-checks", dest="checks", action="store_false",
        help="measure neither with perf_analyzer nor beside a busy process",
    )  # fmt: skip
    parser.add_argument(
        "--quick", action="store_true", help="one short round of Lockstep and the 60 lines, printed only"
    )
    parser.add_argument(
        "--cache", type=Path, default=environments.default_cache(),
        help="folder of the peers' environments; without it %(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--from-results", action="store_true", help="measure nothing; write the page from the results file"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
