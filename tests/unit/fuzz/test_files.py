"""Whatever bytes a file of a model or of the cache has: the model is loaded, or there is a LoadError."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest
from fuzz import corpus, files
from fuzz.mutate import mutate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Iterator

TARGETS = [name for name in files.TARGETS if name != "graph"]
FEW = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module", params=TARGETS)
def fixture(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> files.Fixture:
    return files.Fixture(request.param, tmp_path_factory.mktemp(request.param))


def test_the_committed_inputs_are_loaded_or_refused(fixture: files.Fixture) -> None:
    kinds = defaultdict(list)
    for name, data in {"seed": fixture.seed, **corpus.inputs(fixture.name)}.items():
        kinds[fixture.run(data).kind].append(name)
    assert set(kinds) <= files.ALLOWED, kinds
    assert "seed" in kinds["loaded"]


@FEW
@given(number=st.integers(0, 1 << 48))
def test_mutated_files_are_loaded_or_refused(fixture: files.Fixture, number: int) -> None:
    data = mutate(random.Random(number), [fixture.seed, *corpus.inputs(fixture.name).values()])
    outcome = fixture.run(data)
    assert outcome.kind in files.ALLOWED, outcome


@pytest.fixture(scope="module")
def graph() -> Iterator[files.FileTarget]:
    target = files.FileTarget("graph")
    yield target
    target.close()


def test_a_damaged_graph_is_loaded_or_refused_or_ends_its_process(graph: files.FileTarget) -> None:
    rng, allowed = random.Random(15), files.ALLOWED | {"crash"}
    seeds = [graph.seed, *corpus.inputs("graph").values()]
    for data in [*seeds, *(mutate(rng, seeds)[: rng.randint(1, 200)] for _ in range(10))]:
        outcome = graph.run(data)
        assert outcome.kind in allowed, outcome
    assert graph.run(graph.seed).kind == "loaded"
