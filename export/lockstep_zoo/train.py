"""Fits one recipe to one lesson: seeded, stopped by the dev part, resumed where it was interrupted.

What is kept is the running mean of the weights at the epoch with the best dev part, rounded to float16
numbers (still computed with in float32): the shipped file then holds exactly the weights that were measured.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lockstep_zoo.checkpoint import Progress, TrainingJob, load, save
from lockstep_zoo.progress import Bars, Watch, no_progress, unwatched
from lockstep_zoo.recipe import Recipe, Training
from lockstep_zoo.training_task import TrainingTask

LOWEST_RATE = 0.02  # of the highest, where the rate declines

Report = Callable[[str], None]


class Fit:
    """One model being trained; `run_epoch` is the unit of work between two checkpoints."""

    def __init__(self, job: TrainingJob, lesson: TrainingTask) -> None:
        self.plan = job.recipe.training
        torch.manual_seed(self.plan.seed)
        self.job = job
        self.module = job.build()
        lesson.begin(self.module)
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(),
            lr=self.plan.learning_rate,
            betas=(0.9, self.plan.second_moment),
            weight_decay=self.plan.weight_decay,
        )
        decay = get_ema_multi_avg_fn(self.plan.averaging)  # type: ignore[no-untyped-call]
        self.mean = AveragedModel(self.module, multi_avg_fn=decay)
        self.chance = torch.Generator().manual_seed(self.plan.seed)

    def run_epoch(self, lesson: TrainingTask, done: int, watch: Watch = unwatched) -> float:
        """One pass after `done` others; returns the mean loss."""
        self.module.train()
        total, count = 0.0, lesson.count()
        for index, batch in enumerate(lesson.batches(self.chance)):
            self._set_rate(done + index / count)
            total += self._step(lesson, batch)
            watch((index + 1) / count, total / (index + 1))
        return total / count

    def rounded(self) -> nn.Module:
        """A copy of the running mean whose weights are float16 numbers."""
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

    def _step(self, lesson: TrainingTask, batch: Any) -> float:
        half = self.plan.bfloat16 and _has_bfloat16()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = lesson.loss(self.module, batch, self.chance)
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


def train(job: TrainingJob, lesson: TrainingTask, report: Report, bars: Bars = no_progress) -> Progress:
    """Trains until the lesson's quality gets no better, and leaves a checkpoint after every epoch."""
    fit = Fit(job, lesson)
    progress = _resume(job, fit, lesson, report)
    while not progress.finished(fit.plan):
        with bars(_head(job.recipe, progress, lesson)) as watch:
            advance(fit, progress, lesson, watch)
        save(job, fit.state(), progress)
        report(_line(job.recipe, progress, lesson))
    return progress


def advance(fit: Fit, progress: Progress, lesson: TrainingTask, watch: Watch = unwatched) -> None:
    """One more epoch, measured and remembered if it is the best so far."""
    started = time.process_time()
    progress.loss = fit.run_epoch(lesson, progress.epoch, watch)
    module = fit.rounded()
    progress.quality = lesson.quality(module)
    progress.epoch += 1
    progress.seconds += time.process_time() - started
    if progress.quality > progress.best_quality or not progress.best:
        progress.best_epoch, progress.best_quality = progress.epoch, progress.quality
        progress.best = module.state_dict()


def _has_bfloat16() -> bool:
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


def _line(recipe: Recipe, progress: Progress, lesson: TrainingTask) -> str:
    now, best = lesson.tell(progress.quality), lesson.tell(progress.best_quality)
    return (
        f"{recipe.name}  epoch {progress.epoch}/{recipe.training.epochs}  loss {progress.loss:.3f}  "
        f"dev {now} (best {best})  {progress.seconds:.0f} s"
    )


def _head(recipe: Recipe, progress: Progress, lesson: TrainingTask) -> str:
    dev = f"  dev {lesson.tell(progress.quality)}" if progress.epoch else ""
    return f"{recipe.name}  epoch {progress.epoch + 1}/{recipe.training.epochs}{dev}"


def _resume(job: TrainingJob, fit: Fit, lesson: TrainingTask, report: Report) -> Progress:
    saved = load(job)
    if saved is None:
        return Progress()
    fit.restore(saved["fit"])
    progress = Progress(**saved["progress"])
    best = lesson.tell(progress.best_quality)
    report(f"{job.recipe.name}  {progress.epoch} epochs were done before, best dev {best}")
    return progress
