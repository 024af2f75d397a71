"""The registry: every model that can be trained and exported, by its name in the repository."""

from lockstep_export.zoo import bilstm, bow, char_lstm, gru, lstm, rnn, transformer, translator
from lockstep_export.zoo.recipe import Recipe

RECIPES: tuple[Recipe, ...] = (
    bow.RECIPE,
    rnn.RECIPE,
    gru.RECIPE,
    lstm.RECIPE,
    bilstm.RECIPE,
    transformer.RECIPE,
    char_lstm.RECIPE,
    translator.RECIPE,
)
ZOO: dict[str, Recipe] = {recipe.name: recipe for recipe in RECIPES}

__all__ = ["ZOO", "Recipe"]
