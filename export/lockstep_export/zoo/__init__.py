"""The registry: every model that can be trained and exported, by its name in the repository."""

from lockstep_export.zoo import bilstm, bow, lstm, transformer
from lockstep_export.zoo.recipe import Output, Outputs, Recipe, Training

ZOO: dict[str, Recipe] = {
    recipe.name: recipe for recipe in (bow.RECIPE, lstm.RECIPE, bilstm.RECIPE, transformer.RECIPE)
}

__all__ = ["ZOO", "Output", "Outputs", "Recipe", "Training"]
