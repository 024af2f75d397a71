"""The text of models/README.md; scores.py fills in the tables and counts."""

from lockstep_zoo.sources import MULTI30K, SST2, TINY_SHAKESPEARE

PAGE_TEXT = """# The shipped models

Each folder is self-contained: `README.md` (the model card), `model.toml` (the manifest), its tokenizers, and
the graphs in `1/`: `model.onnx` takes a whole text, `step.onnx` one element of each row and the previous
states, `prefill.onnx` a whole prompt or source and returns the initial states. The graphs of one model share
their weights in `1/weights.bin`.

All figures are measured on these files with ONNX Runtime. Training used one seed and no vectors or texts from
other sources. The epoch and the settings were selected on dev, so its figures are slightly optimistic; test
was not used for selection, but its scores were known while settings were tried. Times are for one thread of a
shared CPU. Weights are stored as float16 numbers; computation is in float32.

{sections}
## Data

The data is not part of this project. To train and export all models again, put it into a folder as named here
and run `make models DATA=folder`. The command also writes this page, the model cards and `accuracy.json`.

{sources}
"""

SENTIMENT = """## Classifiers: sentiment of one English sentence

{table}

Accuracy on {dev:,} dev and {test:,} test sentences after training on {train:,}. With this number of test
sentences, a difference below two and a half points between two models is not significant. For comparison:
published models that also use no pretrained vectors reach 80.5 (bag of words) and 82.7 (a convolutional
network that was also trained on labelled phrases; these models are trained on whole sentences only). All
share one tokenizer. `sentiment-rnn`, `sentiment-gru` and `sentiment-lstm` run one-shot or step-wise, word by
word, with the same results.

Minimal pairs, texts that differ in one thing, as P(positive) of the first / of the second:

{pairs}

`sentiment-bow`, `-tfidf`, `-mean` and `-attention` do not know word order: the same words in any order give
the same result, by construction. The convolutions know the order within four words only, and a
one-directional network has no right-hand context. None of them was trained on texts about dogs or banks.
"""

CHARACTERS = """## Language models: the next character

{table}

Bits (and nats) per character, computed by the step graph, on {dev:,} dev and {test:,} test characters after
training on {train:,}. Most of the test part is a play (The Tempest) that is not in the training part, which
explains the difference between the two figures.

The LSTM reads the part in one stream. Training uses stretches of 100 characters, not 40, and carries the
states from one to the next, so that the model sees longer lines at the same cost. The GPT is trained on
stretches of 128 and measured over windows that overlap: {note}. The two are equally good on dev. On the play
of the test part the GPT is slightly better, with nearly three times the weights and half as much training
time again; more of either was not tried.

What a step costs, in CPU time of one thread, and what a stream holds:

| | state of a stream | step of 1 stream | step of 64 streams |
|---|---:|---:|---:|
| `shakespeare-char-lstm`, any context | 2 KiB | 0.05 ms | 0.3 ms |
| `shakespeare-gpt`, 10 characters of context | 40 KiB | 0.30 ms | 2.5 ms |
| 100 characters | 400 KiB | 0.36 ms | 7.2 ms |
| 1,000 characters | 4,000 KiB | 0.95 ms | 68 ms |
"""

WORDS = """## Language models: the next word

{table}

Perplexity (and bits) per word, computed by the step graph from the beginning of each caption, on {dev:,} dev
and {test:,} test captions (test_2016_flickr) after training on {train:,}. The end of a caption counts as a
word; the {note} of the test words that are not among the 4,000 of the vocabulary are replaced by the unknown
word and not counted. All share one tokenizer and one width. Captions are short: what a recurrent model gains
from words before the last three is its difference to `captions-context-cnn`, which knows nothing else.
"""

TRANSLATION = """## Translator: English to French

{table}

BLEU of greedy translations of {dev:,} dev and {test:,} test captions (test_2016_flickr) after training on
{train:,} pairs, cased and detokenized; sacrebleu signature
`{note}`.
The encoder is one layer of 192 in each direction and the decoder one of 320; larger published ones use 512
and two layers. Training uses teacher forcing throughout, with products in bfloat16 if the processor supports
it.
"""

SECTIONS = {"sst2": SENTIMENT, "tinyshakespeare": CHARACTERS, "captions": WORDS, "multi30k": TRANSLATION}
DATA = (SST2, TINY_SHAKESPEARE, MULTI30K)
