"""What training leaves behind after every epoch: gone on from, and exported from.

A checkpoint names the settings that it was made with. Under others it is as good as none: weights fit only
the code, the tokenizers and the plan that they were trained by.
"""

import hashlib
import inspect
import math
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lockstep_export.errors import NotTrainedError
from lockstep_zoo.recipe import Recipe, Training

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class TrainingJob:
    """What is to be trained, and where its checkpoint lies."""

    recipe: Recipe
    vocabularies: tuple[int, ...]
    tokenizers: str  # digest of their files: weights fit the ids that they were trained on
    checkpoint: Path

    def build(self) -> nn.Module:
        """A new module, with weights by chance."""
        return self.recipe.build(*self.vocabularies)

    def settings(self) -> dict[str, Any]:
        """What two checkpoints must share for one to go on from the other."""
        with torch.random.fork_rng(devices=()):  # building draws, and what trains must not notice
            code = _code(self.build())
        return {
            "code": code,
            "vocabularies": self.vocabularies,
            "tokenizers": self.tokenizers,
            **asdict(self.recipe.training),
        }


@dataclass
class Progress:
    """How far a training has come; together with the fit's own state it is the checkpoint."""

    epoch: int = 0
    loss: float = 0.0
    quality: float = -math.inf
    best_epoch: int = 0
    best_quality: float = -math.inf
    seconds: float = 0.0  # of processor time: a shared machine's pauses do not count
    best: Weights = field(default_factory=dict)

    def finished(self, plan: Training) -> bool:
        """True when the last epoch is done or the dev part has stopped getting better."""
        return self.epoch >= plan.epochs or self.epoch - self.best_epoch >= plan.patience


def load_trained(job: TrainingJob) -> tuple[nn.Module, Progress]:
    """The best module that training has left at the job's checkpoint, in evaluation mode."""
    saved = load(job)
    if saved is None:
        name = job.recipe.name
        raise NotTrainedError(
            f"no fitting weights in {job.checkpoint}: run `lockstep-export train {name} --data DIR`"
        )
    progress = Progress(**saved["progress"])
    module = job.build()
    module.load_state_dict(progress.best)
    return module.eval(), progress


def load(job: TrainingJob) -> dict[str, Any] | None:
    """The checkpoint, or None where there is none or it was made with other settings."""
    if not job.checkpoint.is_file():
        return None
    saved: dict[str, Any] = torch.load(job.checkpoint)
    return saved if saved["settings"] == job.settings() else None


def save(job: TrainingJob, fit: dict[str, Any], progress: Progress) -> None:
    """Writes the checkpoint whole or not at all; `fit` is the state of what trains."""
    job.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    partial = job.checkpoint.with_suffix(".partial")
    torch.save({"settings": job.settings(), "fit": fit, "progress": asdict(progress)}, partial)
    partial.replace(job.checkpoint)


def _code(module: nn.Module) -> str:
    """A digest of the files that define the parts of `module`: weights of an edited one are not its own.
    What stands from the recipe on does not count: the plan has been compared, and words train nothing."""
    own = {type(part).__module__ for part in module.modules()}
    files = sorted(name for name in own if name.startswith("lockstep_export."))
    sources = "".join(inspect.getsource(sys.modules[name]).partition("\nRECIPE = ")[0] for name in files)
    return hashlib.sha256(sources.encode()).hexdigest()
