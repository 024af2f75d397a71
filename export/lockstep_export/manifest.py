"""Writes model.toml: how the server feeds the graph and what its outputs mean.

The manifest and the files beside it are all that the server knows of this package.
"""

import json

from lockstep_export.zoo.recipe import Output, Recipe


def manifest(recipe: Recipe, vocabulary: int) -> str:
    """The whole file for `recipe`, whose token ids lie in [0, vocabulary)."""
    parts = [
        _head(recipe),
        '[text]\nsource = "tokenizer.json"\n',
        f"[lengths.words]\nmax = {recipe.max_words}\n",
        _tokens(vocabulary),
        _companion(recipe),
        *(_output(output) for output in recipe.outputs),
        _roles(recipe),
        f"[batching]\nmax_rows = {recipe.max_rows}\nmax_padded_elements = {recipe.max_padded_elements}\n",
    ]
    return "\n".join(part for part in parts if part)


def _head(recipe: Recipe) -> str:
    labels = json.dumps(recipe.labels)
    return f'# {recipe.about}. Written by lockstep-export.\ntask = "classify"\nlabels = {labels}\n'


def _tokens(vocabulary: int) -> str:
    return f'[inputs.tokens]\nbatch_axis = 0\nlengths = {{1 = "words"}}\npad = 0\nrange = [0, {vocabulary}]\n'


def _companion(recipe: Recipe) -> str:
    if recipe.companion == "lengths":
        return '[inputs.lengths]\nbatch_axis = 0\ngenerated = "lengths"\nof = "words"\n'
    if recipe.companion == "mask":
        return (
            '[inputs.mask]\nbatch_axis = 0\nlengths = {1 = "words"}\n'
            'generated = "mask"\nof = "words"\nreal = true\n'
        )
    return ""


def _output(output: Output) -> str:
    text = f"[outputs.{output.name}]\nbatch_axis = 0\n"
    if output.word_axes:
        axes = ", ".join(f'{axis} = "words"' for axis in output.word_axes)
        text += f"lengths = {{{axes}}}\n"
    return text


def _roles(recipe: Recipe) -> str:
    text = f'[roles]\nscores = "logits"\nactivation = "{recipe.activation}"\n'
    for role in ("vector", "attention"):
        if recipe.gives(role):
            text += f'{role} = "{role}"\n'
    return text
