"""Models that the next engine process does not load, since they ended those before it."""

from __future__ import annotations

import logging
from collections import Counter

log = logging.getLogger(__name__)

_MAX_DEADLY_LOADS = 2
"""A model is not loaded any more once this many processes have ended, one after another, in its load."""


class Exclusions:
    """`excluded`: the reasons by model, until a caller asks for the model's load."""

    def __init__(self) -> None:
        self.excluded: dict[str, str] = {}
        self._loading: set[str] = set()
        self._suspects: Counter[str] = Counter()  # models that were being loaded when a process ended

    def exclude(self, model: str, reason: str) -> None:
        self.excluded = {**self.excluded, model: reason}

    def readmit(self, model: str) -> None:
        self.excluded = {name: why for name, why in self.excluded.items() if name != model}

    def load_started(self, model: str) -> None:
        self._loading.add(model)

    def load_ended(self, model: str) -> None:
        self._loading.discard(model)
        self._suspects.pop(model, None)

    def process_ended(self) -> None:
        """Exclude the models during whose loads processes ended time and again."""
        self._suspects.update(self._loading)
        for model in self._loading:
            if self._suspects[model] >= _MAX_DEADLY_LOADS:
                reason = f"the engine process ended {_MAX_DEADLY_LOADS} times while it loaded this model"
                log.error("model %s is not loaded any more: %s", model, reason)
                self.exclude(model, reason)
                del self._suspects[model]
        self._loading.clear()
