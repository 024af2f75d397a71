"""Trains one recipe on one task: seeded, with early stopping on the dev part, resumed after an interruption.

The result is the running mean of the weights at the best epoch, rounded to float16 numbers (computation stays
in float32), so that the shipped file holds exactly the weights that were measured.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lockstep_client.progress import ProgressDisplay
from lockstep_zoo.checkpoint import Progress, TrainingJob, load, save
from lockstep_zoo.recipe import Recipe, Training
from lockstep_zoo.training_task import TrainingTask

LOWEST_RATE = 0.02  # of the highest, if the rate declines

Report = Callable[[str], None]
EpochUpdate = Callable[[float, float], None]
"""Called with the finished share of the epoch and the mean loss."""


class Fit:
    """A model in training; `run_epoch` is the unit of work between two checkpoints."""

    def __init__(self, job: TrainingJob, task: TrainingTask) -> None:
        self.plan = job.recipe.training
        torch.manual_seed(self.plan.seed)
        self.job = job
        self.module = job.build()
        task.begin(self.module)
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(),
            lr=self.plan.learning_rate,
            betas=(0.9, self.plan.second_moment),
            weight_decay=self.plan.weight_decay,
        )
        decay = get_ema_multi_avg_fn(self.plan.averaging)  # type: ignore[no-untyped-call]
        self.mean = AveragedModel(self.module, multi_avg_fn=decay)
        self.rng = torch.Generator().manual_seed(self.plan.seed)

    def run_epoch(self, task: TrainingTask, done: int, update: EpochUpdate = lambda *_: None) -> float:
        """One pass over the data after `done` others; returns the mean loss."""
        self.module.train()
        total, count = 0.0, task.count()
        for index, batch in enumerate(task.batches(self.rng)):
            self._set_rate(done + index / count)
            total += self._step(task, batch)
            update((index + 1) / count, total / (index + 1))
        return total / count

    def rounded(self) -> nn.Module:
        """A copy of the running mean with its weights rounded to float16 numbers."""
        module = self.job.build()
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
            "chance": self.rng.get_state(),
            "torch": torch.get_rng_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restores the state that `state` returned."""
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.mean.load_state_dict(state["mean"])
        self.rng.set_state(state["chance"])
        torch.set_rng_state(state["torch"])

    def _step(self, task: TrainingTask, batch: Any) -> float:
        half = self.plan.bfloat16 and _has_bfloat16()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = task.loss(self.module, batch, self.rng)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.module.parameters(), self.plan.clip)
        self.optimizer.step()
        self.mean.update_parameters(self.module)
        return loss.item()

    def _set_rate(self, epoch: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.learning_rate * rate(self.plan, epoch)


def rate(plan: Training, epoch: float) -> float:
    """The learning rate as a share of the highest, `epoch` epochs after the start."""
    if not plan.declines:
        return 1.0
    if epoch < 1:
        return max(epoch, 0.01)
    along = min(1.0, (epoch - 1) / max(1, plan.epochs - 1))
    return LOWEST_RATE + (1 - LOWEST_RATE) * (1 + math.cos(math.pi * along)) / 2


def train(job: TrainingJob, task: TrainingTask, report: Report, *, quiet: bool = True) -> Progress:
    """Trains until the dev figure stops improving; writes a checkpoint after every epoch."""
    fit = Fit(job, task)
    progress = _resume(job, fit, task, report)
    while not progress.finished(fit.plan):
        with ProgressDisplay(_head(job.recipe, progress, task), quiet=quiet) as display:

            def update(share: float, loss: float, done: int = progress.epoch) -> None:
                display.update(done + share, float(fit.plan.epochs), f"loss {loss:.3f}")

            advance(fit, progress, task, update)
        save(job, fit.state(), progress)
        report(_line(job.recipe, progress, task))
    return progress


def advance(fit: Fit, progress: Progress, task: TrainingTask, update: EpochUpdate = lambda *_: None) -> None:
    """Runs and measures one more epoch, and keeps its weights if it is the best so far."""
    started = time.process_time()
    progress.loss = fit.run_epoch(task, progress.epoch, update)
    module = fit.rounded()
    progress.quality = task.quality(module)
    progress.epoch += 1
    progress.seconds += time.process_time() - started
    if progress.quality > progress.best_quality or not progress.best:
        progress.best_epoch, progress.best_quality = progress.epoch, progress.quality
        progress.best = module.state_dict()


def _has_bfloat16() -> bool:
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


def _line(recipe: Recipe, progress: Progress, task: TrainingTask) -> str:
    now, best = task.format_quality(progress.quality), task.format_quality(progress.best_quality)
    return (
        f"{recipe.name}  epoch {progress.epoch}/{recipe.training.epochs}  loss {progress.loss:.3f}  "
        f"dev {now} (best {best})  {progress.seconds:.0f} s"
    )


def _head(recipe: Recipe, progress: Progress, task: TrainingTask) -> str:
    dev = f"  dev {task.format_quality(progress.quality)}" if progress.epoch else ""
    return f"{recipe.name}  epoch {progress.epoch + 1}/{recipe.training.epochs}{dev}"


def _resume(job: TrainingJob, fit: Fit, task: TrainingTask, report: Report) -> Progress:
    saved = load(job)
    if saved is None:
        return Progress()
    fit.restore(saved["fit"])
    progress = Progress(**saved["progress"])
    best = task.format_quality(progress.best_quality)
    report(f"{job.recipe.name}  resuming after {progress.epoch} epochs, best dev {best}")
    return progress
