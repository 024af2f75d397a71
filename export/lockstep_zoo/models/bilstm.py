"""Two bidirectional LSTM layers: each word is read with its left-hand and right-hand context.

    e_t = E[token_t]                                       E [vocabulary, 128]
    →h_t, ←h_t = LSTM(e)  twice, 128 in each direction     ←h starts at the row's last real word
    vector = [→h_T, ←h_1]                                  the end of each direction, [256]
    logits = W vector + b                                  W [2, 256]

"Went to the bank to deposit" and "sat by the river bank" need the right-hand context.
"""

import torch
from torch import Tensor, nn

from lockstep_export.recurrent import Packed
from lockstep_zoo.recipe import ClassifierRecipe, Outputs, Training

EMBEDDING, HIDDEN = 128, 128


class BiLSTMClassifier(nn.Module):
    """tokens [batch, words], lengths [batch] → logits [batch, 2], vector [batch, 256]."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, EMBEDDING)
        self.spread = nn.Dropout(0.5)
        self.lower = Packed("LSTM", EMBEDDING, HIDDEN, bidirectional=True)
        self.between = nn.Dropout(0.3)
        self.upper = Packed("LSTM", 2 * HIDDEN, HIDDEN, bidirectional=True)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(2 * HIDDEN, 2))
        nn.init.normal_(self.embedding.weight, std=0.1)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Outputs:
        embedded = self.spread(self.embedding(tokens.T))  # [words, batch, 128]
        states, _ = self.lower(embedded, lengths)  # [words, batch, 256]
        _, (last, _) = self.upper(self.between(states), lengths)  # [2, batch, 128]
        vector = torch.cat((last[0], last[1]), dim=1)  # [batch, 256]
        return {"logits": self.head(vector), "vector": vector}


RECIPE = ClassifierRecipe(
    name="sentiment-bilstm",
    about="Two bidirectional LSTM layers of 128, last real state of each direction",
    build=BiLSTMClassifier,
    training=Training(learning_rate=0.002, word_dropout=0.25),
    activation="softmax",
    companion="lengths",
    outputs=("logits", "vector"),
    limits=(
        "One-shot only: the backward direction starts at the last word.",
        "Slightly below the 80.5 published for a bag of words, a difference that is not significant here: "
        "6,920 sentences are few for 1.7 million weights.",
    ),
)
