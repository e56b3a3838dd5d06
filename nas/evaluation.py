"""What was measured on one architecture: plain data, so that it can be stored, compared and drawn without torch."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Latency of a candidate, interleaved with its bare backbone in one call."""

    median_ms: float
    """Median time of one forward pass of the candidate, in milliseconds."""
    low_ms: float
    """Lower end of the interval of the median between samples, in ms; too narrow where the machine drifts."""
    high_ms: float
    """Upper end of that interval, in milliseconds."""
    bare_ms: float
    """Median time of one forward pass of the bare backbone in the same call, in milliseconds."""
    ratio: float
    """Candidate time / bare time: the trimmed mean over the rounds of the median over a round's pairs."""
    ratio_low: float
    """Lower end of the 95 % interval of the ratio, from the spread between rounds."""
    ratio_high: float
    """Upper end of the 95 % interval of the ratio."""
    n: int
    """Number of pairs."""
    batch_size: int
    """Images in one forward pass."""
    device: str
    """The device that was timed, in words."""
    resolution: int = 0
    """Height and width of the images, in pixels."""
    rounds: int = 1
    """Rounds, each with new copies of both models; the interval of the ratio is that between rounds."""
    unstable: bool = False
    """Whether the interval stayed so wide that the ratio should not be relied on: the machine was busy."""
    graph_ms: float | None = None
    """Median time of one replay of the candidate as a CUDA graph, in milliseconds; ``None`` where there is none."""
    graph_ratio: float | None = None
    """Ratio of that to the bare backbone's replay: what a block costs where nothing waits for Python."""
    conditions: Mapping[str, str] = field(default_factory=dict)
    """Runtime and precision, and what the device said of itself: load, clocks, driver."""

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if isinstance(value, float) and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{each.name} must be a positive finite number, but got {value!r}")


@dataclass(frozen=True, kw_only=True)
class Counted:
    """All that is known of an architecture without running it."""

    parameters: int
    """Number of trainable and frozen parameters."""
    macs: int
    """Multiply-accumulate operations of one forward pass of one image (convolutions and matrix products)."""
    memory_bytes: int = 0
    """Bytes that one forward pass needs at most: the weights, and what is alive beside them. Counted, not measured."""
    nominal_ms: float
    """Deterministic estimate of the latency from counted operations; guides the sampler, never reported as latency."""


@dataclass(frozen=True, kw_only=True)
class Cost(Counted):
    """All that is counted and measured on an architecture without training it."""

    latency: Latency
    """The measured latency."""
    reference_ms: float
    """Latency of the bare backbone in ms, measured once for all architectures under the protocol."""

    @property
    def latency_ms(self) -> float:
        """Latency in ms: the measured ratio to the bare backbone, times the backbone's latency under the protocol.

        A machine's speed drifts between trials by more than a block costs. The ratio is measured within one call and
        does not drift, so that latencies of different trials may be compared.
        """
        return self.latency.ratio * self.reference_ms

    def to_json(self) -> str:
        """Return all fields as one line of JSON."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read back what :meth:`to_json` wrote.

        Raises:
            ValueError: If the text is not the JSON of one.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            if "curve" in data:
                data["curve"] = tuple(data["curve"])
            return cls(**{**data, "latency": Latency(**data["latency"])})
        except (TypeError, KeyError) as error:
            raise ValueError(f"not the JSON of {cls.__name__}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Evaluation(Cost):
    """All that was measured on one architecture under one protocol."""

    accuracy: float
    """Share of the validation images that the proxy-trained model classifies correctly, 0 to 1."""
    accuracy_low: float
    """Lower end of the 95 % Wilson interval of the accuracy: the spread due to the number of validation images."""
    accuracy_high: float
    """Upper end of that interval."""
    curve: tuple[float, ...]
    """Validation accuracy after each epoch of the proxy."""
    train_seconds: float
    """Wall time of the proxy training, in seconds."""
    train_memory_bytes: int | None = None
    """Most bytes that the training had allocated on the device at once; None where the device does not say."""
    versions: dict[str, str]
    """Versions of Python, torch and timm that produced the figures."""


OUT_OF_MEMORY = "out of memory"
"""How the reason of an evaluation begins for which the memory of the device did not suffice."""


class EvaluationError(Exception):
    """An architecture could not be evaluated; the message is the reason that the study records."""


def reason_of(error: BaseException) -> str:
    """Return why an evaluation failed, in words: an unforeseen error with its class."""
    return str(error) if isinstance(error, EvaluationError) else f"{type(error).__name__}: {first_line(error)}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message that is not empty, or its class where it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


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
