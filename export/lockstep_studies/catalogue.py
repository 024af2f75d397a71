"""Every study by its name."""

from lockstep_studies import (
    comparison,
    gradients,
    growing_context,
    long_range,
    long_sequence_cost,
    receptive_field,
    sequential_cost,
)
from lockstep_studies.study import AnyStudy

_ALL: tuple[AnyStudy, ...] = (
    sequential_cost.STUDY,
    gradients.STUDY,
    long_range.STUDY,
    receptive_field.STUDY,
    long_sequence_cost.STUDY,
    growing_context.STUDY,
    comparison.STUDY,
)
STUDIES: dict[str, AnyStudy] = {study.name: study for study in _ALL}
