"""Vanishing and exploding gradients: how much of a loss at the end reaches the input `distance` steps back.

random x [1, steps, width] → layer → the last state → a linear head → cross entropy
    → |d loss / d x| at each distance from the end, before and after the whole gradient is clipped

The layers are untrained: as PyTorch initialises them, with their gates set to keep (encoders.py), or with
larger recurrent weights. Everything is float64, so that small gradients do not underflow to zero.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional

from lockstep_studies.encoders import KEEP, Attentive, Recurrent
from lockstep_studies.formatting import figures, join_list
from lockstep_studies.study import LineSeries, ReportProgress, Study, StudyPanel, StudySettings, StudyTable

PLAIN, KEEPING = "as drawn", "gates keep"
CLASSES = 2
VANISHED, EXPLODED = 1e-2, 1e2  # gradient at the farthest input relative to that one step back


@dataclass(frozen=True)
class GradientsPlan:
    """Distances, width and number of draws."""

    steps: int = 100
    width: int = 64
    draws: int = 25
    gain: float = 4.0  # factor on PyTorch's initial recurrent weights
    clip: float = 5.0  # largest norm of the whole gradient


@dataclass(frozen=True)
class GradientsRow:
    """One layer: medians over the draws."""

    layer: str
    start: str  # PLAIN, KEEPING, or the factor on the recurrent weights
    gradient: list[float]  # norm at each distance, 0 to steps − 1
    clipped: list[float]  # the same after clipping
    whole: float  # norm over all weights and inputs
    whole_clipped: float

    @property
    def label(self) -> str:
        """The label in charts."""
        return {PLAIN: self.layer, KEEPING: f"keeping {self.layer}"}.get(
            self.start, f"{self.layer}, {self.start}"
        )

    @property
    def large(self) -> bool:
        """True if the recurrent weights were made larger."""
        return self.start not in (PLAIN, KEEPING)

    @property
    def far(self) -> float:
        """The gradient at the farthest input relative to that one step back from the end."""
        return self.gradient[-1] / self.gradient[1]


@dataclass(frozen=True)
class Draw:
    """The result of one backward pass."""

    gradient: Tensor  # [distance]
    clipped: Tensor  # the same after clipping
    whole: float
    whole_clipped: float


def measure(plan: GradientsPlan, settings: StudySettings, progress: ReportProgress) -> list[GradientsRow]:
    """For each layer, the medians over many draws of weights and input."""
    layers = _layers(plan)
    rows = []
    for done, ((layer, start), build) in enumerate(layers.items()):
        progress(done, len(layers), f"{layer}, {start}")
        draws = [backward(build, plan, settings.seed + index) for index in range(plan.draws)]
        rows.append(
            GradientsRow(
                layer,
                start,
                gradient=_medians([draw.gradient for draw in draws]),
                clipped=_medians([draw.clipped for draw in draws]),
                whole=median(draw.whole for draw in draws),
                whole_clipped=median(draw.whole_clipped for draw in draws),
            )
        )
    return rows


def _layers(plan: GradientsPlan) -> dict[tuple[str, str], Callable[[], nn.Module]]:
    width, large = plan.width, f"weights × {plan.gain:g}"
    return {
        ("RNN", PLAIN): lambda: Recurrent("RNN", width),
        ("GRU", PLAIN): lambda: Recurrent("GRU", width),
        ("LSTM", PLAIN): lambda: Recurrent("LSTM", width),
        ("Transformer", PLAIN): lambda: Attentive(width, plan.steps),
        ("GRU", KEEPING): lambda: Recurrent("GRU", width, KEEP),
        ("LSTM", KEEPING): lambda: Recurrent("LSTM", width, KEEP),
        ("RNN", large): lambda: with_gain(Recurrent("RNN", width), plan.gain),
        ("GRU", large): lambda: with_gain(Recurrent("GRU", width), plan.gain),
        ("LSTM", large): lambda: with_gain(Recurrent("LSTM", width), plan.gain),
    }


def with_gain(layer: Recurrent, gain: float) -> Recurrent:
    """Multiplies the layer's recurrent weights in place and returns the layer."""
    with torch.no_grad():
        layer.layer.get_parameter("weight_hh_l0").mul_(gain)
    return layer


def backward(build: Callable[[], nn.Module], plan: GradientsPlan, seed: int) -> Draw:
    """Backpropagates one loss at the end of one sequence, then clips the gradient."""
    torch.manual_seed(seed)
    layer, head = build().double(), nn.Linear(plan.width, CLASSES).double()
    x = torch.randn(1, plan.steps, plan.width, dtype=torch.float64, requires_grad=True)
    loss = functional.cross_entropy(head(layer(x)[:, -1]), torch.randint(CLASSES, (1,)))
    loss.backward()  # type: ignore[no-untyped-call]
    gradient = _by_distance(x)
    # x too: a model's inputs are embeddings, which are weights.
    parts = [x, *layer.parameters(), *head.parameters()]
    whole = nn.utils.clip_grad_norm_(parts, plan.clip).item()
    clipped = nn.utils.get_total_norm([part.grad for part in parts if part.grad is not None]).item()
    return Draw(gradient, _by_distance(x), whole, clipped)


def _by_distance(x: Tensor) -> Tensor:
    assert x.grad is not None
    norms: Tensor = torch.linalg.vector_norm(x.grad[0], dim=1)
    return norms.flip(0)


def _medians(norms: Sequence[Tensor]) -> list[float]:
    values: list[float] = torch.stack(list(norms)).median(dim=0).values.tolist()
    return [float(f"{value:.4g}") for value in values]


def finding(rows: Sequence[GradientsRow]) -> str:
    """Which gradients vanish, which explode, and what clipping changes."""
    return f"{_vanishing(rows)} {_exploding(rows)}"


def _vanishing(rows: Sequence[GradientsRow]) -> str:
    drawn = [row for row in rows if row.start == PLAIN]
    lost = [row for row in drawn if row.far < VANISHED]
    held = [row for row in drawn if row.far >= VANISHED]
    text = [f"shrinks to {_ratios(lost)} of what it was"] if lost else []
    text += [f"stays at {_ratios(held)}"] if held else []
    fate = " and ".join(text)
    return f"From 1 to {len(rows[0].gradient) - 1} steps back the gradient {fate}; {_gates(rows, lost)}."


def _gates(rows: Sequence[GradientsRow], lost: Sequence[GradientsRow]) -> str:
    keeping = [row for row in rows if row.start == KEEPING]
    gated = [row.layer for row in lost if row.layer != "RNN"]
    drawn = (
        f"the {join_list(gated)} lost it in spite of gates"
        if gated
        else "gates held it without special settings"
    )
    held = all(row.far >= VANISHED for row in keeping)
    joint = "but" if held == bool(gated) else "and"
    return f"{drawn}, {joint} gates set to keep {'hold' if held else 'do not hold'} it: {_ratios(keeping)}"


def _exploding(rows: Sequence[GradientsRow]) -> str:
    large = [row for row in rows if row.large]
    burst = [row for row in large if row.far >= EXPLODED]
    calm = [row for row in large if row.far < EXPLODED]
    start = f"With recurrent {large[0].start} it"
    if not burst:
        return f"{start} explodes in no layer, {_ratios(large)}, so clipping has no effect to show."
    grown = join_list([f"{figures(row.far, 2)} times in the {row.layer}" for row in burst])
    spared = f" but not in the {join_list([row.layer for row in calm])}" if calm else ""
    worst = max(burst, key=lambda row: row.whole)
    return (
        f"{start} grows {grown}{spared}; clipping takes the whole gradient of the {worst.layer} from "
        f"{figures(worst.whole, 2)} to {figures(worst.whole_clipped)} and does not change that ratio, "
        "because it multiplies every part by the same number."
    )


def _ratios(rows: Sequence[GradientsRow]) -> str:
    return join_list([f"{figures(row.far, 2)} ({row.layer})" for row in rows])


def table(rows: Sequence[GradientsRow]) -> StudyTable:
    """One row per layer: the gradient at a few distances."""
    last = len(rows[0].gradient) - 1
    shown = [distance for distance in (0, 1, 10, 50) if distance < last] + [last]
    columns = (
        "layer", "start", *(f"at {distance}" for distance in shown), "whole gradient", "whole, clipped",
        f"at {last}, clipped",
    )  # fmt: skip
    return StudyTable(columns, [_cells(row, shown) for row in rows])


def _cells(row: GradientsRow, shown: Sequence[int]) -> tuple[str, ...]:
    norms = (*(row.gradient[distance] for distance in shown), row.whole, row.whole_clipped, row.clipped[-1])
    return (row.layer, row.start, *(figures(norm, 2) for norm in norms))


def panels(rows: Sequence[GradientsRow]) -> list[StudyPanel]:
    """The layers as initialised; larger recurrent weights, with and without clipping."""
    start = [
        LineSeries(
            row.label, _distances(row), row.gradient, variant_of="" if row.start == PLAIN else row.layer
        )
        for row in rows
        if not row.large
    ]
    large = [row for row in rows if row.large]
    gain = [LineSeries(row.label, _distances(row), row.gradient) for row in large]
    gain += [
        LineSeries(f"{row.label}, clipped", _distances(row), row.clipped, variant_of=row.label)
        for row in large
        if row.whole_clipped < row.whole
    ]
    return [_panel("Untrained layers", start), _panel("Larger recurrent weights", gain)]


def _panel(title: str, lines: Sequence[LineSeries]) -> StudyPanel:
    unit = "|d loss / d input| (norm)"
    return StudyPanel(title, "distance from the end (steps)", unit, tuple(lines), marks=False, log_y=True)


def _distances(row: GradientsRow) -> list[float]:
    return [float(distance) for distance in range(len(row.gradient))]


STUDY = Study(
    name="gradients",
    method="Norms of the gradient at the inputs of one untrained layer of width {width} over {steps} random "
    "inputs, medians over {draws} draws of weights and inputs. 'as drawn' is PyTorch's initialisation; with "
    "'gates keep', gate biases of 5 hold the state; larger recurrent weights are {gain} times PyTorch's. "
    "Clipping limits the norm of the whole gradient to {clip}.",
    plan=GradientsPlan(),
    quick=GradientsPlan(steps=40, width=32, draws=5),
    row=GradientsRow,
    measure=measure,
    finding=finding,
    table=table,
    panels=panels,
)
