"""Translator with additive attention: reads the source in both directions, writes one token at a time.

    e_j = E_s[source_j]                                        E_s [source vocabulary, 256]
    m_j = [→h_j, ←h_j] = LSTM(e)  192 in each direction        the memory, [384]
    k_j = U m_j + b                                            the keys, [192]
    h_0, c_0 = tanh(W_h [→h_S, ←h_1]), W_c [→h_S, ←h_1]        [320]; ←h starts at the last real token

    a_j = softmax_j(v · tanh(W h_{t-1} + k_j))                 over the real tokens, exactly 0 in the padding
    x_t = Σ_j a_j m_j                                          the context, [384]
    h_t, c_t = LSTM([E_t[y_{t-1}], x_t], h_{t-1}, c_{t-1})     E_t [target vocabulary, 256]
    logits = E_t (O [h_t, x_t, E_t[y_{t-1}]] + o) + b'         O [256, 960]; E_t is input and output

Additive attention after Bahdanau, Cho and Bengio 2015. Training uses teacher forcing throughout: it costs
less quality than a plain loop over generated tokens would cost time. `TranslatorPrefill` reads whole sources,
`TranslatorStep` writes one token of each row; both share the weights of the trained module.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lockstep_export.ragged import real
from lockstep_export.recurrent import Packed
from lockstep_zoo.recipe import Outputs, Training, TranslatorRecipe

EMBEDDING, ENCODER, DECODER, KEYS = 256, 192, 320, 192
MEMORY = 2 * ENCODER
EMBEDDING_DROPOUT, MEMORY_DROPOUT, OUTPUT_DROPOUT = 0.3, 0.3, 0.4
NEVER = -1e9  # the energy of padding: its weight is exactly zero in float32

Encoded = tuple[Tensor, Tensor, Tensor, Tensor]  # keys, memory, h0, c0
Written = tuple[Tensor, Tensor, Tensor, Tensor]  # logits, attention, h, c


class Translator(nn.Module):
    """`encode` reads a batch of sources, `step` writes one token of each; `forward` is for training."""

    def __init__(self, source_vocabulary: int, target_vocabulary: int) -> None:
        super().__init__()
        self.source = nn.Embedding(source_vocabulary, EMBEDDING)
        self.target = nn.Embedding(target_vocabulary, EMBEDDING)
        self.reader = Packed("LSTM", EMBEDDING, ENCODER, bidirectional=True)
        self.start_h, self.start_c = nn.Linear(MEMORY, DECODER), nn.Linear(MEMORY, DECODER)
        self.key = nn.Linear(MEMORY, KEYS)
        self.query = nn.Linear(DECODER, KEYS, bias=False)
        self.energy = nn.Linear(KEYS, 1, bias=False)
        self.writer = nn.LSTMCell(EMBEDDING + MEMORY, DECODER)
        self.narrow = nn.Linear(DECODER + MEMORY + EMBEDDING, EMBEDDING)
        self.bias = nn.Parameter(torch.zeros(target_vocabulary))
        self.spread = nn.Dropout(EMBEDDING_DROPOUT)
        self.blur = nn.Dropout(MEMORY_DROPOUT)
        self.thin = nn.Dropout(OUTPUT_DROPOUT)
        for embedding in (self.source, self.target):
            nn.init.normal_(embedding.weight, std=EMBEDDING**-0.5)

    def encode(self, source: Tensor, lengths: Tensor) -> Encoded:
        """source [batch, source], lengths [batch] → keys [batch, source, 192], memory [batch, source, 384],
        h0 and c0 [1, batch, 320]."""
        states, (last, _) = self.reader(self.spread(self.source(source.T)), lengths)
        memory = self.blur(states.transpose(0, 1))  # [batch, source, 384]
        ends = last.transpose(0, 1).flatten(1)  # [batch, 384]
        h, c = (
            self.start_h(ends).tanh(),
            self.start_c(ends).float(),
        )  # the cell accumulates: never in bfloat16
        return self.key(memory), memory, h[None], c[None]

    def step(
        self, token: Tensor, h: Tensor, c: Tensor, keys: Tensor, memory: Tensor, mask: Tensor
    ) -> Written:
        """token [batch], h and c [1, batch, 320], keys, memory, mask [batch, source] (true on real tokens)
        → logits [batch, target vocabulary], attention [batch, source], h, c."""
        embedded = self.target(token)  # [batch, 256]
        weights, context = self.look(h[0], keys, memory, mask)
        state, cell = self.writer(torch.cat((embedded, context), dim=1), (h[0], c[0]))
        return self.write(state, context, embedded), weights, state[None], cell[None]

    def look(self, h: Tensor, keys: Tensor, memory: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """h [batch, 320] → its weights over the source [batch, source] and the context [batch, 384]."""
        energy = self.energy(torch.tanh(keys + self.query(h)[:, None])).squeeze(2)
        weights = torch.softmax(energy.masked_fill(~mask, NEVER), dim=1)
        return weights, torch.matmul(weights[:, None], memory).squeeze(1)

    def write(self, state: Tensor, context: Tensor, embedded: Tensor) -> Tensor:
        """[…, 320], […, 384], […, 256] → logits […, target vocabulary]."""
        narrow = self.narrow(torch.cat((state, context, embedded), dim=-1))
        return functional.linear(self.thin(narrow), self.target.weight, self.bias)

    def forward(self, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """The logits [tokens, batch, target vocabulary] after each token of target [batch, tokens]."""
        keys, memory, h, c = self.encode(source, lengths)
        mask = real(lengths, source.shape[1])
        embedded = self.spread(self.target(target.T))  # [tokens, batch, 256]
        states, contexts = [], []
        state, cell = h[0], c[0]
        for word in embedded:
            _, context = self.look(state, keys, memory, mask)
            state, cell = self.writer(torch.cat((word, context), dim=1), (state, cell))
            states.append(state)
            contexts.append(context)
        return self.write(torch.stack(states), torch.stack(contexts), embedded)


class TranslatorPrefill(nn.Module):
    """source [batch, source], lengths [batch] → the results of `encode`."""

    def __init__(self, trained: nn.Module) -> None:
        super().__init__()
        assert isinstance(trained, Translator)
        self.trained = trained

    def forward(self, source: Tensor, lengths: Tensor) -> Outputs:
        return dict(zip(("keys", "memory", "h0", "c0"), self.trained.encode(source, lengths), strict=True))


class TranslatorStep(nn.Module):
    """`Translator.step` with the products that depend on the token alone as a table: a constant that ONNX
    Runtime computes once, when it loads the graph."""

    def __init__(self, trained: nn.Module) -> None:
        super().__init__()
        assert isinstance(trained, Translator)
        self.trained, self.writer = trained, trained.writer
        weight = self.writer.weight_ih.detach()  # [4 × 320, 256 + 384]
        self.of_piece = nn.Parameter(weight[:, :EMBEDDING].clone())
        self.of_context = nn.Parameter(weight[:, EMBEDDING:].clone())

    def forward(
        self, token: Tensor, h_in: Tensor, c_in: Tensor, keys: Tensor, memory: Tensor, mask: Tensor
    ) -> Outputs:
        table = functional.linear(self.trained.target.weight, self.of_piece, self.writer.bias_ih)
        weights, context = self.trained.look(h_in[0], keys, memory, mask)
        kept = functional.linear(h_in[0], self.writer.weight_hh, self.writer.bias_hh)
        gates = functional.embedding(token, table) + functional.linear(context, self.of_context) + kept
        i, f, g, o = gates.chunk(4, dim=1)
        cell = torch.sigmoid(f) * c_in[0] + torch.sigmoid(i) * torch.tanh(g)
        state = torch.sigmoid(o) * torch.tanh(cell)
        logits = self.trained.write(state, context, self.trained.target(token))
        return {"logits": logits, "attention": weights, "h_out": state[None], "c_out": cell[None]}


RECIPE = TranslatorRecipe(
    name="translate-en-fr",
    about="English to French by LSTMs with additive attention",
    build=Translator,
    training=Training(
        learning_rate=0.002,
        second_moment=0.98,
        rows=96,
        epochs=18,
        word_dropout=0.05,
        averaging=0.999,
        declines=True,
        smoothing=0.1,
        bfloat16=True,
    ),
    step=TranslatorStep,
    prefill=TranslatorPrefill,
    limits=(
        "An unknown word is spelt out or replaced by a known one; the result does not mark this.",
        "Sources have at most 256 tokens.",
        "BLEU is that of greedy translations. The server uses 4 beams (57.3 on the test part), whose text "
        "arrives at once; `beams=1` streams, as does `attention`, which beams have not.",
    ),
)
