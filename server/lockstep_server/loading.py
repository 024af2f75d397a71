"""A model version on its way into service, step by step.

repository -> manifest -> session -> card -> tokenizer -> self-test -> costs -> engine.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__, port, selftest, selftest_steps
from .errors import LoadError
from .models import repository
from .models.card import make_card
from .models.costs import CostModel
from .models.gate import Share
from .models.session import RUNTIME_VERSION, Session
from .models.step_card import check_only_face, make_step_card
from .oneshot.engine import OneShotEngine
from .stepwise.engine import StepEngine
from .text.tokenizer import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable

    from .models.card import Card
    from .models.gate import Gate
    from .models.manifest import Manifest
    from .models.repository import Found

log = logging.getLogger(__name__)


STEP_SUFFIX = ".step"
"""A second face is a model of its own on the tensor API."""


@dataclass(eq=False)
class Face:
    """One way to ask a model version that serves."""

    card: Card
    engine: OneShotEngine | StepEngine
    vocabulary: Vocabulary | None  # of what it reads

    def costs(self) -> dict[str, Any] | None:
        return self.engine.costs.to_dict() if isinstance(self.engine, OneShotEngine) else None


class Loader:
    """Prepares models of one repository for one device."""

    def __init__(self, config: port.HostConfig, root: Path, device: str, gate: Gate) -> None:
        self._config, self._root, self._device, self._gate = config, root, device, gate

    def prepare(self, found: Found, report: Callable[[port.Events], None]) -> list[Face]:
        """Everything up to engines that can be started: one for each face.

        Raises:
            LoadError: the model cannot be served; names file, key and remedy.
        """
        manifest = found.manifest()
        versions = tuple(one.version for one in repository.find_model(self._root, found.name))
        if manifest.default_version and manifest.default_version not in versions:
            raise LoadError(
                f"{found.manifest_file}: default_version: there is no version {manifest.default_version};"
                f" write one of {', '.join(map(str, versions))}"
            )
        faces = []
        if manifest.stepwise is None or found.has_oneshot():
            faces.append(self._oneshot(found, manifest, versions, report))
        if manifest.stepwise is not None:
            faces.append(self._stepwise(found, manifest, versions, report, faces[0] if faces else None))
        return faces

    def _oneshot(
        self,
        found: Found,
        manifest: Manifest,
        versions: tuple[int, ...],
        report: Callable[[port.Events], None],
    ) -> Face:
        file = found.graph_file()
        session = self._session(file, manifest)
        card = make_card(found.name, found.version, session.graph, manifest, str(found.manifest_file))
        card = replace(card, provider=session.provider, versions=versions)
        vocabulary = _vocabulary(found, card)
        share = Share(f"{found.name}/{found.version} loading")
        verdict, costs = self._judge(found, session, card, share)
        card = replace(
            card,
            batched=verdict.batched,
            deterministic=verdict.deterministic,
            notice=_told(card, verdict),
            instances=self._instances(card, costs),
        )
        config = self._config
        engine = OneShotEngine(
            card, session, costs, self._gate, report, batching=config.batching, niceness=config.niceness
        )
        return Face(card, engine, vocabulary)

    def _stepwise(
        self,
        found: Found,
        manifest: Manifest,
        versions: tuple[int, ...],
        report: Callable[[port.Events], None],
        oneshot: Face | None,
    ) -> Face:
        assert manifest.stepwise is not None
        session = self._session(found.graph_file(manifest.stepwise.graph, "stepwise.graph"), manifest)
        prefill = None
        if manifest.prefill is not None:
            prefill = self._session(found.graph_file(manifest.prefill.graph, "prefill.graph"), manifest)
        name = found.name + STEP_SUFFIX if oneshot else found.name
        file = str(found.manifest_file)
        graph = prefill.graph if prefill else None
        card = make_step_card(name, found.version, session.graph, graph, manifest, file)
        if oneshot is None:
            check_only_face(card, file)
        card = replace(card, provider=session.provider, versions=versions, model=found.name)
        reads = oneshot.vocabulary if oneshot else _vocabulary(found, card)
        makes = _target(found, card) or reads
        card = selftest_steps.judged(card, self._judge_steps(found, card, session, prefill, oneshot))
        engine = StepEngine(
            card, session, prefill, makes, self._gate, report,
            stalled_s=self._config.stalled_s, batching=self._config.batching,
        )  # fmt: skip
        return Face(card, engine, reads)

    def _judge_steps(
        self, found: Found, card: Card, session: Session, prefill: Session | None, oneshot: Face | None
    ) -> selftest_steps.Steps:
        """As `_judge`."""
        cache = _Cache(self._config.cache, found.digest(), self._device, "steps")
        with suppress(KeyError, TypeError):
            return selftest_steps.Steps(**cache.read()["verdict"])
        with self._gate.turn(Share(f"{card.name}/{card.version} loading"), 0.0):
            other = (oneshot.card, self._session(found.graph_file(), card.manifest)) if oneshot else None
            verdict = selftest_steps.check(card, session, prefill, other)
        cache.write({"verdict": asdict(verdict)})
        return verdict

    def _session(self, file: Path, manifest: Manifest) -> Session:
        return Session(file, self._device, manifest.instances.threads)

    def _instances(self, card: Card, costs: CostModel) -> int:
        """Runs of a one-shot model at one time: as the manifest has it, within what the gate lets run; or as
        many as the device gains from where a run takes longer than what goes around it, which does not get
        quicker in company."""
        said = card.manifest.instances
        most = self._gate.most(Share(card.name, lets_others_first=self._config.niceness > 0))
        if said.count is not None:
            return min(said.count, most)
        if selftest.usual_run_s(card, costs) <= costs.overhead_s:
            return 1
        return max(most // said.threads, 1)

    def _judge(
        self, found: Found, session: Session, card: Card, share: Share
    ) -> tuple[selftest.Verdict, CostModel]:
        """Self-test and costs; from the cache where this very model was judged on this very device."""
        cache = _Cache(self._config.cache, found.digest(), self._device, "oneshot")
        with suppress(KeyError, TypeError, ValueError):
            known = cache.read()
            return selftest.Verdict(**known["verdict"]), CostModel.from_dict(known["costs"])
        with self._gate.turn(share, 0.0):
            verdict = selftest.check(session, card)
        costs = selftest.measure_costs(session, replace(card, batched=verdict.batched), self._gate, share)
        cache.write({"verdict": verdict.to_dict(), "costs": costs.to_dict()})
        return verdict, costs


def _vocabulary(found: Found, card: Card) -> Vocabulary | None:
    """Of what the model reads: the source of a translator, the words of a classifier."""
    text = card.manifest.text
    if text is None:
        return None
    vocabulary = _open(found, text.source, "text.source")
    card = card.prefill or card
    tokens = card.input(card.text_input)
    if tokens and tokens.words.range and vocabulary.size > tokens.words.range[1]:
        raise LoadError(
            f"{found.manifest_file}: text.source: the tokenizer knows {vocabulary.size} ids, but"
            f" inputs.{tokens.name}.range ends at {tokens.words.range[1]}; they must come from one training"
        )
    return vocabulary


def _target(found: Found, card: Card) -> Vocabulary | None:
    """Of what the model makes, where that is another than what it reads."""
    text = card.manifest.text
    return _open(found, text.target, "text.target") if text is not None and text.target else None


def _open(found: Found, name: str, key: str) -> Vocabulary:
    try:
        return Vocabulary(found.beside_manifest(name, key))
    except LoadError as error:
        raise LoadError(f"{found.manifest_file}: {key}: {error}") from error


def _told(card: Card, verdict: selftest.Verdict) -> str:
    """What callers should know: a manifest asks for batching and the self-test found against it."""
    return f"not batched: {verdict.reason}" if verdict.reason and card.manifest.written else ""


def described(card: Card) -> str:
    kind = "batched" if card.batched else "one request a run"
    kind = f"step by step, {kind}" if card.steps else kind
    return f" ({kind}{', bit for bit' if card.deterministic else ''})" + (
        f"; {card.notice}" if card.notice else ""
    )


class _Cache:
    """What was found of a model on a device by this program and this runtime, in a folder that may be
    absent or read-only."""

    def __init__(self, folder: str, digest: str, device: str, kind: str) -> None:
        key = f"{digest[:32]}-{device}-{RUNTIME_VERSION}-{__version__}-{kind}.json"
        self._file = Path(folder) / key if folder else None

    def read(self) -> dict[str, Any]:
        """Empty where there is nothing."""
        if self._file is None:
            return {}
        try:
            found = json.loads(self._file.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def write(self, found: dict[str, Any]) -> None:
        if self._file is None:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            half = self._file.with_suffix(f".{os.getpid()}")
            half.write_text(json.dumps(found))
            half.replace(self._file)
        except OSError as error:
            log.debug("what was measured is not kept: %s", error)
