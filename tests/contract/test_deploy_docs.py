"""docs/observability.md names each panel, alert, setting and objective as the deployment does."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest
from contract.deployed import ALERTS, DASHBOARDS, DEPLOY, panels

from deploy.prometheus.burn_rates import ALERTS as BURN_RATE_ALERTS
from deploy.prometheus.objectives import OBJECTIVES
from lockstep_server.settings import Settings

PAGE = (DEPLOY.parent / "docs" / "observability.md").read_text(encoding="utf-8")
PICTURES = DEPLOY.parent / "docs" / "observability"
LARGEST_PICTURE = 200_000


def section(title: str) -> str:
    """The text of a section, up to the next heading of the same level."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found, f"missing section {title}"
    return found[1]


def rows(text: str) -> list[str]:
    """The first column of a table, without its header."""
    found = re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE)
    return [cell for cell in found if cell not in ("panel", "objective")]


@pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS)
def test_each_dashboard_has_a_section_with_its_question_picture_and_panels(dashboard: dict) -> None:
    name = dashboard["uid"].removeprefix("lockstep-")
    text = section(dashboard["title"].removeprefix("Lockstep / "))
    assert f"*{dashboard['description']}*" in text
    assert f"(observability/{name}.png)" in text
    assert (PICTURES / f"{name}.png").stat().st_size < LARGEST_PICTURE
    assert rows(text) == [panel["title"] for uid, panel in panels() if uid == dashboard["uid"]]


def test_each_alert_has_a_runbook_entry() -> None:
    headings = re.findall(r"^### (\w+)$", section("Runbook"), re.MULTILINE)
    assert headings == sorted(ALERTS, key=headings.index)
    assert {f"docs/observability.md#{name.lower()}" for name in headings} == {
        alert["annotations"]["runbook"] for alert in ALERTS.values()
    }


def test_each_text_in_italics_is_a_panel_a_dashboard_or_a_question() -> None:
    known = {panel["title"] for _, panel in panels()} | {"burn rate"}
    for dashboard in DASHBOARDS.values():
        known |= {dashboard["title"].removeprefix("Lockstep / "), dashboard["description"]}
    named = {" ".join(one.split()) for one in re.findall(r"(?<![\w*])\*([^*\n]+(?:\n[^*\n]+)?)\*", PAGE)}
    assert named - known == set()


def test_objectives_and_burn_rates_match_the_rules() -> None:
    text = section("Objectives")
    for objective in OBJECTIVES:
        assert f"| {objective.name.replace('_', ' ')} | {objective.target * 100:g} % |" in text
    for alert in BURN_RATE_ALERTS:
        for burn_rate, *_ in alert.thresholds:
            assert f"{burn_rate:g} over" in text


def test_each_flag_on_the_page_is_a_setting() -> None:
    flags = {"--" + one.name.replace("_", "-") for one in fields(Settings)}
    named = set(re.findall(r"`(--[a-z-]+)", PAGE))
    assert named <= flags
