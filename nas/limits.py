"""What an architecture may cost at most; whatever costs more is turned away before it is trained."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from nas.evaluation import Cost, Counted, EvaluationError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The most that architectures may cost; None is no limit."""

    latency_ms: float | None = None
    """Latency in milliseconds."""
    slowdown: float | None = None
    """Latency beyond the bare backbone's, as a share of it: 0.05 allows 5 % more."""
    parameters: int | None = None
    """Number of parameters."""

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value is not None and not (math.isfinite(value) and (value > 0 or (name == "slowdown" and value > -1))):
                rule = "a finite number above -100 %" if name == "slowdown" else "a positive finite number"
                raise ValueError(f"a limit of {name} must be {rule}, but got {value}")

    def __bool__(self) -> bool:
        return any(value is not None for value in dataclasses.asdict(self).values())

    @property
    def need_clock(self) -> bool:
        """Whether anything has to be timed to know what is within the limits."""
        return self.latency_ms is not None or self.slowdown is not None

    def excess(self, cost: Counted) -> dict[str, float]:
        """Return for each limit how far a cost is beyond it, as a share of the limit: 0 or less is within.

        Of an unstable ratio the lower end of its interval counts, lest a busy machine turn architectures away. Of what
        was not timed nothing is said about the limits of latency.
        """
        found = {}
        if isinstance(cost, Cost):
            ratio = cost.latency.ratio_low if cost.latency.unstable else cost.latency.ratio
            if self.latency_ms is not None:
                found["latency_ms"] = ratio * cost.reference_ms / self.latency_ms - 1
            if self.slowdown is not None:
                found["slowdown"] = ratio / (1 + self.slowdown) - 1
        if self.parameters is not None:
            found["parameters"] = cost.parameters / self.parameters - 1
        return found

    def words(self, cost: Counted) -> str:
        """Return which limits a cost exceeds, in words, or nothing."""
        beyond = [name for name, excess in self.excess(cost).items() if excess > 0]
        texts = []
        if isinstance(cost, Cost):
            if "latency_ms" in beyond:
                texts.append(f"{cost.latency_ms:.4g} ms, where {self.latency_ms:g} ms are allowed")
            if "slowdown" in beyond:
                texts.append(f"{cost.latency.ratio - 1:+.1%} latency, where {self.slowdown:+.1%} are allowed")
        if "parameters" in beyond:
            texts.append(f"{cost.parameters:,} parameters, where {self.parameters:,} are allowed")
        return "; ".join(texts)

    def describe(self) -> str:
        """Return what is allowed, in words; empty where everything is."""
        texts = [] if self.latency_ms is None else [f"at most {self.latency_ms:g} ms"]
        texts += [] if self.slowdown is None else [f"at most {self.slowdown:+.1%} latency"]
        texts += [] if self.parameters is None else [f"at most {self.parameters:,} parameters"]
        return ", ".join(texts)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary of JSON values."""
        return dataclasses.asdict(self)


class BeyondLimitsError(EvaluationError):
    """An architecture costs more than is allowed, and was not trained."""

    def __init__(self, limits: Limits, cost: Counted) -> None:
        super().__init__(limits.words(cost))
        self.cost = cost
        """What it costs; as far as it was counted where that was enough to know."""
