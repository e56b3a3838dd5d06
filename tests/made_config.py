"""A config as `export` writes it, for a network and images that train in a moment; several test files share it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from nas import export
from nas.architecture import Architecture, Placement
from nas.data import Splits, load
from nas.protocol import Protocol
from nas.train.settings import Settings

LIMIT = 241
"""Images of the data, over all splits; those of the test split are an odd number, which two processes cannot halve."""
BLOCK = Placement(stage=4, block="se", options={"reduction": 4}, init="identity")


@cache
def few_digits() -> Splits:
    """Return some digits of 16 x 16 pixels."""
    return load("digits", resolution=16, limit=LIMIT)


def protocol_of(**changes: Any) -> Protocol:
    """Return the protocol of a search on them."""
    fields: dict[str, Any] = {"data": "digits", "data_hash": few_digits().hash, "split_seed": 0, "num_classes": 10}
    fields |= {"channels": 1, "resolution": 16, "epochs": 1, "batch_size": 32, "learning_rate": 0.05}
    return Protocol(**{**fields, **changes})


def write_config(path: Path, *, placements: tuple[Placement, ...] = (BLOCK,), **changes: Any) -> Path:
    """Write a config whose protocol differs in some fields, and return its path."""
    architecture = Architecture(backbone="test_resnet", placements=placements)
    protocol = protocol_of(**changes)
    content = {
        "schema": export.SCHEMA,
        "id": architecture.id,
        "architecture": architecture.to_dict(),
        "num_classes": protocol.num_classes,
        "in_channels": protocol.channels,
        "evidence": {},
        "protocol": protocol.to_dict(),
        "space": {},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    export.write(content, path)
    return path


def asked(out: Path, **changes: Any) -> Settings:
    """Return the settings of a short training into a folder."""
    return Settings(**{"epochs": 3, "limit": LIMIT, "device": "cpu", "out": str(out), **changes})
