"""The declaration of a step beside its inputs: its states, and modules that read whole sequences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from lockstep_export.contract import Example


@dataclass(frozen=True)
class State:
    """A tensor that is carried from step to step; its input is the key in `states`."""

    output: str = ""  # replaces it in the next step; without one, it is carried unchanged
    prefill: str = ""  # the output of the prefill module that starts it
    initial: float = 0.0  # its start value without a prefill
    grows: bool = False  # the output has one more element at the end of the axis that varies: a cache
    name: str = ""  # in the manifest; default: the name of the input


@dataclass(frozen=True)
class Whole:
    """A module that reads whole sequences, exported beside a step; the fields are those of `export_oneshot`.

    As `prefill` it reads a prompt or a source and returns the states to start from, and optionally the scores
    of the first token. As `oneshot` it gives the results of the step for a whole sequence in one run.
    """

    module: nn.Module
    example: Example
    axes: str | Sequence[str] | Mapping[str, str]
    outputs: str | Sequence[str] = ()
    lengths: str | Sequence[str] = ()
    mask: str | Sequence[str] = ()
    padding_mask: str | Sequence[str] = ()
    pad: float | Mapping[str, float] = 0
    ids: Mapping[str, int] | None = None
