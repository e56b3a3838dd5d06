"""The protocol: what it takes back from JSON, and what makes it another one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import small

from nas.protocol import Protocol

NEWER = {"mirror_validation": False, "average_epochs": 1, "compile": False, "warm_epochs": 0, "warm_learning_rate": 0.0}
PROTOCOL = replace(small.PROTOCOL, epochs=3, augmentation="shift+flip", weights="some")


def test_what_was_written_before_a_field_was_there_has_its_default() -> None:
    fields = json.loads(json.dumps(PROTOCOL.to_dict()))
    assert {name: fields.pop(name) for name in NEWER} == NEWER
    assert Protocol.from_dict(fields) == PROTOCOL


@pytest.mark.parametrize(
    "change",
    [
        {"mirror_validation": True},
        {"average_epochs": 3},
        {"compile": True},
        {"warm_epochs": 5},
        {"warm_learning_rate": 0.2},
        {"augmentation": "shift+flip+cutout"},
    ],
)
def test_what_changes_a_training_changes_the_hash(change: dict[str, Any]) -> None:
    changed = replace(PROTOCOL, **change)
    assert changed.hash != PROTOCOL.hash
    assert Protocol.from_dict(json.loads(json.dumps(changed.to_dict()))) == changed


def test_kinds_of_augmentation() -> None:
    kinds = {
        name: replace(PROTOCOL, augmentation=name).augmentations for name in ("none", "shift", "shift+flip+cutout")
    }
    assert kinds == {"none": (), "shift": ("shift",), "shift+flip+cutout": ("shift", "flip", "cutout")}
