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

from ... import __version__, messages
from ...errors import LoadError
from ...model.cost_model import CostModel
from ...model.spec import make_spec
from ...model.step_spec import check_roles_without_oneshot, make_step_spec
from ...text.tokenizer import Vocabulary
from ..oneshot.engine import OneShotEngine
from ..runtime.device_scheduler import DeviceAccount
from ..runtime.session import RUNTIME_VERSION, OnnxSession
from ..stepwise.engine import StepEngine
from . import repository, selftest, selftest_steps

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...model.manifest import Manifest
    from ...model.spec import ModelSpec
    from ..runtime.device_scheduler import DeviceScheduler
    from .repository import RepositoryEntry

log = logging.getLogger(__name__)


STEP_SUFFIX = ".step"
"""A second face is a model of its own on the tensor API."""


@dataclass(eq=False)
class LoadedModel:
    """One way to ask a model version that serves."""

    spec: ModelSpec
    engine: OneShotEngine | StepEngine
    vocabulary: Vocabulary | None  # of what it reads

    def costs(self) -> dict[str, Any] | None:
        return self.engine.costs.to_dict() if isinstance(self.engine, OneShotEngine) else None


class Loader:
    """Prepares models of one repository for one device."""

    def __init__(
        self, config: messages.EngineConfig, root: Path, device: str, device_scheduler: DeviceScheduler
    ) -> None:
        self._config, self._root, self._device, self._device_scheduler = (
            config,
            root,
            device,
            device_scheduler,
        )

    def prepare(self, found: RepositoryEntry, report: Callable[[messages.Events], None]) -> list[LoadedModel]:
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
        loaded = []
        if manifest.stepwise is None or found.has_oneshot():
            loaded.append(self._oneshot(found, manifest, versions, report))
        if manifest.stepwise is not None:
            loaded.append(self._stepwise(found, manifest, versions, report, loaded[0] if loaded else None))
        return loaded

    def _oneshot(
        self,
        found: RepositoryEntry,
        manifest: Manifest,
        versions: tuple[int, ...],
        report: Callable[[messages.Events], None],
    ) -> LoadedModel:
        file = found.graph_file()
        session = self._session(file, manifest)
        spec = make_spec(found.name, found.version, session.graph, manifest, str(found.manifest_file))
        spec = replace(spec, provider=session.provider, versions=versions)
        vocabulary = _vocabulary(found, spec)
        account = DeviceAccount(f"{found.name}/{found.version} loading")
        selftest_result, costs = self._judge(found, session, spec, account)
        spec = replace(
            spec,
            batched=selftest_result.batched,
            deterministic=selftest_result.deterministic,
            notice=_told(spec, selftest_result),
            instances=self._instances(spec, costs),
        )
        config = self._config
        engine = OneShotEngine(
            spec,
            session,
            costs,
            self._device_scheduler,
            report,
            batching=config.batching,
            niceness=config.niceness,
        )
        return LoadedModel(spec, engine, vocabulary)

    def _stepwise(
        self,
        found: RepositoryEntry,
        manifest: Manifest,
        versions: tuple[int, ...],
        report: Callable[[messages.Events], None],
        oneshot: LoadedModel | None,
    ) -> LoadedModel:
        assert manifest.stepwise is not None
        session = self._session(found.graph_file(manifest.stepwise.graph, "stepwise.graph"), manifest)
        prefill = None
        if manifest.prefill is not None:
            prefill = self._session(found.graph_file(manifest.prefill.graph, "prefill.graph"), manifest)
        name = found.name + STEP_SUFFIX if oneshot else found.name
        file = str(found.manifest_file)
        graph = prefill.graph if prefill else None
        spec = make_step_spec(name, found.version, session.graph, graph, manifest, file)
        if oneshot is None:
            check_roles_without_oneshot(spec, file)
        spec = replace(spec, provider=session.provider, versions=versions, model=found.name)
        reads = oneshot.vocabulary if oneshot else _vocabulary(found, spec)
        makes = _target(found, spec) or reads
        spec = selftest_steps.judged(spec, self._judge_steps(found, spec, session, prefill, oneshot))
        engine = StepEngine(
            spec, session, prefill, makes, self._device_scheduler, report,
            stalled_s=self._config.stalled_s, batching=self._config.batching,
        )  # fmt: skip
        return LoadedModel(spec, engine, reads)

    def _judge_steps(
        self,
        found: RepositoryEntry,
        spec: ModelSpec,
        session: OnnxSession,
        prefill: OnnxSession | None,
        oneshot: LoadedModel | None,
    ) -> selftest_steps.Steps:
        """As `_judge`."""
        cache = _Cache(self._config.cache, found.digest(), self._device, "steps")
        with suppress(KeyError, TypeError):
            return selftest_steps.Steps(**cache.read()["verdict"])
        with self._device_scheduler.lease(DeviceAccount(f"{spec.name}/{spec.version} loading"), 0.0):
            other = (oneshot.spec, self._session(found.graph_file(), spec.manifest)) if oneshot else None
            selftest_result = selftest_steps.check(spec, session, prefill, other)
        cache.write({"verdict": asdict(selftest_result)})
        return selftest_result

    def _session(self, file: Path, manifest: Manifest) -> OnnxSession:
        return OnnxSession(file, self._device, manifest.instances.threads)

    def _instances(self, spec: ModelSpec, costs: CostModel) -> int:
        """Runs of a one-shot model at one time: as the manifest has it, within what the gate lets run; or as
        many as the device gains from where a run takes longer than what goes around it, which does not get
        quicker in company."""
        said = spec.manifest.instances
        most = self._device_scheduler.max_leases(
            DeviceAccount(spec.name, yields_cpu=self._config.niceness > 0)
        )
        if said.count is not None:
            return min(said.count, most)
        if selftest.usual_run_s(spec, costs) <= costs.overhead_s:
            return 1
        return max(most // said.threads, 1)

    def _judge(
        self, found: RepositoryEntry, session: OnnxSession, spec: ModelSpec, account: DeviceAccount
    ) -> tuple[selftest.SelfTestResult, CostModel]:
        """Self-test and costs; from the cache where this very model was judged on this very device."""
        cache = _Cache(self._config.cache, found.digest(), self._device, "oneshot")
        with suppress(KeyError, TypeError, ValueError):
            known = cache.read()
            return selftest.SelfTestResult(**known["verdict"]), CostModel.from_dict(known["costs"])
        with self._device_scheduler.lease(account, 0.0):
            selftest_result = selftest.check(session, spec)
        costs = selftest.measure_costs(
            session, replace(spec, batched=selftest_result.batched), self._device_scheduler, account
        )
        cache.write({"verdict": selftest_result.to_dict(), "costs": costs.to_dict()})
        return selftest_result, costs


def _vocabulary(found: RepositoryEntry, spec: ModelSpec) -> Vocabulary | None:
    """Of what the model reads: the source of a translator, the words of a classifier."""
    text = spec.manifest.text
    if text is None:
        return None
    vocabulary = _open(found, text.source, "text.source")
    spec = spec.prefill or spec
    tokens = spec.input(spec.text_input)
    if tokens and tokens.spec.range and vocabulary.size > tokens.spec.range[1]:
        raise LoadError(
            f"{found.manifest_file}: text.source: the tokenizer knows {vocabulary.size} ids, but"
            f" inputs.{tokens.name}.range ends at {tokens.spec.range[1]}; they must come from one training"
        )
    return vocabulary


def _target(found: RepositoryEntry, spec: ModelSpec) -> Vocabulary | None:
    """Of what the model makes, where that is another than what it reads."""
    text = spec.manifest.text
    return _open(found, text.target, "text.target") if text is not None and text.target else None


def _open(found: RepositoryEntry, name: str, key: str) -> Vocabulary:
    try:
        return Vocabulary(found.beside_manifest(name, key))
    except LoadError as error:
        raise LoadError(f"{found.manifest_file}: {key}: {error}") from error


def _told(spec: ModelSpec, selftest_result: selftest.SelfTestResult) -> str:
    """What callers should know: a manifest asks for batching and the self-test found against it."""
    return (
        f"not batched: {selftest_result.reason}" if selftest_result.reason and spec.manifest.from_file else ""
    )


def described(spec: ModelSpec) -> str:
    kind = "batched" if spec.batched else "one request a run"
    kind = f"step by step, {kind}" if spec.is_stepwise else kind
    return f" ({kind}{', bit for bit' if spec.deterministic else ''})" + (
        f"; {spec.notice}" if spec.notice else ""
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
