"""The page in docs/studies is what the records beside it say, sentence by sentence."""

import json
from pathlib import Path

from lockstep_studies.catalogue import STUDIES
from lockstep_studies.readme import page
from lockstep_studies.report import PAGE, records

FOLDER = Path(__file__).parents[3] / "docs" / "studies"


def test_every_study_has_a_record_and_a_picture() -> None:
    assert [record.result.study.name for record in records(FOLDER)] == list(STUDIES)
    assert all(0 < (FOLDER / f"{name}.svg").stat().st_size < 150_000 for name in STUDIES)


def test_no_record_is_of_a_trial_run() -> None:
    assert not any(record.result.settings["quick"] for record in records(FOLDER))


def test_the_page_is_made_of_the_records() -> None:
    assert (FOLDER / PAGE).read_text(encoding="utf-8") == page(records(FOLDER))


def test_findings_and_methods_are_those_of_the_rows() -> None:
    for record in records(FOLDER):
        path = FOLDER / f"{record.result.study.name}.json"
        assert json.loads(path.read_text(encoding="utf-8")) == json.loads(json.dumps(record.as_json()))
