"""A model whose graphs do not run on what Generate feeds is refused at load."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import steps
from unit.server.engine.stepwise.step_models import open_folder, open_model

from lockstep_server.engine.loading.generation_check import check_generation
from lockstep_server.errors import LoadError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("kind", ["language", "forced", "translator", "cache"])
def test_a_model_that_generates_passes(kind: str) -> None:
    model = open_model(kind)
    check_generation(model.spec, model.session, model.prefill_session, "m/model.toml")


@pytest.mark.parametrize(
    ("make", "change", "section"),
    [
        ("cache", ("stepwise.inputs.mask]", "stepwise.inputs.mask]\nnew = true"), "stepwise"),
        ("language", ("tokens]\nbatch_axis = 0", "tokens]\nbatch_axis = 0\nrange = [30, 40]"), "prefill"),
    ],
)
def test_an_error_names_the_section_whose_graph_does_not_run(
    tmp_path: Path, make: str, change: tuple[str, str], section: str
) -> None:
    folder: Path = getattr(steps, make)(tmp_path)
    file = folder.parent / "model.toml"
    text = file.read_text().replace("range = [0, 21]\n[prefill", "[prefill")
    assert change[0] in text
    file.write_text(text.replace(*change))
    model = open_folder(folder)
    with pytest.raises(LoadError, match=rf"^m/model.toml: {section}: the graph does not run .* generate"):
        check_generation(model.spec, model.session, model.prefill_session, "m/model.toml")
