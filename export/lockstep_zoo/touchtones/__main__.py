"""Trains the model on rendered tones, exports both forms and measures them.

    make touchtones     # python -m lockstep_zoo.touchtones --out examples/models

It takes about three minutes on one core. The same seed gives the same data.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from lockstep_client.progress import ProgressDisplay
from lockstep_export import State, Transcribe, Whole
from lockstep_export.forms import ModelForms, export_and_report
from lockstep_export.onnx_graph import OnnxGraph
from lockstep_export.stepwise import stepwise_forms
from lockstep_zoo.touchtones.model import BLANK, HIDDEN, LABELS, TouchTones, TouchTonesStep, read_keys
from lockstep_zoo.touchtones.tones import (
    FEATURES,
    HOP,
    WINDOW,
    Conditions,
    draw_keys,
    frames_of,
    render,
    render_with_places,
)

ROWS, TEST = 16, 500
NAME = "touchtones"
NOISE = {"quiet": -30.0, "usual": -12.0, "loud": -6.0, "louder than trained": 0.0}  # dB, for the figures


class Batch(NamedTuple):
    """16 rendered sequences."""

    frames: Tensor  # [16, longest, 36]
    sizes: Tensor  # [16] frames of each
    targets: Tensor  # the labels of all keys, one sequence after the other
    keys: Tensor  # [16] keys of each
    aligned: Tensor  # [16, longest] the label at the middle of each frame; -1: padding


def batch(rng: np.random.Generator) -> Batch:
    """Sequences that were not drawn before."""
    texts = [draw_keys(rng) for _ in range(ROWS)]
    rows, aligned = [], []
    for text in texts:
        samples, places = render_with_places(text, rng)
        rows.append(torch.from_numpy(frames_of(samples)))
        labels = torch.zeros(len(samples), dtype=torch.int64)
        for key, (start, end) in zip(text, places, strict=True):
            labels[start:end] = LABELS.index(key)
        aligned.append(labels[WINDOW // 2 :: HOP][: len(rows[-1])])
    return Batch(
        pad_sequence(rows, batch_first=True),
        torch.tensor([len(row) for row in rows]),
        torch.tensor([LABELS.index(key) for text in texts for key in text]),
        torch.tensor([len(text) for text in texts]),
        pad_sequence(aligned, batch_first=True, padding_value=-1),
    )


def train(steps: int, seed: int = 1) -> TouchTones:
    """A trained model: first by the label of each frame, which is known of rendered sound and is learned
    quickly, then by CTC, which is free to choose the frame of each key."""
    torch.manual_seed(seed)
    rng, module = np.random.default_rng(seed), TouchTones()
    sample = torch.cat([batch(rng).frames.flatten(0, 1) for _ in range(4)])
    sample = sample[sample.abs().sum(1) > 0]  # without padding
    module.mean.copy_(sample.mean(0))
    module.scale.copy_(1 / sample.std(0))
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.005, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.005, total_steps=steps)
    with ProgressDisplay(NAME) as display:
        for step in range(steps):
            drawn = batch(rng)
            logits = module(drawn.frames, drawn.sizes)["logits"]
            if step < steps // 2:
                loss = functional.cross_entropy(
                    logits.flatten(0, 1), drawn.aligned.flatten(), ignore_index=-1
                )
            else:
                scores = functional.log_softmax(logits, dim=2).transpose(0, 1)
                loss = functional.ctc_loss(scores, drawn.targets, drawn.sizes, drawn.keys, BLANK)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            display.update(step + 1, steps, f"loss {loss.item():.3f}")
    return module.eval()


def forms_of(module: TouchTones) -> ModelForms:
    """What the exporter needs to know: both forms, the state, the labels."""
    frames, sizes = torch.randn(3, 7, FEATURES), torch.tensor([7, 3, 5])
    serving: dict[str, Any] = {
        "task": Transcribe(LABELS, blank=BLANK),
        "longest": 4096,
        "max_padded_elements": 16384,
        "about": "GRU of 64 with CTC: reads the keys of a telephone from frames of sound",
    }
    return stepwise_forms(
        TouchTonesStep(module),
        {"frame": frames[:, 0], "h_in": torch.zeros(1, 3, HIDDEN)},
        axes={"frame": f"batch {FEATURES}", "h_in": f"1 batch {HIDDEN}"},
        states={"h_in": State("h_out", name="h")},
        oneshot=Whole(
            module,
            {"frames": frames, "lengths": sizes},
            axes={"frames": f"batch frames {FEATURES}", "lengths": "batch"},
            lengths="lengths",
        ),
        **serving,
    )


def measure(graph: OnnxGraph, noise_db: float, count: int = TEST) -> dict[str, float]:
    """The share of sequences that are read without an error, and of the keys that are wrong."""
    rng = np.random.default_rng(99)
    conditions = Conditions(noise_db=(noise_db, noise_db))
    exact = wrong = total = 0
    for _ in range(count):
        keys = draw_keys(rng)
        frames = torch.from_numpy(frames_of(render(keys, rng, conditions)))[None]
        logits = graph.run({"frames": frames, "lengths": torch.tensor([frames.shape[1]])})["logits"]
        read = read_keys(logits[0].argmax(1).tolist())
        exact += read == keys
        wrong += edits(read, keys)
        total += len(keys)
    return {"exact": round(exact / count, 4), "key_error_rate": round(wrong / total, 4)}


def edits(one: Sequence[str], other: Sequence[str]) -> int:
    """The fewest insertions, deletions and replacements between two sequences."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="Folder of models.")
    parser.add_argument("--steps", type=int, default=1000, help="Batches of 16 sequences.")
    parser.add_argument(
        "--weights", type=Path, help="File of the trained weights: written, or read if it exists."
    )
    options = parser.parse_args()
    if options.weights and options.weights.is_file():
        module = TouchTones().eval()
        module.load_state_dict(torch.load(options.weights, weights_only=True))
    else:
        module = train(options.steps)
        if options.weights:
            torch.save(module.state_dict(), options.weights)
    folder = options.out / NAME
    export_and_report(forms_of(module), folder)  # proven against PyTorch
    graph = OnnxGraph(folder / "1" / "model.onnx")
    figures = {name: measure(graph, noise_db) for name, noise_db in NOISE.items()}
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    for name, found in figures.items():
        print(f"{name:>20}  exact {found['exact']:.1%}  key error rate {found['key_error_rate']:.2%}")


if __name__ == "__main__":
    main()
