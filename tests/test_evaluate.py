"""What an evaluator does when its stop rule stops a training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nas.architecture import Architecture, Placement
from nas.data import load as load_data
from nas.evaluate import Evaluator
from nas.evaluation import Cost, Counted
from nas.limits import BeyondLimitsError, Limits
from nas.protocol import Protocol
from nas.rungs import StoppedError
from nas.store import Store
from nas.timing import Timer
from nas.trainer import Trainer

SE = Architecture(backbone="test_resnet", placements=(Placement(stage=2, block="se"),))
PROTOCOL = Protocol(
    data="digits",
    data_hash="0",
    split_seed=0,
    num_classes=10,
    channels=1,
    resolution=16,
    epochs=3,
    batch_size=64,
    latency_seconds=0.05,
)


class Rule:
    """Stops after the second epoch."""

    def __init__(self) -> None:
        self.asked: list[tuple[Architecture, int]] = []
        self.curve: list[float] = []

    def __call__(self, architecture: Architecture, cost: Cost, images: int) -> Callable[[int, float], None] | None:
        self.asked.append((architecture, images))

        def after_epoch(epoch: int, accuracy: float) -> None:
            self.curve.append(accuracy)
            if epoch == 2:
                raise StoppedError("weak", self.curve, cost)

        return after_epoch if architecture.placements else None


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(f"sqlite:///{tmp_path / 'studies.db'}")
    store.create()
    return store


def trainer() -> Trainer:
    return Trainer(load_data("digits", limit=300, resolution=16).search(), PROTOCOL, torch.device("cpu"))


def test_a_stopped_training_leaves_its_cost_and_nothing_else(store: Store) -> None:
    rule = Rule()
    with pytest.raises(StoppedError) as caught:
        Evaluator(trainer(), store, stop_rule=rule)(SE)
    assert len(rule.curve) == 2
    assert caught.value.curve == tuple(rule.curve)
    kept = store.cost(SE, PROTOCOL.latency_hash)
    assert kept is not None
    assert dataclasses.replace(caught.value.cost, reference_ms=kept.reference_ms) == kept
    assert store.get(SE, PROTOCOL.hash) is None


def test_what_the_rule_lets_pass_is_what_it_is_without_a_rule(store: Store) -> None:
    rule, bare = Rule(), Architecture(backbone="test_resnet")
    ruled = Evaluator(trainer(), store, stop_rule=rule)(bare)
    assert rule.asked == [(bare, 60)]
    model = trainer().build(bare)
    assert ruled.curve == trainer().train(model).accuracies


def test_what_is_known_already_is_not_stopped(store: Store) -> None:
    finished = Evaluator(trainer(), store)(SE)
    rule = Rule()
    assert Evaluator(trainer(), store, stop_rule=rule)(SE) == finished
    assert rule.asked == []


def test_what_counting_turns_away_is_not_timed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Timer(trainer())(SE)
    monkeypatch.setattr("nas.timing.measure", lambda *_, **__: pytest.fail("timed"))
    limits = Limits(parameters=whole.parameters - 1)
    reason = f"{whole.parameters:,} parameters, where {whole.parameters - 1:,} are allowed"
    with pytest.raises(BeyondLimitsError, match=reason) as caught:
        Evaluator(trainer(), store, limits=limits)(SE)
    fields = [field.name for field in dataclasses.fields(Counted)]
    assert type(caught.value.cost) is Counted
    assert dataclasses.asdict(caught.value.cost) == {name: getattr(whole, name) for name in fields}
    assert store.cost(SE, PROTOCOL.latency_hash) is None


def test_what_the_clock_has_to_tell_is_timed(store: Store) -> None:
    counted = Timer(trainer())(SE)
    with pytest.raises(BeyondLimitsError, match="parameters, where") as caught:
        Evaluator(trainer(), store, limits=Limits(parameters=1, slowdown=9.0))(SE)
    cost = store.cost(SE, PROTOCOL.latency_hash)
    assert cost is not None
    assert caught.value.cost.parameters == cost.parameters == counted.parameters
    bare = Architecture(backbone="test_resnet")
    assert Evaluator(trainer(), store, limits=Limits(parameters=1))(bare).parameters > 1  # all are compared with it
    with pytest.raises(BeyondLimitsError):  # from the cache, whose cost is whole
        Evaluator(trainer(), store, limits=Limits(parameters=1))(SE)
