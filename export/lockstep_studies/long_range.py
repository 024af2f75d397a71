"""Long-range dependency: a signal at the first position must be repeated `distance` positions later.

    signal s, then noise  → embedding → layer → state at the last position → linear → which signal?

Signals and noise use different symbols, so only the distance is difficult. A new network is trained for each
layer and distance with the same plan; training stops early after FAULTLESS batches without a mistake.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import mean

import torch
from torch import Tensor, nn
from torch.nn import functional

from lockstep_studies.encoders import KEEP, KERNELS, Attentive, Pooled, Recurrent, Stacked
from lockstep_studies.formatting import join_list
from lockstep_studies.study import Grid, ReportProgress, Study, StudyPanel, StudySettings, StudyTable

SIGNALS = NOISE = 8  # symbols of each kind
SOLVED, GUESSED = 0.95, 0.25  # least accuracy of a solved task; largest that counts as guessing
WINDOWED, WINDOW = "three convolutions", sum(KERNELS) - len(KERNELS)  # positions before the last one
GATED, KEEPING = ("GRU", "LSTM"), "keeping "
FAULTLESS = 20  # consecutive batches without a mistake that end training
EXAMINED = 10_000_000  # offset of the test seeds, far from those of training


@dataclass(frozen=True)
class LongRangePlan:
    """The same for all layers."""

    distances: tuple[int, ...] = (10, 50, 100, 200)
    width: int = 64
    batches: int = 1_000  # at most
    rows: int = 32
    examined: int = 1_000  # sequences
    networks: int = 3  # each with a different seed
    learning_rate: float = 0.003
    clip: float = 1.0


@dataclass(frozen=True)
class LongRangeRow:
    """One layer at one distance."""

    layer: str
    distance: int
    accuracies: list[float]  # of each network, on unseen sequences
    batches: list[int]  # training batches of each network
    seconds: float  # processor time to train and test all networks

    @property
    def accuracy(self) -> float:
        """The mean over the networks."""
        return mean(self.accuracies)


class Repeater(nn.Module):
    """symbols [rows, positions] → scores [rows, signals], from the state at the last position."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(SIGNALS + NOISE, width)
        self.layer = layer
        self.head = nn.Linear(width, SIGNALS)

    def forward(self, symbols: Tensor) -> Tensor:
        scores: Tensor = self.head(self.layer(self.embedding(symbols))[:, -1])
        return scores


def measure(plan: LongRangePlan, settings: StudySettings, progress: ReportProgress) -> list[LongRangeRow]:
    """Trains and tests every network."""
    cells = list(product(_layers(plan), plan.distances))
    rows = []
    for done, (name, distance) in enumerate(cells):
        progress(done, len(cells), f"{name} over {distance}")
        started = time.process_time()
        outcomes = [_network(name, distance, plan, settings.seed + index) for index in range(plan.networks)]
        accuracies, batches = (list(part) for part in zip(*outcomes, strict=True))
        seconds = round(time.process_time() - started, 1)
        rows.append(LongRangeRow(name, distance, accuracies, batches, seconds))
    return rows


def _layers(plan: LongRangePlan) -> dict[str, Callable[[], nn.Module]]:
    width, longest = plan.width, max(plan.distances) + 1
    return {
        "RNN": lambda: Recurrent("RNN", width),
        "GRU": lambda: Recurrent("GRU", width),
        "LSTM": lambda: Recurrent("LSTM", width),
        f"{KEEPING}GRU": lambda: Recurrent("GRU", width, KEEP),
        f"{KEEPING}LSTM": lambda: Recurrent("LSTM", width, KEEP),
        WINDOWED: lambda: Stacked(width, causal=True),
        "TextCNN": lambda: Pooled(width),
        "Transformer": lambda: Attentive(width, longest),
    }


def _network(name: str, distance: int, plan: LongRangePlan, seed: int) -> tuple[float, int]:
    """Returns the accuracy of one network and its number of training batches."""
    torch.manual_seed(seed)
    network = Repeater(_layers(plan)[name](), plan.width)
    batches = train(network, distance, plan, torch.Generator().manual_seed(seed))
    symbols, signals = sequences(plan.examined, distance, torch.Generator().manual_seed(EXAMINED + seed))
    with torch.inference_mode():
        return (network(symbols).argmax(dim=1) == signals).float().mean().item(), batches


def train(network: nn.Module, distance: int, plan: LongRangePlan, rng: torch.Generator) -> int:
    """Trains on new random sequences. Returns the number of batches."""
    optimizer = torch.optim.Adam(network.parameters(), plan.learning_rate)
    in_a_row = 0
    for done in range(1, plan.batches + 1):
        symbols, signals = sequences(plan.rows, distance, rng)
        scores = network(symbols)
        optimizer.zero_grad()
        functional.cross_entropy(scores, signals).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), plan.clip)
        optimizer.step()
        in_a_row = in_a_row + 1 if bool((scores.argmax(dim=1) == signals).all()) else 0
        if in_a_row == FAULTLESS:
            return done
    return plan.batches


def sequences(rows: int, distance: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Returns symbols [rows, distance + 1] that begin with a signal, and the signals [rows]."""
    symbols = torch.randint(SIGNALS, SIGNALS + NOISE, (rows, distance + 1), generator=rng)
    symbols[:, 0] = torch.randint(SIGNALS, (rows,), generator=rng)
    return symbols, symbols[:, 0]


def finding(rows: Sequence[LongRangeRow]) -> str:
    """Which layers repeat the signal up to which distance, and which only guess at the longest."""
    return f"{_solved_distances(rows)} {_failures(rows)}"


def _solved_distances(rows: Sequence[LongRangeRow]) -> str:
    able = {name: _solved(rows, name) for name in _names(rows)}
    reaches = sorted({reach for reach in able.values() if reach}, reverse=True)
    if not reaches:
        return f"No layer repeats the signal {SOLVED:.0%} of the time at any distance."
    text = [
        f"up to {reach} positions by {join_list([name for name, far in able.items() if far == reach])}"
        for reach in reaches
    ]
    return f"Within this budget the signal is repeated at least {SOLVED:.0%} of the time {'; '.join(text)}."


def _failures(rows: Sequence[LongRangeRow]) -> str:
    longest = max(row.distance for row in rows)
    far = {row.layer: row.accuracy for row in rows if row.distance == longest}
    guessing = [name for name, accuracy in far.items() if accuracy <= GUESSED]
    if not guessing:
        return f"At {longest} positions no layer is near the {1 / SIGNALS:.1%} of guessing."
    text = join_list([f"{name} ({far[name]:.1%})" for name in guessing])
    return (
        f"At {longest} positions {text} only guess ({1 / SIGNALS:.1%} is chance){_gates(far)}{_window(rows)}."
    )


def _gates(far: Mapping[str, float]) -> str:
    """What gates contribute in the layers that have them."""
    freed = [name for name in GATED if far[name] <= GUESSED and far[f"{KEEPING}{name}"] >= SOLVED]
    free = [name for name in GATED if far[name] >= SOLVED]
    if freed:
        return (
            f"; the {join_list(freed)} reach that far only if their gates are initialised to keep the state"
        )
    if free:
        return f"; the gates of the {join_list(free)} learned to carry the signal that far"
    return ""


def _window(rows: Sequence[LongRangeRow]) -> str:
    """Whether the convolutions start to guess exactly where their window ends."""
    found = {row.distance: row.accuracy for row in rows if row.layer == WINDOWED}
    seen = [accuracy for distance, accuracy in found.items() if distance <= WINDOW]
    unseen = [accuracy for distance, accuracy in found.items() if distance > WINDOW]
    if seen and unseen and min(seen) >= SOLVED and max(unseen) <= GUESSED:
        return f"; {WINDOWED} see {WINDOW} positions back and not one more"
    return ""


def _solved(rows: Sequence[LongRangeRow], name: str) -> int:
    """The largest distance up to which a layer solves every distance; 0 if it solves none."""
    reach = 0
    for row in sorted((row for row in rows if row.layer == name), key=lambda row: row.distance):
        if row.accuracy < SOLVED:
            break
        reach = row.distance
    return reach


def _names(rows: Sequence[LongRangeRow]) -> list[str]:
    return list(dict.fromkeys(row.layer for row in rows))


def table(rows: Sequence[LongRangeRow]) -> StudyTable:
    """One row per layer: the mean accuracy at each distance, and the lowest if the networks differ."""
    distances = sorted({row.distance for row in rows})
    cells = [
        (name, *(_format(row) for row in mine), f"{sum(row.seconds for row in mine):,.0f}")
        for name in _names(rows)
        if (mine := [row for row in rows if row.layer == name])
    ]
    return StudyTable(("layer", *(f"{distance} positions" for distance in distances), "processor, s"), cells)


def _format(row: LongRangeRow) -> str:
    least = min(row.accuracies)
    spread = f" ({least:.0%})" if max(row.accuracies) - least >= 0.05 else ""
    return f"{row.accuracy:.1%}{spread}"


def panels(rows: Sequence[LongRangeRow]) -> list[StudyPanel]:
    """Accuracy by layer and distance."""
    names, distances = _names(rows), sorted({row.distance for row in rows})
    found = {(row.layer, row.distance): row.accuracy for row in rows}
    shares = [[found[name, distance] for distance in distances] for name in names]
    grid = Grid(names, [f"{distance}" for distance in distances], shares, "accuracy")
    title = f"A signal repeated later ({1 / SIGNALS:.1%} is chance)"
    return [StudyPanel(title, "distance (positions)", "layer", grid=grid)]


STUDY = Study(
    name="long-range",
    method="One layer of width {width} between an embedding and a linear layer, trained separately for each "
    "distance with the same settings for every layer: at most {batches} batches of {rows} new random "
    "sequences, Adam with a learning rate of {learning_rate}, gradients clipped at {clip}, stopped after "
    f"{FAULTLESS} consecutive batches without a mistake. Means over {{networks}} networks (the lowest in "
    f"brackets), each tested on {{examined}} unseen sequences. There are {SIGNALS} signal symbols "
    f"and {NOISE} noise symbols; a keeping layer starts with its gates set to hold its state.",
    plan=LongRangePlan(),
    quick=LongRangePlan(distances=(10, 20), width=16, batches=12, examined=100, networks=2),
    row=LongRangeRow,
    measure=measure,
    finding=finding,
    table=table,
    panels=panels,
)
