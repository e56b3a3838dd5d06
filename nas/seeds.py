"""Further trainings of an architecture with other seeds, and how much the seed changes the accuracy.

Plain data and statistics: needs neither torch nor Optuna.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from nas.protocol import Protocol
from nas.ranking import pooled_variance, quantile_of_largest

FURTHER = "seed-"
"""How the names of what is kept of trainings with further seeds begin, of which no trial tells."""
MOST_SEEDS = 999
"""Most further seeds of one architecture."""
_SEEDS = 2**32


@dataclass(frozen=True, kw_only=True)
class Replicate:
    """One more training of an architecture, under a study's protocol but for the seed and perhaps the epochs."""

    architecture: str
    """Id of the architecture."""
    seed: int
    """Seed of weights, batch order and augmentation."""
    epochs: int
    """Epochs of the training."""
    accuracy: float
    """Share of the validation images that are classified correctly, 0 to 1."""
    val_images: int
    """Number of validation images."""
    test_accuracy: float | None = None
    """Share of the test images that are classified correctly; ``None`` where the test split was not touched."""
    test_images: int = 0
    """Number of test images; 0 where that split was not touched."""
    curve: tuple[float, ...]
    """Validation accuracy after each epoch."""
    train_seconds: float
    """Wall time of the training, in seconds."""
    versions: dict[str, str]
    """Versions of Python, torch and timm that produced the figures."""

    @property
    def kind(self) -> str:
        """``val``, or ``val+test`` where the test split was touched."""
        return "val" if self.test_accuracy is None else "val+test"

    def to_json(self) -> str:
        """Return the replicate as one line of JSON."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Replicate:
        """Read back what :meth:`to_json` wrote.

        Raises:
            ValueError: If the text is not the JSON of a replicate.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            return cls(**{**data, "curve": tuple(data["curve"])})
        except (TypeError, KeyError) as error:
            raise ValueError(f"not the JSON of a replicate: {error}") from error


@dataclass(frozen=True, kw_only=True)
class SeedNoise:
    """How much the seed alone changes the accuracy."""

    sd: float
    """Standard deviation between trainings of one architecture, pooled over architectures; in accuracy, 0 to 1."""
    degrees: int
    """Degrees of freedom: trainings minus architectures, over those trained at least twice."""

    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval of the standard deviation, by chi-square: it assumes normal accuracies."""
        from scipy.stats import chi2  # slow to import

        low, high = (self.sd * math.sqrt(self.degrees / chi2.ppf(p, self.degrees)) for p in (0.975, 0.025))
        return float(low), float(high)

    def error(self, seeds: int) -> float:
        """Return the standard error of a mean over so many seeds."""
        return self.sd / math.sqrt(seeds)

    def describe(self) -> str:
        """Return the standard deviation, its interval and its degrees of freedom in words."""
        low, high = self.interval()
        figures = f"{self.sd * 100:.2f} [{low * 100:.2f}, {high * 100:.2f}]"
        return f"{figures} points of accuracy between seeds (standard deviation, {degrees_text(self.degrees)})"


def estimate(trainings: Iterable[Sequence[float]]) -> SeedNoise | None:
    """Return the noise of the seed from the accuracies of each architecture; ``None`` if none was trained twice.

    It takes the noise to be the same for all architectures. Architectures that were trained again because their first
    accuracy was high have a first accuracy that is too high on average, which makes the estimate rather too large.
    """
    variance, degrees = pooled_variance(list(trainings))
    return None if variance is None else SeedNoise(sd=math.sqrt(variance), degrees=degrees)


def degrees_text(degrees: int) -> str:
    """Return a number of degrees of freedom in words."""
    return f"{degrees} degree{'' if degrees == 1 else 's'} of freedom"


def half_width(error: float, degrees: int, comparisons: int = 1) -> float:
    """Return half the 95 % interval that a standard error with so many degrees of freedom gives (Student's t).

    With several comparisons it holds for all of them at once, see :func:`nas.ranking.quantile_of_largest`.
    """
    return error * quantile_of_largest(degrees, comparisons) if error else 0.0


def further_seeds(protocol: Protocol, count: int) -> list[int]:
    """Return the seeds with which a search trains an architecture again.

    Raises:
        ValueError: If the count is not between 0 and :data:`MOST_SEEDS`.
    """
    return _seeds(protocol, count, 0)


def full_seeds(protocol: Protocol, count: int) -> list[int]:
    """Return the seeds of full trainings: none that a search uses, lest shared luck be taken for agreement.

    Raises:
        ValueError: As :func:`further_seeds`.
    """
    return _seeds(protocol, count, MOST_SEEDS)


def _seeds(protocol: Protocol, count: int, skip: int) -> list[int]:
    if not 0 <= count <= MOST_SEEDS:
        raise ValueError(f"further seeds must be between 0 and {MOST_SEEDS}, but got {count}")
    return [(protocol.seed + skip + k) % _SEEDS for k in range(1, count + 1)]
