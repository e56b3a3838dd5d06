"""What was measured on one architecture: plain data, so that it can be stored, compared and drawn without torch."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Latency of a candidate, interleaved with its bare backbone in one call."""

    median_ms: float
    """Median time of one forward pass of the candidate, in milliseconds."""
    low_ms: float
    """Lower end of the 95 % interval of the median, in milliseconds."""
    high_ms: float
    """Upper end of the 95 % interval of the median, in milliseconds."""
    bare_ms: float
    """Median time of one forward pass of the bare backbone in the same call, in milliseconds."""
    ratio: float
    """Median over the pairs of candidate time / bare time."""
    ratio_low: float
    """Lower end of the 95 % interval of the ratio."""
    ratio_high: float
    """Upper end of the 95 % interval of the ratio."""
    n: int
    """Number of pairs."""
    batch_size: int
    """Images in one forward pass."""
    device: str
    """The device that was timed, in words."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{field.name} must be a positive finite number, but got {value!r}")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All that was measured on one architecture under one protocol."""

    accuracy: float
    """Share of the validation images that the proxy-trained model classifies correctly, 0 to 1."""
    accuracy_low: float
    """Lower end of the 95 % Wilson interval of the accuracy: the spread due to the number of validation images."""
    accuracy_high: float
    """Upper end of that interval."""
    curve: tuple[float, ...]
    """Validation accuracy after each epoch of the proxy."""
    latency: Latency
    """The measured latency."""
    reference_ms: float
    """Latency of the bare backbone in ms, measured once for all evaluations under the protocol."""
    parameters: int
    """Number of trainable and frozen parameters."""
    macs: int
    """Multiply-accumulate operations of one forward pass of one image (convolutions and matrix products)."""
    nominal_ms: float
    """Deterministic estimate of the latency from counted operations; guides the sampler, never reported as latency."""
    train_seconds: float
    """Wall time of the proxy training, in seconds."""
    versions: dict[str, str]
    """Versions of Python, torch and timm that produced the figures."""

    @property
    def latency_ms(self) -> float:
        """Latency in ms: the measured ratio to the bare backbone, times the backbone's latency under the protocol.

        A machine's speed drifts between trials by more than a block costs. The ratio is measured within one call and
        does not drift, so that latencies of different trials may be compared.
        """
        return self.latency.ratio * self.reference_ms

    def to_json(self) -> str:
        """Return the evaluation as one line of JSON."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Evaluation:
        """Read back what :meth:`to_json` wrote.

        Raises:
            ValueError: If the text is not the JSON of an evaluation.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            return cls(**{**data, "curve": tuple(data["curve"]), "latency": Latency(**data["latency"])})
        except (TypeError, KeyError) as error:
            raise ValueError(f"not the JSON of an evaluation: {error}") from error


class EvaluationError(Exception):
    """An architecture could not be evaluated; the message is the reason that the study records."""


def wilson_interval(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Return the Wilson score interval of a share observed on ``n`` cases (95 % at ``z`` = 1.96).

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, but got {n}")
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # A share of 0 or 1 sits exactly on an end, which rounding would otherwise push past it.
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))
