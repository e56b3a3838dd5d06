"""One more training, for real: what it says, that it is kept, and that the test split is touched only when given."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from small import CPU, PROTOCOL, few, splits

from nas.architecture import Architecture, Placement
from nas.evaluation import EvaluationError
from nas.replicate import Replicator
from nas.store import Store
from nas.trainer import Trainer

SE = Architecture(backbone="test_resnet", placements=(Placement(stage=4, block="se"),))
QUICK = dataclasses.replace(PROTOCOL, epochs=1, batch_size=25)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(f"sqlite:///{tmp_path / 'cache.db'}")
    made.create()
    return made


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return Trainer(few(), QUICK, CPU)


def test_seeds_and_epochs_make_another_training(store: Store, trainer: Trainer) -> None:
    train = Replicator(trainer, store)
    first, longer = train(SE, 1), train(SE, 1, epochs=2)
    assert (first.architecture, first.seed, first.epochs, len(first.curve)) == (SE.id, 1, 1, 1)
    assert (longer.epochs, len(longer.curve), longer.accuracy) == (2, 2, longer.curve[-1])
    assert (first.test_accuracy, first.test_images, first.val_images) == (None, 0, len(trainer.data.val))
    assert set(first.versions) == {"python", "torch", "timm"}
    assert store.replicates(QUICK.family_hash, "val") == [first, longer]


def test_what_was_trained_is_found(store: Store, trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Replicator(trainer, store)(SE, 1)

    def train(*_arguments: object, **_named: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("nas.proxy.train", train)
    assert Replicator(trainer, store)(SE, 1) == first
    with pytest.raises(AssertionError, match="trained again"):
        Replicator(trainer, store)(SE, 2)
    with pytest.raises(AssertionError, match="trained again"):  # the test split was not looked at then
        Replicator(trainer, store, splits().test)(SE, 1)


def test_the_same_seed_gives_the_same_accuracy_on_val_and_on_test(store: Store, trainer: Trainer) -> None:
    blind, seeing = Replicator(trainer, store)(SE, 3), Replicator(trainer, store, splits().test)(SE, 3)
    assert blind.accuracy == seeing.accuracy
    assert 0 < seeing.test_accuracy < 1
    assert seeing.test_images == len(splits().test)
    assert [each.kind for each in store.replicates(QUICK.family_hash, "val+test")] == ["val+test"]


def test_failures_are_reasons_and_leave_no_trace(
    store: Store, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EvaluationError, match="non-finite"):
        Replicator(trainer.under(learning_rate=1e30), store)(SE, 1)

    def build(*_arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")

    monkeypatch.setattr("nas.trainer.build", build)
    with pytest.raises(EvaluationError, match="out of memory on cpu"):
        Replicator(trainer, store)(SE, 1)
    assert store.replicates(QUICK.family_hash, "val") == []
