"""LSTM: reads from left to right and answers from the last real state.

    e_t = E[token_t]                       E [vocabulary, 128]
    h_t, c_t = LSTM(e_t, h_{t-1}, c_{t-1}) h, c [64], formulas in lockstep_export.recurrent
    logit = w · relu(V h_T + b) + b'       V [32, 64], T the row's own length, not the padded one

Dropout 0.2 on the last state and harder on the embeddings, which hold nine tenths of the weights.
One logit: P(positive) = σ(logit).
"""

from torch import Tensor, nn

from lockstep_export.recurrent import PackedLSTM
from lockstep_export.zoo.recipe import Output, Outputs, Recipe, Training

EMBEDDING, HIDDEN, DENSE = 128, 64, 32


class LSTMClassifier(nn.Module):
    """tokens [batch, words], lengths [batch] → logits [batch, 1], vector [batch, 64]."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, EMBEDDING)
        self.spread = nn.Dropout(0.5)
        self.recurrence = PackedLSTM(EMBEDDING, HIDDEN)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(HIDDEN, DENSE), nn.ReLU(), nn.Linear(DENSE, 1))
        nn.init.normal_(self.embedding.weight, std=0.1)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Outputs:
        embedded = self.spread(self.embedding(tokens.T))  # [words, batch, 128]
        _, last = self.recurrence(embedded, lengths)
        vector = last.squeeze(0)  # [batch, 64]
        return {"logits": self.head(vector), "vector": vector}


RECIPE = Recipe(
    name="sentiment-lstm",
    about="LSTM of 64, last real state",
    build=LSTMClassifier,
    training=Training(learning_rate=0.002, word_dropout=0.1),
    activation="sigmoid",
    companion="lengths",
    outputs=(Output("logits"), Output("vector")),
)
