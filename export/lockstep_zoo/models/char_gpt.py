"""Character GPT: a decoder Transformer of four layers that predicts the next character.

    x_t = E[token_t]                                   E [characters, 128]; it has no positions of its own
    A = softmax(Q Kᵀ / √32 − s_h (t − j)),  j ≤ t      4 heads of 32; Q, K, V linear in norm(x)
    x = x + O [A V]                                    residual around attention
    x = x + W₂ gelu(W₁ norm(x))                        residual around the feed-forward part, 512 wide
    logits = W norm(x) + b                             P(next character) = softmax(logits)

A head's slope s_h, 1/4, 1/16, 1/64 or 1/256, counts for each character of distance (Press et al. 2022), so
that a text may be longer than those of training. What it looks at, the keys and values of all characters
so far, is the state of the model: a cache of 4 KiB for each character, where the LSTM keeps 2 KiB in all.

The caches are [batch, heads, past, 32], and a step adds one element at the end of `past`. It returns that
element alone, and attends to it and to the cache apart, so that no step copies the cache. `CharGPTPrefill`
reads a whole prompt, `CharGPTStep` one character of each row; both share the weights of the trained module.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from lockstep_export.recurrent import States
from lockstep_zoo.models.char_lstm import UNWRITABLE
from lockstep_zoo.recipe import LanguageModelRecipe, Outputs, Training
from lockstep_zoo.shakespeare.tokenizer import UNKNOWN_ID

WIDTH, LAYERS, HEADS, FEED_FORWARD = 128, 4, 4, 512
QUICK_LAYERS = 1
HEAD = WIDTH // HEADS
DROPOUT = 0.1
START = 0.02  # standard deviation of new embeddings
FORBIDDEN = -1e9  # added to the score of what must not be looked at
SLOPES = tuple(4.0 ** -(1 + head) for head in range(HEADS))


class DecoderLayer(nn.Module):
    """x [batch, characters, 128] → x. The caches hold what the characters of `x` may look back to."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.wide, self.narrow = nn.Linear(WIDTH, FEED_FORWARD), nn.Linear(FEED_FORWARD, WIDTH)
        self.dropout = nn.Dropout(DROPOUT)
        with torch.no_grad():
            for last in (self.out, self.narrow):
                last.weight.mul_((2 * LAYERS) ** -0.5)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of each character: [batch, heads, characters, 32]."""
        x = self.before(x)
        query, key, value = (
            part(x).reshape(x.shape[0], x.shape[1], HEADS, HEAD).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        return query * HEAD**-0.5, key, value

    def finish(self, x: Tensor, found: Tensor) -> Tensor:
        """x with what the heads found [batch, heads, characters, 32], and the feed-forward part."""
        x = x + self.dropout(self.out(found.transpose(1, 2).flatten(2)))
        wide = functional.gelu(self.wide(self.between(x)))
        after: Tensor = x + self.dropout(self.narrow(wide))
        return after


class CharGPT(nn.Module):
    """tokens [batch, characters] → logits [characters, batch, vocabulary] after each of them, no states.
    Lengths and states are those of recurrent models: a text begins without a past."""

    slopes: Tensor  # [heads, 1, 1]

    def __init__(self, vocabulary: int, layers: int = LAYERS) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, WIDTH)
        self.dropout = nn.Dropout(DROPOUT)
        self.layers = nn.ModuleList(DecoderLayer() for _ in range(layers))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, vocabulary)
        self.register_buffer("slopes", torch.tensor(SLOPES)[:, None, None], persistent=False)
        nn.init.normal_(self.embedding.weight, std=START)
        with torch.no_grad():
            self.head.bias[UNKNOWN_ID] = UNWRITABLE

    def forward(
        self, tokens: Tensor, lengths: Tensor | None = None, states: States = ()
    ) -> tuple[Tensor, States]:
        del lengths, states
        return self.head(self.norm(self.read(tokens)[0])).transpose(0, 1), ()

    def read(self, tokens: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """x [batch, characters, 128] after the last layer, and the key and value of each layer."""
        at = torch.arange(tokens.shape[1])
        apart = at[None, :] - at[:, None]  # [characters, characters]: 0 or less for those that are read
        bias = torch.where(apart > 0, FORBIDDEN, apart * self.slopes)  # [heads, characters, characters]
        x, caches = self.dropout(self.embedding(tokens)), []
        for layer in self.layers:
            assert isinstance(layer, DecoderLayer)
            query, key, value = layer.project(x)
            mask = bias.to(query.dtype)
            found = functional.scaled_dot_product_attention(query, key, value, mask, scale=1.0)
            x = layer.finish(x, found)
            caches.append((key, value))
        return x, caches


class CharGPTStep(nn.Module):
    """token [batch], lengths [batch] of the caches' real elements, caches [batch, heads, past, 32]
    → logits [batch, vocabulary], the new element of each cache [batch, heads, 1, 32]."""

    def __init__(self, trained: nn.Module) -> None:
        super().__init__()
        assert isinstance(trained, CharGPT)
        self.trained = trained

    def forward(self, token: Tensor, lengths: Tensor, **past: Tensor) -> Outputs:
        model = self.trained
        added: Outputs = {}
        at = torch.arange(past["key_0_in"].shape[2])
        apart = (at[None, :] - lengths[:, None])[:, None, None, :]  # [batch, 1, 1, past], below 0 where real
        bias = torch.where(apart < 0, apart * model.slopes, FORBIDDEN)  # [batch, heads, 1, past]
        x = model.embedding(token)[:, None]
        for index, layer in enumerate(model.layers):
            assert isinstance(layer, DecoderLayer)
            query, key, value = layer.project(x)
            earlier = query @ past[f"key_{index}_in"].transpose(2, 3) + bias  # [batch, heads, 1, past]
            own = (query * key).sum(3, keepdim=True)  # [batch, heads, 1, 1]: the character itself
            weights = torch.softmax(torch.cat((earlier, own), dim=3), dim=3)
            found = weights[..., :-1] @ past[f"value_{index}_in"] + weights[..., -1:] * value
            x = layer.finish(x, found)
            added |= {f"key_{index}_new": key, f"value_{index}_new": value}
        return {"logits": model.head(model.norm(x[:, 0])), **added}


class CharGPTPrefill(nn.Module):
    """tokens [batch, prompt], lengths [batch] → logits [batch, vocabulary] after the last real character,
    caches [batch, heads, prompt, 32]. A character looks back only, so padding at the end changes nothing."""

    def __init__(self, trained: nn.Module) -> None:
        super().__init__()
        assert isinstance(trained, CharGPT)
        self.trained = trained

    def forward(self, tokens: Tensor, lengths: Tensor) -> Outputs:
        x, caches = self.trained.read(tokens)
        last = x[torch.arange(x.shape[0]), lengths - 1]  # [batch, 128]
        logits = self.trained.head(self.trained.norm(last))
        named = {
            f"{name}_{index}0": cache
            for index, pair in enumerate(caches)
            for name, cache in zip(("key", "value"), pair, strict=True)
        }
        return {"logits": logits, **named}


def caches(layers: int) -> dict[str, tuple[int, int]]:
    """The caches of the step, by name: heads, and elements of each."""
    return {f"{part}_{layer}": (HEADS, HEAD) for layer in range(layers) for part in ("key", "value")}


RECIPE = LanguageModelRecipe(
    name="shakespeare-gpt",
    about="Character GPT, four layers of 128 with caches; writes like Shakespeare, one character a step",
    build=CharGPT,
    training=Training(
        learning_rate=0.002,
        weight_decay=0.1,
        second_moment=0.99,
        rows=16,
        epochs=12,
        averaging=0.995,
        word_dropout=0.002,
        declines=True,
        bfloat16=True,
    ),
    corpus="tinyshakespeare",
    step=CharGPTStep,
    prefill=CharGPTPrefill,
    states={},
    caches=caches(LAYERS),
    stretch=128,
    max_prompt=2048,
    limits=(
        "It writes words and lines that look like Shakespeare’s but mean little.",
        "2,048 characters at most, prompt and continuation together; it was trained on 128.",
    ),
    quick={"build": partial(CharGPT, layers=QUICK_LAYERS), "caches": caches(QUICK_LAYERS)},
)
