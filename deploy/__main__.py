"""`python -m deploy`: generate the dashboards, the rules and the drawings of the documents."""

from __future__ import annotations

import json
from pathlib import Path

from .grafana import DASHBOARDS
from .prometheus import burn_rates
from .prometheus.operator import prometheus_rule
from .site.drawings import drawings

FOLDER = Path(__file__).parent


def generated() -> dict[Path, str]:
    """Return the text of every generated file, by path."""
    rules = FOLDER / "prometheus" / "rules"
    objectives = burn_rates.rules()
    symptoms = (rules / "symptoms.yml").read_text(encoding="utf-8")
    dashboards = {
        FOLDER / "grafana" / "dashboards" / f"{board.uid}.json": json.dumps(board.to_json(), indent=2) + "\n"
        for board in DASHBOARDS
    }
    return {
        **dashboards,
        **{FOLDER.parent / "docs" / "concepts" / name: svg for name, svg in drawings().items()},
        rules / "objectives.yml": objectives,
        FOLDER / "kubernetes" / "components" / "monitoring" / "prometheusrule.yaml": prometheus_rule(
            objectives, symptoms
        ),
    }


def main() -> None:
    for file, text in generated().items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
        print(f"wrote {file.relative_to(FOLDER.parent)}")


if __name__ == "__main__":
    main()
