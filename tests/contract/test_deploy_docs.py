"""docs/observability.md has each panel, alert, setting and objective by the name that it has elsewhere."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest
from contract.deployed import ALERTS, DASHBOARDS, DEPLOY, panels

from deploy.prometheus.burn_rates import SPEEDS
from deploy.prometheus.objectives import OBJECTIVES
from lockstep_server.settings import Settings

PAGE = (DEPLOY.parent / "docs" / "observability.md").read_text(encoding="utf-8")
PICTURES = DEPLOY.parent / "docs" / "observability"
LARGEST_PICTURE = 200_000


def section(title: str) -> str:
    """The text under a heading, down to the next one of the same depth."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found, f"there is no section {title}"
    return found[1]


def rows(text: str) -> list[str]:
    """The first cells of a table, without its head."""
    found = re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE)
    return [one for one in found if one not in ("panel", "objective")]


@pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS)
def test_a_dashboard_has_a_section_with_its_question_a_picture_and_all_its_panels(dashboard: dict) -> None:  # type: ignore[type-arg]
    name = dashboard["uid"].removeprefix("lockstep-")
    text = section(dashboard["title"].removeprefix("Lockstep / "))
    assert f"*{dashboard['description']}*" in text
    assert f"(observability/{name}.png)" in text
    assert (PICTURES / f"{name}.png").stat().st_size < LARGEST_PICTURE
    assert rows(text) == [panel["title"] for uid, panel in panels() if uid == dashboard["uid"]]


def test_every_alert_has_an_entry_where_its_runbook_line_points() -> None:
    headings = re.findall(r"^### (\w+)$", section("Runbook"), re.MULTILINE)
    assert headings == sorted(ALERTS, key=headings.index)
    assert {f"docs/observability.md#{name.lower()}" for name in headings} == {
        alert["annotations"]["runbook"] for alert in ALERTS.values()
    }


def test_what_the_page_sets_in_italics_is_a_panel_a_dashboard_or_a_question() -> None:
    known = {panel["title"] for _, panel in panels()} | {"burn rate"}
    for dashboard in DASHBOARDS.values():
        known |= {dashboard["title"].removeprefix("Lockstep / "), dashboard["description"]}
    named = {" ".join(one.split()) for one in re.findall(r"(?<![\w*])\*([^*\n]+(?:\n[^*\n]+)?)\*", PAGE)}
    assert named - known == set()


def test_objectives_and_burn_rates_are_those_of_the_rules() -> None:
    text = section("Objectives")
    for one in OBJECTIVES:
        assert f"| {one.name.replace('_', ' ')} | {one.share * 100:g} % |" in text
    for speed in SPEEDS:
        for factor, *_ in speed.pairs:
            assert f"{factor:g} over" in text


def test_settings_that_the_page_names_are_settings() -> None:
    flags = {"--" + one.name.replace("_", "-") for one in fields(Settings)}
    named = set(re.findall(r"`(--[a-z-]+)", PAGE))
    assert named <= flags
