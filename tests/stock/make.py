# mypy: ignore-errors
"""Makes the graphs of this folder: tiny models of transformers, exported by optimum.

Configurations → random models → `optimum` → NAME/{*.onnx, config.json, tokenizer.json, …}
              → `model.generate` in PyTorch → NAME/expected.json

It runs in an environment of its own, because optimum wants an older transformers than this project:

    python -m venv build/optimum
    build/optimum/bin/pip install optimum-onnx==0.1.0 'transformers==4.57.*' onnxruntime==1.32.0 torch==2.13.0
    build/optimum/bin/python tests/stock/make.py [NAME …]

`made.json` holds a digest of this file for each model; tests/unit/export/test_stock_graphs.py fails if they
differ. The numbers of the models say nothing about models of useful size.
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch
import transformers as hf
from optimum.exporters.onnx import main_export
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

HERE = Path(__file__).parent
VOCABULARY, POSITIONS = 64, 64
PAD, BEGIN, END, UNKNOWN = range(4)
LETTERS = "abcdefghijklmnopqrstuvwxyz .,"
PROMPT_LENGTHS = (1, 2, 3, 5, 7, 8, 11, 13, 15, 16, 17, 21, 24, 31, 32, 40)
SOURCE_LENGTHS = (1, 2, 3, 4, 6, 8, 9, 12, 15, 16, 17, 20, 25, 30, 33, 41)
TEXTS = ("a", "the dog", "dogs bite men .", "men bite dogs , and then they run .", "a fine film", "b , c")
TOKENS = 24
SMALLEST_MARGIN = 1e-4  # of the best score over the next one: rounding must not decide
DIFFERENT = 5  # ids in some greedy text
SHARPNESS, TIED = 4.0, 4.0  # factors of matrices, so that greedy texts do not repeat one id

SIZE = {"vocab_size": VOCABULARY, "max_position_embeddings": POSITIONS}
ENCODER = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64, **SIZE)
BOTH = dict(
    d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,
    encoder_ffn_dim=64, decoder_ffn_dim=64, pad_token_id=PAD, bos_token_id=BEGIN, eos_token_id=END, **SIZE,
)  # fmt: skip
ENDS = {"bos_token_id": BEGIN, "eos_token_id": END, "tie_word_embeddings": False}  # tied, they repeat one id
GENERATE, TRANSLATE = "text-generation-with-past", "text2text-generation-with-past"
LABELS = {0: "negative", 1: "neutral", 2: "positive"}
TAGS = {0: "O", 1: "B-PER", 2: "I-PER"}

# name: model, configuration, task of optimum, ids around a text, files that are not kept
MODELS = {
    "gpt2": (
        hf.GPT2LMHeadModel,
        hf.GPT2Config(vocab_size=VOCABULARY, n_positions=POSITIONS, n_embd=32, n_layer=2, n_head=4, **ENDS),
        GENERATE, "$A", (),
    ),
    "llama": (
        hf.LlamaForCausalLM,
        hf.LlamaConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, **ENDS, **SIZE,
        ),
        GENERATE, "<s> $A", (),
    ),
    "bloom": (
        hf.BloomForCausalLM,
        hf.BloomConfig(
            vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4, seq_length=POSITIONS, **ENDS
        ),
        GENERATE, "$A", (),
    ),
    "marian": (
        hf.MarianMTModel,
        hf.MarianConfig(decoder_start_token_id=PAD, forced_eos_token_id=END, **BOTH),
        TRANSLATE, "$A </s>", ("decoder_model_merged.onnx",),
    ),
    "t5": (
        hf.T5ForConditionalGeneration,
        hf.T5Config(
            vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_decoder_layers=1,
            num_heads=4, pad_token_id=PAD, decoder_start_token_id=PAD, **ENDS,
        ),
        TRANSLATE, "$A </s>", ("decoder_model.onnx", "decoder_with_past_model.onnx"),
    ),
    "bart": (
        hf.BartForConditionalGeneration,
        hf.BartConfig(decoder_start_token_id=END, forced_bos_token_id=BEGIN, forced_eos_token_id=END, **BOTH),
        TRANSLATE, "<s> $A </s>", ("decoder_model.onnx", "decoder_with_past_model.onnx"),
    ),
    "bert-classifier": (
        hf.BertForSequenceClassification,
        hf.BertConfig(id2label=LABELS, **ENCODER), "text-classification", "<s> $A </s>", (),
    ),
    "bert-tagger": (
        hf.BertForTokenClassification,
        hf.BertConfig(id2label=TAGS, **ENCODER), "token-classification", "<s> $A </s>", (),
    ),
    "sentence-encoder": (
        hf.BertModel, hf.BertConfig(**ENCODER), "feature-extraction", "<s> $A </s>", (),
    ),
}  # fmt: skip


def main() -> None:
    """Makes the named models, or all."""
    torch.set_num_threads(1)
    record = HERE / "made.json"
    made = json.loads(record.read_text()) if record.exists() else {}
    for name in sys.argv[1:] or MODELS:
        make(name)
        made[name] = digest()
    record.write_text(json.dumps(made, indent=1, sort_keys=True) + "\n")


def digest() -> str:
    """Of this file, which the graphs come from."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def make(name: str) -> None:
    """One model: with the first seed whose greedy texts are not decided by rounding."""
    kind, config, task, template, left_out = MODELS[name]
    folder = HERE / name
    tokenizer = tokenizer_of(template)
    for seed in range(100):
        with tempfile.TemporaryDirectory() as source:
            torch.manual_seed(seed)
            sharpened(kind(copy.deepcopy(config))).save_pretrained(source)
            tokenizer.save_pretrained(source)
            model = kind.from_pretrained(source).eval()  # as optimum reads it
            expected = answers(model, task, tokenizer)
            if expected is not None:
                shutil.rmtree(folder, ignore_errors=True)
                main_export(source, folder, task=task, do_validation=False)
                break
    else:
        raise SystemExit(f"{name}: rounding decides with every seed")
    for file in left_out:
        (folder / file).unlink()
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    if task == "feature-extraction":  # as sentence-transformers describes its models
        (folder / "modules.json").write_text(json.dumps(MODULES))
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling/config.json").write_text(json.dumps(POOLING))
    (folder / "expected.json").write_text(json.dumps(expected, separators=(",", ":")) + "\n")
    print(name, "seed", seed, sum(file.stat().st_size for file in folder.glob("*.onnx")), "bytes")


def sharpened(model: torch.nn.Module) -> torch.nn.Module:
    """Random matrices are small: texts would repeat one id. Where the scores use the matrix of the embedding,
    the other matrices must outweigh the id that was read."""
    tied = model.config.tie_word_embeddings
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(
                    SHARPNESS * (TIED if tied and "embed" not in name and "shared" not in name else 1)
                )
    return model


MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]
POOLING = {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}


def tokenizer_of(template: str) -> hf.PreTrainedTokenizerFast:
    """One token per character; fewer tokens than ids, as many real models have."""
    ids = {"<pad>": PAD, "<s>": BEGIN, "</s>": END, "<unk>": UNKNOWN}
    ids |= {letter: index for index, letter in enumerate(LETTERS, start=len(ids))}
    made = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made.decoder = decoders.Fuse()
    if template != "$A":
        ends = [("<s>", BEGIN), ("</s>", END)]
        made.post_processor = processors.TemplateProcessing(template, special_tokens=ends)
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return hf.PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=POSITIONS, **names)


def answers(model: torch.nn.Module, task: str, tokenizer: hf.PreTrainedTokenizerFast) -> object:
    """What PyTorch answers; None if rounding could decide."""
    if task in (GENERATE, TRANSLATE):
        return texts_of(model, sources=task == TRANSLATE)
    found = []
    for text in TEXTS:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            outputs = model(ids, attention_mask=torch.ones_like(ids))
        if task == "feature-extraction":
            vector = outputs.last_hidden_state[0].mean(0)
            found.append({"text": text, "vector": (vector / vector.norm()).tolist()})
        else:
            found.append({"text": text, "probabilities": outputs.logits[0].softmax(-1).tolist()})
    return found


def texts_of(model: torch.nn.Module, sources: bool) -> object:
    """Continuations of prompts, or texts for sources: greedy, and the best of four beams."""
    rng = torch.Generator().manual_seed(5)
    lengths = SOURCE_LENGTHS if sources else (*PROMPT_LENGTHS, POSITIONS - 10, POSITIONS - 1, POSITIONS)
    prompts = [torch.randint(len((PAD, BEGIN, END)), 32, (1, n), generator=rng) for n in lengths]
    found = []
    for prompt in prompts:
        room = POSITIONS + 1 - (1 if sources else prompt.shape[1])  # a target begins with one id
        whole = room if prompt.shape[1] in (POSITIONS - 10, *SOURCE_LENGTHS[:2]) else min(TOKENS, room)
        tokens, margin = generated(model, prompt, sources, whole)
        if margin < SMALLEST_MARGIN:
            return None
        found.append({"prompt": prompt[0].tolist(), "max": whole, "tokens": tokens})
    if max(len(set(item["tokens"])) for item in found) < DIFFERENT:
        return None
    for prompt, item in zip(prompts, found, strict=True):
        count = min(12, item["max"])
        item["beams_of_4"], _ = generated(model, prompt, sources, count, num_beams=4)
    return found


def generated(
    model: torch.nn.Module, prompt: torch.Tensor, sources: bool, count: int, **more: int
) -> tuple[list[int], float]:
    """The new ids, the end included, and the smallest margin of a greedy choice."""
    with torch.no_grad():
        output = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=count,
            pad_token_id=PAD, output_logits=True, return_dict_in_generate=True, **more,
        )  # fmt: skip
    ids = output.sequences[0, 1 if sources else prompt.shape[1] :].tolist()
    if END in ids:
        ids = ids[: ids.index(END) + 1]
    best = [scores[0].topk(2).values for scores in output.logits]
    return ids, min(float(two[0] - two[1]) for two in best)


if __name__ == "__main__":
    main()
