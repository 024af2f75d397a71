"""One measured ratio."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """A ratio, and whether it holds its target: "at least" unless `at_most`; none is only told."""

    name: str
    value: float
    unit: str
    baseline: float
    target: float | None
    at_most: bool = False
    interval: tuple[float, float] | None = None  # of the ratio, where pairs tell: 95% confidence

    @property
    def ratio(self) -> float:
        return self.value / self.baseline

    @property
    def holds(self) -> bool | None:
        if self.target is None:
            return None
        low, high = self.interval or (self.ratio, self.ratio)
        if low < self.target < high:  # the pairs do not tell
            return None
        return high <= self.target if self.at_most else low >= self.target

    def to_dict(self) -> dict[str, object]:
        return {
            "name": self.name, "value": self.value, "unit": self.unit, "baseline": self.baseline,
            "ratio": self.ratio, "target": self.target, "holds": self.holds, "interval": self.interval,
        }  # fmt: skip
