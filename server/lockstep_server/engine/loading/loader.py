"""Loads a model version.

`RepositoryEntry` → manifest → session → spec → tokenizer → self-test → cost model → engine, not yet started
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import os
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ... import __version__, messages
from ...errors import LoadError
from ...model import datatypes
from ...model.cost_model import CostModel
from ...model.oneshot_spec import make_spec
from ...model.step_spec import check_roles_without_oneshot, make_step_spec
from ...text.tokenizer import TokenizerError, Vocabulary
from ..oneshot.engine import OneShotEngine
from ..recorder import OFF, RunRecorder
from ..runtime.device import RUNTIME_VERSION, Device
from ..runtime.device_scheduler import DeviceAccount
from ..runtime.run_watch import RunWatch
from ..runtime.session import LeasedSession, OnnxSession
from ..stepwise.device_states import StateGraphs
from ..stepwise.engine import StepEngine
from . import repository, selftest, selftest_steps
from .costs import measure_costs, typical_run_s, warm_up
from .first_values import with_first_values
from .generation_check import check_generation
from .open_shapes import check_open_shapes
from .output_lengths import check_output_lengths, hint

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...model.manifest import Manifest
    from ...model.spec import ModelSpec
    from ..runtime.device_scheduler import DeviceScheduler
    from .repository import RepositoryEntry

log = logging.getLogger(__name__)


_Result = TypeVar("_Result", selftest.SelfTestResult, selftest_steps.StepSelfTestResult)

STEP_SUFFIX = ".step"
"""If a model has a one-shot and a step-wise graph, the tensor API serves the latter as `<name>.step`."""


@dataclass(eq=False)
class LoadedModel:
    """One mode of a loaded model version."""

    spec: ModelSpec
    engine: OneShotEngine | StepEngine
    vocabulary: Vocabulary | None  # of the input
    load: int = dataclasses.field(
        default_factory=itertools.count(1).__next__
    )  # no other mode has this number

    def costs(self) -> dict[str, Any] | None:
        return self.engine.costs.to_dict() if isinstance(self.engine, OneShotEngine) else None


class Loader:
    """Loads the models of one repository for one device."""

    def __init__(
        self,
        config: messages.EngineConfig,
        device: Device,
        device_scheduler: DeviceScheduler,
        watch: RunWatch | None = None,
        recorder: RunRecorder = OFF,
    ) -> None:
        self._config, self._device, self._recorder = config, device, recorder
        self._device_scheduler, self._watch = device_scheduler, watch or RunWatch()

    def load(
        self, entry: RepositoryEntry, report: Callable[[messages.EngineUpdate], None]
    ) -> list[LoadedModel]:
        """Load a model version: one `LoadedModel` per mode, with an engine that is not started.

        Raises:
            LoadError: the model cannot be served. Names the file, the key and how to fix it.
        """
        self._check_name(entry)
        entry.check_files()
        manifest = _with_labels(entry, entry.manifest())
        versions = tuple(other.version for other in repository.find_versions(entry.root, entry.name))
        if manifest.default_version and manifest.default_version not in versions:
            raise LoadError(
                f"{entry.manifest_path}: default_version: no version {manifest.default_version};"
                f" available: {', '.join(map(str, versions))}"
            )
        loaded = []
        if manifest.stepwise is None or entry.has_oneshot(manifest):
            loaded.append(self._load_oneshot(entry, manifest, versions, report))
        if manifest.stepwise is not None:
            oneshot = loaded[0] if loaded else None
            loaded.append(self._load_stepwise(entry, manifest, versions, report, oneshot))
        return loaded

    def _check_name(self, entry: RepositoryEntry) -> None:
        """
        Raises:
            LoadError: the folder has the name of the step-wise form of another model.
        """
        model = entry.name.removesuffix(STEP_SUFFIX)
        if model == entry.name:
            return
        for other in repository.find_versions(entry.root, model):
            try:
                manifest = other.manifest()
                has_both = manifest.stepwise is not None and other.has_oneshot(manifest)
            except LoadError:  # it is not served
                continue
            if has_both:
                raise LoadError(
                    f"{entry.folder.parent}: {entry.name!r} is the name of the step-wise form of model"
                    f" {model!r}; rename this folder"
                )

    def _load_oneshot(
        self,
        entry: RepositoryEntry,
        manifest: Manifest,
        versions: tuple[int, ...],
        report: Callable[[messages.EngineUpdate], None],
    ) -> LoadedModel:
        session = self._open_session(entry, entry.graph_file(), manifest)
        spec = make_spec(entry.name, entry.version, session.graph, manifest, str(entry.manifest_path))
        spec = replace(spec, provider=session.provider, versions=versions)
        vocabulary = _input_vocabulary(entry, spec)
        account = DeviceAccount(f"{entry.name}/{entry.version} loading")
        selftest_result, costs = self._selftest_oneshot(entry, session, spec, account)
        check_open_shapes(
            LeasedSession(session, self._device_scheduler, account), spec, str(entry.manifest_path)
        )
        spec = replace(
            spec,
            batched=selftest_result.batched,
            padded=selftest_result.padded or not selftest_result.batched,
            deterministic=selftest_result.deterministic,
            notice=_notice(spec, selftest_result),
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
            verify_share=config.verify_share,
            recorder=self._recorder,
        )
        return LoadedModel(spec, engine, vocabulary)

    def _load_stepwise(
        self,
        entry: RepositoryEntry,
        manifest: Manifest,
        versions: tuple[int, ...],
        report: Callable[[messages.EngineUpdate], None],
        oneshot: LoadedModel | None,
    ) -> LoadedModel:
        assert manifest.stepwise is not None
        graph_file = entry.graph_file(manifest.stepwise.graph, "stepwise.graph")
        session = self._open_session(entry, graph_file, manifest, captures=self._device.states == "device")
        prefill = None
        if manifest.prefill is not None and manifest.prefill.graph == manifest.stepwise.graph:
            prefill = session
        elif manifest.prefill is not None:
            prefill = self._open_session(
                entry, entry.graph_file(manifest.prefill.graph, "prefill.graph"), manifest
            )
        if prefill is not None and manifest.encoder is not None:
            prefill.encoder = self._open_session(
                entry, entry.graph_file(manifest.encoder.graph, "encoder.graph"), manifest
            )
        name = entry.name + STEP_SUFFIX if oneshot else entry.name
        file = str(entry.manifest_path)
        graph = prefill.graph if prefill else None
        encoder = prefill.encoder.graph if prefill and prefill.encoder else None
        spec = make_step_spec(name, entry.version, session.graph, graph, manifest, file, encoder)
        if oneshot is None:
            check_roles_without_oneshot(spec, file)
        spec = with_first_values(spec, entry)
        spec = replace(spec, provider=session.provider, versions=versions, model=entry.name)
        session.steps = True
        if self._device.states == "device" and all(state.datatype != "BF16" for state in spec.states):
            session.state_graphs = StateGraphs(spec, self._device)
        input_vocabulary = oneshot.vocabulary if oneshot else _input_vocabulary(entry, spec)
        output_vocabulary = _output_vocabulary(entry, spec) or input_vocabulary
        digest = entry.digest()
        spec = replace(spec, files=entry.with_tokenizers(digest, entry.manifest()))
        selftest_result = self._selftest_steps(entry, digest, spec, session, prefill, oneshot)
        spec = selftest_steps.apply_result(spec, selftest_result)
        engine = StepEngine(
            spec, session, prefill, output_vocabulary, self._device_scheduler, report,
            stalled_s=self._config.stalled_s, batching=self._config.batching,
            verify_share=self._config.verify_share, recorder=self._recorder,
        )  # fmt: skip
        return LoadedModel(spec, engine, input_vocabulary)

    def _selftest_steps(
        self,
        entry: RepositoryEntry,
        digest: str,
        spec: ModelSpec,
        session: OnnxSession,
        prefill: OnnxSession | None,
        oneshot: LoadedModel | None,
    ) -> selftest_steps.StepSelfTestResult:
        """Run the self-test, or read its result from the cache and warm up."""
        cache = _Cache(self._config.cache, digest, self._device, "steps")
        account = DeviceAccount(f"{spec.name}/{spec.version} loading")

        def leased(opened: OnnxSession) -> OnnxSession:
            return LeasedSession(opened, self._device_scheduler, account)

        self._watch.load_step("warming up the steps")
        with suppress(KeyError, TypeError, ValueError):
            cached = _checked(selftest_steps.StepSelfTestResult(**cache.read()["selftest"]))
            applied = selftest_steps.apply_result(spec, cached)
            selftest_steps.warm_up(applied, leased(session), leased(prefill) if prefill else None)
            return cached
        reference = None
        if oneshot is not None:
            reference = (oneshot.spec, leased(self._open_session(entry, entry.graph_file(), spec.manifest)))
        self._watch.load_step("self-test of the steps")
        selftest_result = selftest_steps.check(
            spec, leased(session), leased(prefill) if prefill else None, reference
        )
        self._watch.check_load()
        if spec.manifest.generates:
            tested = selftest_steps.apply_result(spec, selftest_result)
            opened = leased(session), leased(prefill) if prefill else None
            check_generation(tested, *opened, str(entry.manifest_path))
        cache.write({"selftest": asdict(selftest_result)})
        return selftest_result

    def _open_session(
        self, entry: RepositoryEntry, file: Path, manifest: Manifest, *, captures: bool = False
    ) -> OnnxSession:
        owner = f"{entry.name}/{entry.version}"
        self._watch.load_step(f"opening {file.name}")
        threads = manifest.instances.threads
        return OnnxSession(file, self._device, threads, self._watch, owner, captures=captures)

    def _instances(self, spec: ModelSpec, costs: CostModel) -> int:
        """The number of concurrent runs of a one-shot model, within the device's leases.

        Without `instances.count` it is as many as fit the device, but 1 if a typical run takes no longer
        than the work around it, which concurrency does not speed up.
        """
        instances = spec.manifest.instances
        max_leases = self._device_scheduler.max_leases(
            DeviceAccount(spec.name, yields_cpu=self._config.niceness > 0)
        )
        if instances.count is not None:
            return min(instances.count, max_leases)
        if typical_run_s(spec, costs) <= costs.overhead_s:
            return 1
        return max(max_leases // instances.threads, 1)

    def _selftest_oneshot(
        self, entry: RepositoryEntry, session: OnnxSession, spec: ModelSpec, account: DeviceAccount
    ) -> tuple[selftest.SelfTestResult, CostModel]:
        """Run the self-test and measure the costs, or read both from the cache and warm up."""
        cache = _Cache(self._config.cache, entry.digest(), self._device, "oneshot")
        leased = LeasedSession(session, self._device_scheduler, account)
        self._watch.load_step("warming up")
        with suppress(KeyError, TypeError, ValueError):
            cached = cache.read()
            selftest_result = _checked(selftest.SelfTestResult(**cached["selftest"]))
            costs = CostModel.from_dict(cached["costs"])
            warm_up(leased, replace(spec, batched=selftest_result.batched))
            return selftest_result, costs
        self._watch.load_step("self-test")
        check_output_lengths(leased, spec, str(entry.manifest_path))
        selftest_result = selftest.check(leased, spec)
        if selftest_result.reason and (remedy := hint(leased, spec)):
            selftest_result = replace(selftest_result, reason=f"{selftest_result.reason}; {remedy}")
        measured = replace(spec, batched=selftest_result.batched)
        self._watch.load_step("measuring what runs cost")
        costs = measure_costs(session, measured, self._device_scheduler, account)
        self._watch.check_load()
        cache.write({"selftest": asdict(selftest_result), "costs": costs.to_dict()})
        return selftest_result, costs


def open_graphs(entry: RepositoryEntry) -> str:
    """Open what a version consists of, on the CPU, without running it. Returns its forms.

    Raises:
        LoadError: its manifest, a graph, a tokenizer or another file is missing or not valid.
    """
    entry.check_files()
    manifest = _with_labels(entry, entry.manifest())
    file, forms = str(entry.manifest_path), []
    if manifest.stepwise is None or entry.has_oneshot(manifest):
        spec = make_spec(entry.name, entry.version, OnnxSession(entry.graph_file()).graph, manifest, file)
        _input_vocabulary(entry, spec)
        forms.append("one-shot")
    if (stepwise := manifest.stepwise) is not None:
        step, prefill, encoder = (
            OnnxSession(entry.graph_file(section.graph, f"{key}.graph")).graph if section else None
            for section, key in (
                (stepwise, "stepwise"), (manifest.prefill, "prefill"), (manifest.encoder, "encoder")
            )
        )  # fmt: skip
        assert step is not None
        spec = make_step_spec(entry.name, entry.version, step, prefill, manifest, file, encoder)
        with_first_values(spec, entry)
        _input_vocabulary(entry, spec)
        _output_vocabulary(entry, spec)
        forms.append("step-wise")
    return ", ".join(forms)


def _with_labels(entry: RepositoryEntry, manifest: Manifest) -> Manifest:
    """The manifest, of a CTC model with the labels of its tokenizer."""
    text = manifest.text
    if manifest.task != "ctc" or text is None:
        return manifest
    labels = _open_vocabulary(entry, text.target, "text.target").pieces()
    if torn := [index for index, piece in enumerate(labels) if "\ufffd" in piece]:
        why = f"token {torn[0]} is no whole character, so that no text is made of it"
        raise LoadError(f"{entry.manifest_path}: text.target: {why}; use a tokenizer of characters or words")
    assert manifest.blank is not None
    if manifest.blank >= len(labels):
        why = f"{manifest.blank} is no index of the {len(labels)} tokens of {text.target}"
        raise LoadError(f"{entry.manifest_path}: blank: {why}; correct it")
    return replace(manifest, labels=labels, text=None)


def _input_vocabulary(entry: RepositoryEntry, spec: ModelSpec) -> Vocabulary | None:
    text = spec.manifest.text
    if text is None or not text.source:
        return None
    vocabulary = _open_vocabulary(entry, text.source, "text.source")
    tokens = spec.reader.text_tensor
    largest = datatypes.EXACT_INTEGERS.get(tokens.datatype, (0, -1))[1] if tokens else -1
    if tokens and vocabulary.largest_id > largest:
        raise LoadError(
            f"{entry.manifest_path}: text.source: the tokenizer has ids up to {vocabulary.largest_id}, but"
            f" inputs.{tokens.name} is {tokens.datatype}; use an integer type that holds them in the graph"
        )
    if tokens and tokens.spec.range and vocabulary.size > tokens.spec.range[1]:
        raise LoadError(
            f"{entry.manifest_path}: text.source: the tokenizer has {vocabulary.size} ids, but"
            f" inputs.{tokens.name}.range ends at {tokens.spec.range[1]}; use the tokenizer of the model's"
            " training, or correct the range"
        )
    return vocabulary


def _output_vocabulary(entry: RepositoryEntry, spec: ModelSpec) -> Vocabulary | None:
    """The vocabulary of the generated text; None if it is that of the input."""
    text = spec.manifest.text
    return _open_vocabulary(entry, text.target, "text.target") if text is not None and text.target else None


def _open_vocabulary(entry: RepositoryEntry, name: str, key: str) -> Vocabulary:
    try:
        file = entry.referenced_file(name)
        return Vocabulary(file.read_bytes())
    except (LoadError, OSError) as error:
        raise LoadError(f"{entry.manifest_path}: {key}: {error}") from error
    except TokenizerError as error:
        raise LoadError(
            f"{entry.manifest_path}: {key}: {file}: not a Hugging Face tokenizer; save it with the tokenizers"
            " library",
            str(error),
        ) from error


def _notice(spec: ModelSpec, selftest_result: selftest.SelfTestResult) -> str:
    """A warning for callers if each request runs alone, unless the owner asked for that."""
    if not selftest_result.reason or spec.manifest.batching.max_rows == 1:
        return ""
    if selftest_result.batched:
        return f"only requests of equal length share a run: {selftest_result.reason}"
    return f"not batched: {selftest_result.reason}"


def describe(spec: ModelSpec) -> str:
    """How the model is served, for the log."""
    parts = ["step-wise"] if spec.is_stepwise else []
    parts.append("batched" if spec.batched else "unbatched")
    parts += ["deterministic"] if spec.deterministic else []
    return ", ".join(parts) + (f"; {spec.notice}" if spec.notice else "")


class _Cache:
    """The measurements of one model, valid for one device, runtime version and server version.

    The folder may be missing or read-only.
    """

    def __init__(self, folder: str, digest: str, device: Device, kind: str) -> None:
        kind += "-on-device" if device.states == "device" and kind == "steps" else ""
        key = f"{digest[:32]}-{device.name}-{RUNTIME_VERSION}-{__version__}-{kind}.json"
        self._file = Path(folder) / key if folder else None

    def read(self) -> dict[str, Any]:
        """The cached document; empty if there is none."""
        if self._file is None:
            return {}
        try:
            document = json.loads(self._file.read_text())
        except (OSError, ValueError, RecursionError):
            return {}
        return document if isinstance(document, dict) else {}

    def write(self, document: dict[str, Any]) -> None:
        if self._file is None:
            return
        partial = self._file.with_suffix(f".{os.getpid()}")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(document))
            partial.replace(self._file)
        except OSError as error:
            log.debug("cannot write the cache: %s", error)
            with suppress(OSError):
                partial.unlink(missing_ok=True)


def _checked(result: _Result) -> _Result:
    """
    Raises:
        ValueError: a field has another type than its default, or its annotation: the cache is damaged.
    """
    for field in fields(result):
        expected = type(field.default) if field.default is not MISSING else bool
        if type(getattr(result, field.name)) is not expected:
            raise ValueError(f"{field.name} is not a {expected.__name__}")
    return result
