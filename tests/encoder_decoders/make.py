# mypy: ignore-errors
"""Makes `graphs.tar.xz` and `expected.json`: tiny encoder-decoders, exported by optimum, and what the method
`generate` of transformers answers.

Configurations → random models → `optimum` → NAME/{encoder_model,decoder_model,decoder_with_past_model}.onnx
and NAME-merged/decoder_model_merged.onnx → graphs.tar.xz
random sources → `model.generate` in PyTorch, in each of `WAYS` → expected.json

It runs in an environment of its own, because optimum wants an older transformers than this project:

    python -m venv build/optimum
    build/optimum/bin/pip install optimum-onnx==0.1.0 'transformers==4.57.*' onnxruntime==1.32.0 torch==2.13.0
    build/optimum/bin/python tests/encoder_decoders/make.py
"""

from __future__ import annotations

import json
import random
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from optimum.exporters.onnx import onnx_export_from_model

HERE = Path(__file__).parent
VOCABULARY, POSITIONS, TOKENS = 48, 64, 20
SOURCE_LENGTHS = (1, 2, 3, 4, 6, 8, 9, 12, 15, 16, 17, 20, 25, 30, 33, 41)
SHARPNESS = 3.0  # factor of all matrices, so that greedy texts do not repeat one id

BOTH = dict(  # noqa: C408
    vocab_size=VOCABULARY, max_position_embeddings=POSITIONS, d_model=16, encoder_layers=1, decoder_layers=2,
    encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
)  # fmt: skip
MODELS = {
    "marian": (
        hf.MarianMTModel,
        hf.MarianConfig(
            pad_token_id=47, eos_token_id=0, decoder_start_token_id=47, forced_eos_token_id=0, **BOTH
        ),
        {"bad_words_ids": [[47]]},
    ),
    "t5": (
        hf.T5ForConditionalGeneration,
        hf.T5Config(
            vocab_size=VOCABULARY, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_decoder_layers=2,
            num_heads=4, feed_forward_proj="gated-gelu", decoder_start_token_id=0, pad_token_id=0,
            eos_token_id=1, tie_word_embeddings=False,
        ),
        {"eos_token_id": [1, 9], "suppress_tokens": [20, 21], "begin_suppress_tokens": [1, 9, 30]},
    ),
    "bart": (
        hf.BartForConditionalGeneration,
        hf.BartConfig(
            pad_token_id=1, bos_token_id=0, eos_token_id=2, decoder_start_token_id=2, forced_bos_token_id=0,
            forced_eos_token_id=2, **BOTH,
        ),
        {},
    ),
}  # fmt: skip
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "repetition": {"repetition_penalty": 1.7},
    "no_repeat": {"no_repeat_ngram_size": 2},
    "min_tokens": {"min_new_tokens": 12},
    "beams": {"num_beams": 4, "num_return_sequences": 4},
    "short_beams": {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.0, "early_stopping": True},
    "long_beams": {"num_beams": 2, "length_penalty": 2.0, "no_repeat_ngram_size": 3},
}


def generate(model: Any, source: list[int], options: dict[str, Any]) -> list[Any]:
    """The texts, without the ids before and after them; of beams, with their scores."""
    found = model.generate(
        torch.tensor([source]), do_sample=False, max_new_tokens=TOKENS, return_dict_in_generate=True,
        output_scores=True, **options,
    )  # fmt: skip
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    texts: list[list[int]] = []
    for row in found.sequences.tolist():
        end = next((place for place, token in enumerate(row) if place and token in ends), len(row))
        texts.append(row[1:end])
    if options.get("num_beams", 1) == 1:
        return texts
    scores = [round(score, 6) for score in found.sequences_scores.tolist()]
    return [[text, score] for text, score in zip(texts, scores, strict=True)]


def main() -> None:
    expected: dict[str, Any] = {}
    models = {}
    for name, (kind, config, generation) in MODELS.items():
        torch.manual_seed(5)
        model = models[name] = kind(config).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.mul_(SHARPNESS)
        for key, value in generation.items():
            setattr(model.generation_config, key, value)
        rng = random.Random(name)
        sources = [[rng.randrange(3, 46) for _ in range(length)] for length in SOURCE_LENGTHS]
        expected[name] = {"sources": sources}
        for way, options in WAYS.items():
            expected[name][way] = [generate(model, source, options) for source in sources]
    (HERE / "expected.json").write_text(json.dumps(expected, separators=(",", ":")) + "\n")
    with (
        tempfile.TemporaryDirectory() as made,
        tarfile.open(HERE / "graphs.tar.xz", "w:xz", preset=9) as archive,
    ):
        for name, model in models.items():  # last: the export changes the model, and transformers
            folder = Path(made) / name
            onnx_export_from_model(
                model, folder, task="text2text-generation-with-past", do_validation=False, monolith=False
            )
            for file in sorted(folder.glob("*.onnx")):
                merged = "-merged" if "merged" in file.name else ""
                archive.add(file, f"{name}{merged}/{file.name}")


if __name__ == "__main__":
    main()
