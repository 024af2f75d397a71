"""The result of one benchmark: a measured ratio and its target."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """A ratio and its target, a minimum unless `at_most`. Without a target the ratio is only reported."""

    name: str
    value: float
    unit: str
    baseline: float
    target: float | None
    at_most: bool = False
    interval: tuple[float, float] | None = None  # 95% confidence interval of the ratio, from pairs

    @property
    def ratio(self) -> float:
        return self.value / self.baseline

    @property
    def holds(self) -> bool | None:
        if self.target is None:
            return None
        low, high = self.interval or (self.ratio, self.ratio)
        if low < self.target < high:  # not resolved
            return None
        return high <= self.target if self.at_most else low >= self.target

    def to_dict(self) -> dict[str, object]:
        return {
            "name": self.name, "value": self.value, "unit": self.unit, "baseline": self.baseline,
            "ratio": self.ratio, "target": self.target, "holds": self.holds, "interval": self.interval,
        }  # fmt: skip
