"""The words of models/README.md; scores.py fills in the tables and counts."""

from lockstep_zoo.sources import MULTI30K, SST2, TINY_SHAKESPEARE

PAGE_TEXT = """# The shipped models

Each folder stands alone: `README.md` (the model's card), `model.toml` (how the server feeds the graphs), its
tokenizers and `1/`, the graphs: `model.onnx` takes a whole text, `step.onnx` one element of each row and the
states so far, `prefill.onnx` a whole prompt or source and leaves the states to start from. Where a model has
more than one graph they share their weights in `1/weights.bin`.

Every number below is measured on these files with ONNX Runtime. One seed, no vectors or texts from
elsewhere. Dev chose the epoch, and the settings from the few that were tried, so it flatters a little;
nothing was chosen by test, though its scores were seen while settings were tried. Seconds are for one
thread of a shared CPU. Weights are stored as float16 numbers and computed with in float32.

{sections}
## Data

None of it is part of this project. To train and export everything again, put it into a folder as named here
and run `make models DATA=folder`. That command also writes this page, the cards and `accuracy.json`.

{sources}
"""

SENTIMENT = """## Classifiers: sentiment of one English sentence

{table}

Accuracy on {dev:,} dev and {test:,} test sentences after training on {train:,}.
With so many test sentences, two models less than two and a half points apart cannot be told apart. For
scale: published models that, like these, start from no pretrained vectors reach 80.5 (bag of words) and 82.7
(a convolutional network that also trained on labelled phrases; these have seen whole sentences only). All
share one tokenizer. `sentiment-rnn`, `sentiment-gru` and `sentiment-lstm` answer at once or word by word,
with the same answers.

What they make of texts that differ in one thing, as P(positive) of the one / of the other:

{pairs}

`sentiment-bow`, `-tfidf`, `-mean` and `-attention` know no order: the same words in any order are one text to
them, by construction. The convolutions know the order inside of four words only, and a one-directional
network has no right-hand context for what it has read so far. None of them has learnt of dogs or banks.
"""

CHARACTERS = """## Language model: the next character

{table}

Bits (and nats) a character, read by the step graph as one stream from end to end, on {dev:,} dev and
{test:,} test characters after training on {train:,}. Training looks back over stretches of
100 characters, not 40, and carries the states on from one to the next: the model hears longer lines for the
same work. Most of the test part is a play (The Tempest) of which the training part holds nothing, hence the
gap between the two.
"""

WORDS = """## Language models: the next word

{table}

Perplexity (and bits) a word, read by the step graph from the beginning of each caption, on {dev:,} dev and
{test:,} test captions (test_2016_flickr) after training on {train:,}. The end of a caption counts as a word;
the {note} of the test words that are not among the 4,000 of the vocabulary are read as unknown and not
counted. All share one tokenizer and one width. Captions are short: what a recurrent model knows beyond the
last three words is worth the difference to `captions-context-cnn`, which knows nothing else.
"""

TRANSLATION = """## Translator: English to French

{table}

BLEU of greedy translations of {dev:,} dev and {test:,} test captions (test_2016_flickr)
after training on {train:,} pairs, cased and detokenized. sacrebleu signs it
`{note}`.
The encoder is one layer of 192 in each direction and the decoder one of 320, where larger published ones have
512 and two. The true words are fed throughout training, whose products are taken in bfloat16 where the
processor has it.
"""

SECTIONS = {"sst2": SENTIMENT, "tinyshakespeare": CHARACTERS, "captions": WORDS, "multi30k": TRANSLATION}
DATA = (SST2, TINY_SHAKESPEARE, MULTI30K)
