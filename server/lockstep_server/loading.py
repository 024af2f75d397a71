"""A model version on its way into service, step by step.

repository -> manifest -> session -> card -> tokenizer -> self-test -> costs -> engine.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import port, selftest
from .errors import LoadError
from .models import repository
from .models.card import make_card
from .models.costs import CostModel
from .models.gate import Share
from .models.session import RUNTIME_VERSION, Session
from .oneshot.engine import OneShotEngine
from .text.tokenizer import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable

    from .models.card import Card
    from .models.gate import Gate
    from .models.manifest import Manifest
    from .models.repository import Found

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Loaded:
    """A model version that serves."""

    card: Card
    engine: OneShotEngine
    vocabulary: Vocabulary | None


class Loader:
    """Prepares models of one repository for one device."""

    def __init__(self, config: port.HostConfig, root: Path, device: str, gate: Gate) -> None:
        self._config, self._root, self._device, self._gate = config, root, device, gate

    def prepare(self, found: Found, report: Callable[[port.Events], None]) -> Loaded:
        """Everything up to an engine that can be started.

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
        sessions = self._sessions(found, manifest)
        card = make_card(found.name, found.version, sessions[0].graph, manifest, str(found.manifest_file))
        card = replace(card, provider=sessions[0].provider, versions=versions)
        vocabulary = _vocabulary(found, card)
        share = Share(f"{found.name}/{found.version} loading")
        verdict, costs = self._judge(found, sessions[0], card, share)
        card = replace(
            card, batched=verdict.batched, deterministic=verdict.deterministic, notice=_told(card, verdict)
        )
        engine = OneShotEngine(card, sessions, costs, self._gate, report, batching=self._config.batching)
        return Loaded(card, engine, vocabulary)

    def _sessions(self, found: Found, manifest: Manifest) -> list[Session]:
        file = found.graph_file()
        return [
            Session(file, self._device, manifest.instances.threads) for _ in range(manifest.instances.count)
        ]

    def _judge(
        self, found: Found, session: Session, card: Card, share: Share
    ) -> tuple[selftest.Verdict, CostModel]:
        """Self-test and costs; from the cache where this very model was judged on this very device."""
        cache = _Cache(self._config.cache, found.digest(), self._device)
        if (known := cache.read()) is not None:
            return known
        with self._gate.turn(share, 0.0):
            verdict = selftest.check(session, card)
        costs = selftest.measure_costs(session, replace(card, batched=verdict.batched), self._gate, share)
        cache.write(verdict, costs)
        return verdict, costs


def _vocabulary(found: Found, card: Card) -> Vocabulary | None:
    text = card.manifest.text
    if text is None:
        return None
    try:
        vocabulary = Vocabulary(found.beside_manifest(text.source, "text.source"))
    except LoadError as error:
        raise LoadError(f"{found.manifest_file}: text.source: {error}") from error
    tokens = card.input(card.text_input)
    if tokens and tokens.words.range and vocabulary.size > tokens.words.range[1]:
        raise LoadError(
            f"{found.manifest_file}: text.source: the tokenizer knows {vocabulary.size} ids, but"
            f" inputs.{tokens.name}.range ends at {tokens.words.range[1]}; they must come from one training"
        )
    return vocabulary


def _told(card: Card, verdict: selftest.Verdict) -> str:
    """What callers should know: a manifest asks for batching and the self-test found against it."""
    return f"not batched: {verdict.reason}" if verdict.reason and card.manifest.written else ""


def described(card: Card) -> str:
    kind = "batched" if card.batched else "one request a run"
    return f" ({kind}{', bit for bit' if card.deterministic else ''})" + (
        f"; {card.notice}" if card.notice else ""
    )


class _Cache:
    """Verdicts and costs by model, device and runtime, in a folder that may be absent or read-only."""

    def __init__(self, folder: str, digest: str, device: str) -> None:
        key = f"{digest[:32]}-{device}-{RUNTIME_VERSION}.json"
        self._file = Path(folder) / key if folder else None

    def read(self) -> tuple[selftest.Verdict, CostModel] | None:
        if self._file is None:
            return None
        try:
            data: dict[str, Any] = json.loads(self._file.read_text())
            return selftest.Verdict(**data["verdict"]), CostModel.from_dict(data["costs"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, verdict: selftest.Verdict, costs: CostModel) -> None:
        if self._file is None:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            half = self._file.with_suffix(f".{os.getpid()}")
            half.write_text(json.dumps({"verdict": verdict.to_dict(), "costs": costs.to_dict()}))
            half.replace(self._file)
        except OSError as error:
            log.debug("costs are not kept: %s", error)
