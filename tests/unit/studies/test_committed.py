"""docs/studies/README.md equals what the code generates from the records in that folder."""

import json
from pathlib import Path

from lockstep_studies.catalogue import STUDIES
from lockstep_studies.readme import format_readme
from lockstep_studies.report import README, read_records

FOLDER = Path(__file__).parents[3] / "docs" / "studies"


def test_every_study_has_a_record_and_a_chart() -> None:
    assert [record.result.study.name for record in read_records(FOLDER)] == list(STUDIES)
    assert all(0 < (FOLDER / f"{name}.svg").stat().st_size < 150_000 for name in STUDIES)


def test_no_record_was_made_with_quick_settings() -> None:
    assert not any(record.result.settings["quick"] for record in read_records(FOLDER))


def test_the_readme_is_generated_from_the_records() -> None:
    assert (FOLDER / README).read_text(encoding="utf-8") == format_readme(read_records(FOLDER))


def test_saved_findings_and_methods_follow_from_the_rows() -> None:
    for record in read_records(FOLDER):
        path = FOLDER / f"{record.result.study.name}.json"
        assert json.loads(path.read_text(encoding="utf-8")) == json.loads(json.dumps(record.as_json()))
