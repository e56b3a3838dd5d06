"""Rows for the tests of the front and of the answer."""

from __future__ import annotations

from nas.architecture import Architecture, Placement
from nas.evaluation import wilson_interval
from nas.front import Row

BARE_MS = 2.0


def make_row(trial: int, accuracy: float, latency_ms: float, control: str = "", n: int = 1000) -> Row:
    """A row whose accuracy was measured on ``n`` images; the bare backbone takes 2 ms."""
    low, high = wilson_interval(accuracy, n)
    ratio = latency_ms / BARE_MS
    block = "" if control == "bare" else control.removesuffix(" everywhere") or "se"
    placements = tuple(Placement(stage=stage, block=block) for stage in (1, 2)) if block else ()
    return Row(
        trial=trial,
        architecture=Architecture(backbone="resnet18", placements=placements),
        control=control,
        accuracy=accuracy,
        accuracy_low=low,
        accuracy_high=high,
        latency_ms=latency_ms,
        latency_ratio=ratio,
        ratio_low=0.99 * ratio,
        ratio_high=1.01 * ratio,
        parameters=11_176_512,
        macs=1_820_000_000,
    )
