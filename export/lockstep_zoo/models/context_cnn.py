"""Context CNN: predicts the next word from the last three words.

    e_t = E[word_t]                                  E [vocabulary, 160]; zero before the first word
    x_t = tanh(W₀ e_{t-2} + W₁ e_{t-1} + W₂ e_t + b) one Conv1d over three words, [160]
    logits_t = E x_t + b'                            P(next word) = softmax(logits); E is input and output

Order matters within the window ("dog bites man", "man bites dog"), and nothing before it has an effect. In
steps, the last two embeddings are the state of `ContextCNNStep`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lockstep_export.recurrent import States
from lockstep_zoo.captions.tokenizer import UNKNOWN_ID
from lockstep_zoo.recipe import LanguageModelRecipe, Outputs, Training

WIDTH, WINDOW, DROPOUT = 160, 3, 0.25
KEPT = WINDOW - 1
UNWRITABLE = -50.0  # bias of the unknown word: it may be read but is never generated


class ContextCNN(nn.Module):
    """tokens [batch, words], lengths [batch], the window so far [2, batch, 160]
    → logits [words, batch, vocabulary] after each of them, the last real window."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, WIDTH)
        self.filters = nn.Conv1d(WIDTH, WIDTH, WINDOW)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self.dropout = nn.Dropout(DROPOUT)
        nn.init.normal_(self.embedding.weight, std=WIDTH**-0.5)
        with torch.no_grad():
            self.bias[UNKNOWN_ID] = UNWRITABLE

    def forward(self, tokens: Tensor, lengths: Tensor, states: States = ()) -> tuple[Tensor, States]:
        x = self.dropout(self.embedding(tokens.T))  # [words, batch, 160]
        x = torch.cat((states[0], x)) if states else functional.pad(x, (0, 0, 0, 0, KEPT, 0))
        return self.score(self.dropout(self.look(x))), (self.window(x, lengths),)

    def look(self, x: Tensor) -> Tensor:
        """[2 + words, batch, 160] → output of the filters at each word [words, batch, 160]."""
        return torch.tanh(self.filters(x.permute(1, 2, 0))).permute(2, 0, 1)

    def window(self, x: Tensor, lengths: Tensor) -> Tensor:
        """The last two real elements of x [2 + words, batch, 160]: [2, batch, 160]."""
        last = lengths + torch.arange(KEPT)[:, None]  # [2, batch]
        return x.gather(0, last[:, :, None].expand(-1, -1, WIDTH))

    def score(self, x: Tensor) -> Tensor:
        """[..., 160] → logits [..., vocabulary]."""
        return functional.linear(x, self.embedding.weight, self.bias)


class Window(nn.Module):
    """The filters over one window as one product; the bits of a row do not depend on the batch.

    Conv1d's weight [160, 160, 3] is stored as [160, 3 × 160] in every graph, so that the graphs share it."""

    weight: Tensor

    def __init__(self, trained: nn.Module) -> None:
        super().__init__()
        assert isinstance(trained, ContextCNN)
        self.trained = trained
        weight = trained.filters.weight.detach().permute(0, 2, 1).flatten(1)
        self.register_buffer("weight", weight.contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """The three words of each window, x [3, windows, 160] → logits [windows, vocabulary]."""
        window = x.transpose(0, 1).flatten(1)  # [windows, 3 × 160]
        found = torch.tanh(functional.linear(window, self.weight, self.trained.filters.bias))
        return self.trained.score(found)


class ContextCNNOneShot(nn.Module):
    """tokens [batch, prompt] → logits [batch, prompt, vocabulary] after each word. Windows look back only,
    so that padding after a text affects none of its words."""

    def __init__(self, trained: nn.Module) -> None:
        super().__init__()
        self.window = Window(trained)

    def forward(self, tokens: Tensor) -> Outputs:
        x = functional.pad(self.window.trained.embedding(tokens.T), (0, 0, 0, 0, KEPT, 0))
        windows = torch.stack((x[:-2], x[1:-1], x[2:]))  # [3, prompt, batch, 160]
        logits = self.window(windows.flatten(1, 2)).unflatten(0, tokens.T.shape)
        return {"logits": logits.transpose(0, 1)}


class ContextCNNPrefill(nn.Module):
    """tokens [batch, prompt], lengths [batch] → logits [batch, vocabulary] after the last real word,
    window0 [2, batch, 160]. Only the last three words of a prompt have an effect."""

    def __init__(self, trained: nn.Module) -> None:
        super().__init__()
        self.window = Window(trained)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Outputs:
        trained = self.window.trained
        x = functional.pad(trained.embedding(tokens.T), (0, 0, 0, 0, KEPT, 0))
        kept = trained.window(x, lengths)
        before = x.gather(0, (lengths - 1)[None, :, None].expand(-1, -1, WIDTH))  # [1, batch, 160]
        return {"logits": self.window(torch.cat((before, kept))), "window0": kept}


class ContextCNNStep(nn.Module):
    """token [batch], window_in [2, batch, 160] → logits [batch, vocabulary], window_out."""

    def __init__(self, trained: nn.Module) -> None:
        super().__init__()
        self.window = Window(trained)

    def forward(self, token: Tensor, window_in: Tensor) -> Outputs:
        x = torch.cat((window_in, self.window.trained.embedding(token)[None]))  # [3, batch, 160]
        return {"logits": self.window(x), "window_out": x[1:]}


RECIPE = LanguageModelRecipe(
    name="captions-context-cnn",
    about="One Conv1d over three words that writes captions; nothing reaches past its window",
    build=ContextCNN,
    training=Training(
        learning_rate=0.004,
        weight_decay=0.0,
        rows=64,
        epochs=8,
        averaging=0.998,
        word_dropout=0.02,
        declines=True,
        bfloat16=True,
    ),
    corpus="captions",
    step=ContextCNNStep,
    prefill=ContextCNNPrefill,
    states={"window": (KEPT, WIDTH)},
    oneshot=ContextCNNOneShot,
    max_tokens=60,
    limits=("It knows only the last three words: it repeats or contradicts what it wrote before them.",),
)
