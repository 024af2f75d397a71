"""All recipes, by the name of the model in the repository."""

from lockstep_zoo.models import (
    attention,
    bilstm,
    bow,
    char_gpt,
    char_lstm,
    cnn2d,
    context_cnn,
    gru,
    lstm,
    mean,
    next_word,
    rnn,
    textcnn,
    tfidf,
    transformer,
    translator,
)
from lockstep_zoo.recipe import Recipe

RECIPES: tuple[Recipe, ...] = (
    bow.RECIPE,
    tfidf.RECIPE,
    mean.RECIPE,
    rnn.RECIPE,
    gru.RECIPE,
    lstm.RECIPE,
    bilstm.RECIPE,
    textcnn.RECIPE,
    cnn2d.RECIPE,
    attention.RECIPE,
    transformer.RECIPE,
    char_lstm.RECIPE,
    char_gpt.RECIPE,
    next_word.RNN,
    next_word.GRU,
    next_word.LSTM,
    context_cnn.RECIPE,
    translator.RECIPE,
)
ZOO: dict[str, Recipe] = {recipe.name: recipe for recipe in RECIPES}

__all__ = ["ZOO", "Recipe"]
