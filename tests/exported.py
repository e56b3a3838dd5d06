"""Configs of networks that no search has found, for the tests of the export."""

from __future__ import annotations

import dataclasses
from typing import Any

from small import PROTOCOL

from nas import placement
from nas.architecture import Architecture, Placement

EVIDENCE = {"study": "toy", "trial": 3, "accuracy": 0.9, "accuracy_low": 0.8, "accuracy_high": 0.95}
EVIDENCE |= {"latency": {"ratio": 1.1, "ratio_low": 1.05, "ratio_high": 1.15, "device": "cpu: some"}}


def content_of(
    backbone: str,
    *placements: Placement,
    channels: int = 3,
    resolution: int = 32,
    model_kwargs: dict[str, Any] | None = None,
    evidence: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the config of a network with ten classes, in its canonical form."""
    model = placement.create(backbone, num_classes=10, in_channels=channels, model_kwargs=model_kwargs)
    architecture = Architecture(backbone=backbone, placements=placements).canonical(placement.stages(model))
    protocol = dataclasses.replace(PROTOCOL, channels=channels, resolution=resolution, model_kwargs=model_kwargs or {})
    return {
        "schema": 1,
        "id": architecture.id,
        "architecture": architecture.to_dict(),
        "num_classes": 10,
        "in_channels": channels,
        "evidence": {**EVIDENCE, **(evidence or {})},
        "protocol": protocol.to_dict(),
        "space": {},
    }


def architecture_of(content: dict[str, Any]) -> Architecture:
    """Return the architecture of a config."""
    return Architecture.from_dict(content["architecture"])
