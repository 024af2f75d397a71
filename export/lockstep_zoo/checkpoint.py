"""The checkpoint that training writes after every epoch; training resumes from it and the export reads it.

A checkpoint holds the settings that it was made with and is ignored under other settings: weights fit only
the code, the tokenizers and the hyperparameters that they were trained with.
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
    """A model to train and the place of its checkpoint."""

    recipe: Recipe
    vocabularies: tuple[int, ...]
    tokenizers: str  # digest of their files: weights fit only the ids that they were trained on
    checkpoint: Path

    def build(self) -> nn.Module:
        """A new module with random weights."""
        return self.recipe.build(*self.vocabularies)

    def settings(self) -> dict[str, Any]:
        """The settings that must be equal for one training to resume from the checkpoint of another."""
        with torch.random.fork_rng(devices=()):  # building draws random numbers; training must not notice
            code = _code(self.build())
        return {
            "code": code,
            "vocabularies": self.vocabularies,
            "tokenizers": self.tokenizers,
            **asdict(self.recipe.training),
        }


@dataclass
class Progress:
    """The state of a training; with the state of `Fit` it makes up the checkpoint."""

    epoch: int = 0
    loss: float = 0.0
    quality: float = -math.inf
    best_epoch: int = 0
    best_quality: float = -math.inf
    seconds: float = 0.0  # processor time, so that pauses of a shared machine do not count
    best: Weights = field(default_factory=dict)

    def finished(self, plan: Training) -> bool:
        """True after the last epoch, or if the dev figure has not improved for `patience` epochs."""
        return self.epoch >= plan.epochs or self.epoch - self.best_epoch >= plan.patience


def load_trained(job: TrainingJob) -> tuple[nn.Module, Progress]:
    """The best module at the job's checkpoint, in evaluation mode."""
    saved = load(job)
    if saved is None:
        name = job.recipe.name
        raise NotTrainedError(
            f"no matching weights in {job.checkpoint}: run `lockstep-export train {name} --data DIR`"
        )
    progress = Progress(**saved["progress"])
    module = job.build()
    module.load_state_dict(progress.best)
    return module.eval(), progress


def load(job: TrainingJob) -> dict[str, Any] | None:
    """The checkpoint; None if there is none or it was made with other settings."""
    if not job.checkpoint.is_file():
        return None
    saved: dict[str, Any] = torch.load(job.checkpoint)
    return saved if saved["settings"] == job.settings() else None


def save(job: TrainingJob, fit: dict[str, Any], progress: Progress) -> None:
    """Writes the checkpoint atomically; `fit` is the state of `Fit`."""
    job.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    partial = job.checkpoint.with_suffix(".partial")
    torch.save({"settings": job.settings(), "fit": fit, "progress": asdict(progress)}, partial)
    partial.replace(job.checkpoint)


def _code(module: nn.Module) -> str:
    """A digest of the files that define the parts of `module`: edited code invalidates the weights. Recipes
    do not count: their hyperparameters are compared separately, and the rest does not affect training."""
    names = {type(part).__module__ for part in module.modules()}
    files = sorted(name for name in names if name.startswith(("lockstep_export.", "lockstep_zoo.")))
    sources = "".join(inspect.getsource(sys.modules[name]).partition("\nRECIPE = ")[0] for name in files)
    return hashlib.sha256(sources.encode()).hexdigest()
