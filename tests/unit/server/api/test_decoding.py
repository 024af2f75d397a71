from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lockstep_proto.v1 import sequences_pb2 as pb
from lockstep_server.api import decoding
from lockstep_server.frontend.callers import Caller, current
from lockstep_server.model.manifest import GenerationSection


@pytest.mark.parametrize(
    ("slots", "request_", "beams"),
    [
        (None, pb.TranslateRequest(), 4),
        (2, pb.TranslateRequest(), 2),
        (9, pb.TranslateRequest(), 4),
        (2, pb.TranslateRequest(decoding=pb.Decoding(beams=4)), 4),  # the engine refuses it, and says why
        (None, pb.TranslateRequest(attention=True), 1),
    ],
)
def test_the_usual_beams_are_those_that_the_caller_has_slots_for(
    slots: int | None, request_: Any, beams: int
) -> None:
    spec: Any = SimpleNamespace(manifest=SimpleNamespace(generation=GenerationSection(beams=4)))
    token = current.set(Caller("anna", slots=slots))
    try:
        assert decoding.beams(spec, request_)["beams"] == beams
    finally:
        current.reset(token)
