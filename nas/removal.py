"""What an architecture loses, and what it saves, when some of its blocks are removed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

from nas.answer import image_noise, noise
from nas.front import Row
from nas.seeds import MOST_SEEDS, half_width

PAYS, IDLE, OPEN = "pays", "does not pay", "open"
"""Verdicts on what was removed; see :attr:`Removal.verdict`."""


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What an architecture loses and saves when some of its blocks are removed."""

    full: Row
    """The architecture."""
    other: Row
    """What is left of it."""
    comparisons: int
    """Among how many differences this one is looked at."""

    @property
    def lost(self) -> float:
        """By how much the accuracy falls, as a fraction; below 0 where it rises."""
        return self.full.accuracy - self.other.accuracy

    @cached_property
    def lost_half(self) -> float:
        """How much chance can make of that (95 %), see :func:`nas.answer.noise`."""
        return noise(self.full, self.other, self.comparisons)

    @property
    def images_half(self) -> float:
        """How much the choice of validation images alone can make of it (95 %): no number of seeds narrows that."""
        return image_noise(self.full, self.other, self.comparisons)

    @property
    def saved(self) -> float:
        """By how much the latency falls, in latencies of the bare backbone; below 0 where it rises."""
        return self.full.latency_ratio - self.other.latency_ratio

    @property
    def saved_half(self) -> float:
        """How much the noise of the clock can make of that (95 %): both intervals as independent errors, Sidak's."""
        quantile = NormalDist().inv_cdf
        factor = quantile((1 + 0.95 ** (1 / self.comparisons)) / 2) / quantile(0.975)
        return factor * math.hypot(*((row.ratio_high - row.ratio_low) / 2 for row in (self.full, self.other)))

    @property
    def is_unstable(self) -> bool:
        """Whether the machine was too busy for one of the two ratios to be relied on."""
        return self.full.unstable or self.other.unstable

    @property
    def hidden_by_seeds(self) -> bool:
        """Whether a loss is within noise, but would not be if it were for the validation images alone."""
        return self.images_half < self.lost <= self.lost_half

    @property
    def seeds_to_tell(self) -> int | None:
        """Further seeds of each with which a loss of this size would be beyond noise; None where none would do.

        The noise of the seed is taken to stay what it is estimated to be now, with its degrees of freedom.
        """
        room = self.lost**2 - self.images_half**2
        if self.full.seed_error is None or self.lost <= 0 or room <= 0:
            return None
        sd = self.full.seed_error * math.sqrt(self.full.seeds)
        for seeds in range(1 + min(self.full.seeds, self.other.seeds), MOST_SEEDS + 2):
            error = sd * math.hypot(*(1 / math.sqrt(max(row.seeds, seeds)) for row in (self.full, self.other)))
            if half_width(error, self.full.seed_degrees, self.comparisons) ** 2 < room:
                return seeds - 1
        return None

    @property
    def verdict(self) -> str:
        """Whether what was removed pays; as :func:`nas.answer.recommend`, of what is within noise the faster one.

        It pays if the accuracy falls beyond noise without it, or if it makes the network faster and no less accurate
        (as built-in attention does that was taken out). It does not pay if that is not so and removing it makes the
        network faster beyond noise, or more accurate and no slower. It is open where the clock cannot tell the two
        apart or was disturbed, and where the seeds alone hide a loss that more of them could show.
        """
        if self.lost > self.lost_half:
            return PAYS
        gains, slower = self.lost < -self.lost_half, self.saved < -self.saved_half
        if gains and not slower:
            return IDLE
        if self.is_unstable:
            return OPEN
        if slower:
            return OPEN if gains else PAYS
        if self.hidden_by_seeds:
            return OPEN
        return IDLE if self.saved > self.saved_half else OPEN
