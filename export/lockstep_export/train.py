"""Fits one recipe: seeded, stopped by the dev part, resumed where it was interrupted.

What is kept is the running mean of the weights at the epoch with the best dev accuracy, rounded to float16
numbers (still computed with in float32): the shipped file then holds exactly the weights that were measured.
"""

import hashlib
import inspect
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lockstep_export.batches import Encoded, by_length, inputs_for, shuffled
from lockstep_export.errors import NotTrainedError
from lockstep_export.tokenizer import UNKNOWN_ID
from lockstep_export.zoo.recipe import Recipe

CLIP = 1.0  # largest norm of a step's gradient
EVALUATION_ROWS = 64

Report = Callable[[str], None]
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Job:
    """What is to be trained, and where its checkpoint lies."""

    recipe: Recipe
    vocabulary: int
    tokenizer: str  # digest of tokenizer.json: weights fit the ids that they were trained on
    checkpoint: Path

    def settings(self) -> dict[str, Any]:
        """What two checkpoints must share for one to go on from the other."""
        source = inspect.getsource(sys.modules[self.recipe.build.__module__])
        return {
            "code": hashlib.sha256(
                source.encode()
            ).hexdigest(),  # weights of an edited module are not its own
            "vocabulary": self.vocabulary,
            "tokenizer": self.tokenizer,
            **asdict(self.recipe.training),
        }


@dataclass
class Progress:
    """How far a training has come; together with the fit's own state it is the checkpoint."""

    epoch: int = 0
    loss: float = 0.0
    accuracy: float = 0.0
    best_epoch: int = 0
    best_accuracy: float = 0.0
    seconds: float = 0.0  # of processor time: a shared machine's pauses do not count
    best: Weights = field(default_factory=dict)

    def finished(self, recipe: Recipe) -> bool:
        """True when the last epoch is done or the dev accuracy has stopped rising."""
        plan = recipe.training
        return self.epoch >= plan.epochs or self.epoch - self.best_epoch >= plan.patience


class Fit:
    """One model being trained; `run_epoch` is the unit of work between two checkpoints."""

    def __init__(self, recipe: Recipe, vocabulary: int) -> None:
        torch.manual_seed(recipe.training.seed)
        self.recipe = recipe
        self.vocabulary = vocabulary
        self.module = recipe.build(vocabulary)
        plan = recipe.training
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay
        )
        decay = get_ema_multi_avg_fn(plan.averaging)  # type: ignore[no-untyped-call]
        self.mean = AveragedModel(self.module, multi_avg_fn=decay)
        self.chance = torch.Generator().manual_seed(plan.seed)

    def run_epoch(self, train: Encoded) -> float:
        """One pass over `train`; returns the mean loss per sentence."""
        self.module.train()
        total = 0.0
        for indices in shuffled(train, self.recipe.training.rows, self.chance):
            total += self._step(train, indices) * len(indices)
        return total / len(train.ids)

    def rounded(self) -> nn.Module:
        """A copy of the running mean whose weights are float16 numbers."""
        module = self.recipe.build(self.vocabulary)
        module.load_state_dict(self.mean.module.state_dict())
        with torch.no_grad():
            for weight in module.parameters():
                weight.copy_(weight.half().float())
        return module.eval()

    def state(self) -> dict[str, Any]:
        """Everything that the next epoch depends on."""
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "mean": self.mean.state_dict(),
            "chance": self.chance.get_state(),
            "torch": torch.get_rng_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on exactly where `state` was taken."""
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.mean.load_state_dict(state["mean"])
        self.chance.set_state(state["chance"])
        torch.set_rng_state(state["torch"])

    def _step(self, train: Encoded, indices: list[int]) -> float:
        inputs = inputs_for(self.recipe, [train.ids[index] for index in indices])
        inputs["tokens"] = self._drop_words(inputs["tokens"])
        labels = torch.tensor([train.labels[index] for index in indices])
        loss = loss_of(self.module(**inputs)["logits"], labels)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.module.parameters(), CLIP)
        self.optimizer.step()
        self.mean.update_parameters(self.module)
        return loss.item()

    def _drop_words(self, tokens: Tensor) -> Tensor:
        chosen = torch.rand(tokens.shape, generator=self.chance) < self.recipe.training.word_dropout
        return torch.where(chosen & (tokens != 0), UNKNOWN_ID, tokens)


def train(job: Job, fit_on: Encoded, stop_by: Encoded, report: Report) -> Progress:
    """Trains until `stop_by` gets no better, and leaves a checkpoint behind after every epoch."""
    fit = Fit(job.recipe, job.vocabulary)
    progress = _resume(job, fit, report)
    while not progress.finished(job.recipe):
        advance(fit, progress, fit_on, stop_by)
        _save(job, fit, progress)
        report(_line(job.recipe, progress))
    return progress


def advance(fit: Fit, progress: Progress, fit_on: Encoded, stop_by: Encoded) -> None:
    """One more epoch, measured and remembered if it is the best so far."""
    started = time.process_time()
    progress.loss = fit.run_epoch(fit_on)
    module = fit.rounded()
    progress.accuracy = accuracy(fit.recipe, module, stop_by)
    progress.epoch += 1
    progress.seconds += time.process_time() - started
    if progress.accuracy > progress.best_accuracy or not progress.best:
        progress.best_epoch, progress.best_accuracy = progress.epoch, progress.accuracy
        progress.best = module.state_dict()


def load_trained(job: Job) -> tuple[nn.Module, Progress]:
    """The best module that training has left at the job's checkpoint, in evaluation mode."""
    saved = _load(job)
    if saved is None:
        name = job.recipe.name
        raise NotTrainedError(
            f"no fitting weights in {job.checkpoint}: run `lockstep-export train {name} --data DIR`"
        )
    progress = Progress(**saved["progress"])
    module = job.recipe.build(job.vocabulary)
    module.load_state_dict(progress.best)
    return module.eval(), progress


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of logits [batch, 2], or of one logit [batch, 1] for label 1."""
    if logits.shape[1] == 1:
        return functional.binary_cross_entropy_with_logits(logits[:, 0], labels.float())
    return functional.cross_entropy(logits, labels)


def predicted(logits: Tensor) -> Tensor:
    """Label ids [batch] of logits [batch, 2] or [batch, 1]."""
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(dim=1)


@torch.no_grad()
def accuracy(recipe: Recipe, module: nn.Module, part: Encoded) -> float:
    """The share of `part` that `module` labels rightly."""
    right = 0
    for indices in by_length(part, EVALUATION_ROWS):
        logits = module(**inputs_for(recipe, [part.ids[index] for index in indices]))["logits"]
        right += int((predicted(logits) == torch.tensor([part.labels[index] for index in indices])).sum())
    return right / len(part.ids)


def _line(recipe: Recipe, progress: Progress) -> str:
    return (
        f"{recipe.name}  epoch {progress.epoch}/{recipe.training.epochs}  loss {progress.loss:.3f}  "
        f"dev {progress.accuracy:.1%} (best {progress.best_accuracy:.1%})  {progress.seconds:.0f} s"
    )


def _resume(job: Job, fit: Fit, report: Report) -> Progress:
    saved = _load(job)
    if saved is None:
        return Progress()
    fit.restore(saved["fit"])
    progress = Progress(**saved["progress"])
    report(
        f"{job.recipe.name}  {progress.epoch} epochs were done before, best dev {progress.best_accuracy:.1%}"
    )
    return progress


def _load(job: Job) -> dict[str, Any] | None:
    """The checkpoint, or None where there is none or it was made with other settings."""
    if not job.checkpoint.is_file():
        return None
    saved: dict[str, Any] = torch.load(job.checkpoint)
    return saved if saved["settings"] == job.settings() else None


def _save(job: Job, fit: Fit, progress: Progress) -> None:
    job.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    partial = job.checkpoint.with_suffix(".partial")
    torch.save({"settings": job.settings(), "fit": fit.state(), "progress": asdict(progress)}, partial)
    partial.replace(job.checkpoint)
