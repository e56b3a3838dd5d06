"""Further seeds after the trials: who gets them, that nothing is trained twice, and that the front then stands."""

from __future__ import annotations

import dataclasses
import random
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import toy

from nas.architecture import Architecture
from nas.database import StorageError
from nas.evaluation import Evaluation, EvaluationError
from nas.front import Row
from nas.seeds import Replicate
from nas.study import Study, confirm, run

Luck = Callable[[Architecture, int], float]


class Trainer:
    """Trains at no cost: the accuracy is that of the evaluation plus some luck; it is kept like a real one."""

    def __init__(self, study: Study, luck: Luck) -> None:
        self.study = study
        self.luck = luck
        self.trained: list[tuple[str, int]] = []

    def __call__(self, architecture: Architecture, seed: int) -> Replicate:
        self.trained.append((architecture.id, seed))
        replicate = Replicate(
            architecture=architecture.id,
            seed=seed,
            epochs=toy.PROTOCOL.epochs,
            accuracy=evaluate(architecture).accuracy + self.luck(architecture, seed),
            val_images=400,
            curve=(),
            train_seconds=0.0,
            versions={},
        )
        protocol = dataclasses.replace(toy.PROTOCOL, seed=seed)
        self.study.store.put_replicate(architecture, protocol.hash, replicate, family=protocol.family_hash)
        return replicate


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("searched")
    made = toy.create(folder)
    run(made, evaluate, space=toy.space(), budget=12, sampler="random", seed=2)  # whose first front does not stand
    made.close()
    return folder


@pytest.fixture
def study(searched: Path, tmp_path: Path) -> Study:
    shutil.copy(searched / "studies.db", tmp_path)
    return Study.open("toy", toy.url(tmp_path))


def evaluate(architecture: Architecture) -> Evaluation:
    """All are equally good, and the first accuracy is nothing but luck."""
    accuracy = 0.85 + random.Random(architecture.id).gauss(0, 0.02)
    return dataclasses.replace(
        toy.evaluate(architecture), accuracy=accuracy, accuracy_low=accuracy - 0.02, accuracy_high=accuracy + 0.02
    )


def luck(architecture: Architecture, seed: int) -> float:
    """Luck that makes a training as good as any other, whatever the first one was."""
    return 0.85 - evaluate(architecture).accuracy + random.Random(f"{architecture.id} {seed}").gauss(0, 0.02)


def members(study: Study) -> list[Row]:
    return [row for row in study.rows() if row.on_front]


def test_the_bare_backbone_is_repeated_and_tells_the_noise(study: Study) -> None:
    before = study.rows()
    assert study.seed_noise() is None
    assert {row.seed_error for row in before} == {None}
    trainer = Trainer(study, lambda _, seed: 0.01 * seed)
    result = confirm(study, trainer, repeats=3, further=0)
    assert sorted(trainer.trained) == [(before[0].architecture.id, seed) for seed in (1, 2, 3)]
    found = study.seed_noise()
    assert found is not None
    assert (found.degrees, found.sd) == (3, pytest.approx((0.0005 / 3) ** 0.5))
    bare, other = study.rows()[:2]
    assert bare.accuracy == pytest.approx(before[0].accuracy + 0.015)
    assert bare.accuracy_low < bare.accuracy < bare.accuracy_high
    assert (bare.seeds, bare.seed_error) == (4, pytest.approx(found.sd / 2))
    assert (other.seeds, other.seed_error, other.accuracy) == (1, pytest.approx(found.sd), before[1].accuracy)
    assert result.confirmed == result.members == len(members(study))


def test_nothing_is_trained_twice(study: Study) -> None:
    confirm(study, Trainer(study, luck), repeats=3, further=2)
    again = Trainer(study, luck)
    confirm(study, again, repeats=3, further=2)
    assert again.trained == []
    assert study.finished() == 12


def test_the_front_is_redrawn_until_it_is_confirmed(study: Study) -> None:
    first = {row.trial for row in members(study)}
    trainer = Trainer(study, luck)
    seen = []
    result = confirm(study, trainer, repeats=3, further=2, on_replicate=lambda *told: seen.append(told))
    assert len(seen) == len(trainer.trained) == len(set(trainer.trained))
    last = members(study)
    assert {row.trial for row in last} - first  # so that the first round did not suffice
    assert all(row.seeds >= 3 for row in last)
    assert result.confirmed == result.members == len(last)


def test_a_confirmation_that_is_to_stop_starts_no_further_training(study: Study) -> None:
    trainer = Trainer(study, luck)
    result = confirm(study, trainer, repeats=3, further=2, stop=lambda: len(trainer.trained) == 4)
    assert len(trainer.trained) == 4
    assert result.interrupted
    assert result.members == len(members(study))
    assert result.confirmed == sum(row.seeds > 2 for row in members(study))
    rest = confirm(study, trainer, repeats=3, further=2)
    assert not rest.interrupted
    assert len(trainer.trained) == len(set(trainer.trained)) > 4
    nothing = confirm(study, trainer, repeats=3, further=2, stop=lambda: True)
    assert not nothing.interrupted  # there was nothing to stop


def test_an_interrupted_confirmation_goes_on_where_it_was(study: Study) -> None:
    def stop(*_: object) -> None:
        if len(trainer.trained) % 4 == 0:
            raise KeyboardInterrupt

    trainer = Trainer(study, luck)
    interruptions = 0
    while interruptions < 100:
        try:
            confirm(study, trainer, repeats=2, further=3, on_replicate=stop)
        except KeyboardInterrupt:
            interruptions += 1
            continue
        break
    assert 0 < interruptions < 100
    assert len(trainer.trained) == len(set(trainer.trained))
    assert all(row.seeds in (1, 4) for row in study.rows()[1:])
    assert all(row.seeds >= 4 for row in members(study))


def test_what_cannot_be_trained_is_told_and_does_not_end_the_run(study: Study) -> None:
    broken = members(study)[-1].architecture

    def breaking(architecture: Architecture, seed: int) -> float:
        if architecture == broken and seed == 2:
            raise EvaluationError("non-finite loss in epoch 1")
        return 0.0

    trainer = Trainer(study, breaking)
    result = confirm(study, trainer, repeats=1, further=2)
    assert result.failures == (f"{broken.describe()} with seed 2: non-finite loss in epoch 1",)
    assert trainer.trained.count((broken.id, 2)) == 1
    assert result.confirmed == result.members - 1


def test_shares_leave_nothing_undone_and_do_nothing_twice(study: Study) -> None:
    trainers = [Trainer(study, luck) for _ in range(3)]
    for number, trainer in enumerate(trainers):
        confirm(study, trainer, repeats=6, further=3, share=(number, 3))
    assert all(len(trainer.trained) >= 2 for trainer in trainers)  # of the six of the bare backbone alone
    alone = Trainer(study, luck)
    result = confirm(study, alone, repeats=6, further=3)
    assert result.confirmed == result.members
    trained = [job for trainer in (*trainers, alone) for job in trainer.trained]
    assert len(trained) == len(set(trained))


def test_what_nobody_foresaw_does_not_end_the_run_but_a_broken_database_does(study: Study) -> None:
    def breaking(architecture: Architecture, seed: int) -> float:
        if seed == 2:
            raise RuntimeError("a kernel\nfailed")
        return 0.0

    result = confirm(study, Trainer(study, breaking), repeats=3, further=0)
    (failure,) = result.failures
    assert failure.endswith("with seed 2: RuntimeError: a kernel")

    def broken(architecture: Architecture, seed: int) -> float:
        raise StorageError("the disk is full")

    with pytest.raises(StorageError, match="the disk is full"):
        confirm(study, Trainer(study, broken), repeats=5, further=0)


def test_a_study_without_the_bare_backbone_has_nothing_to_repeat(tmp_path: Path) -> None:
    empty = toy.create(tmp_path)
    trainer = Trainer(empty, luck)
    assert confirm(empty, trainer, repeats=3, further=3).members == 0
    assert trainer.trained == []


def test_other_epochs_and_the_test_split_do_not_move_the_front(study: Study) -> None:
    before = study.rows()
    replicate = Trainer(study, lambda *_: 0.1)(before[1].architecture, 5)
    longer = dataclasses.replace(toy.PROTOCOL, seed=6, epochs=9)
    assert study.rows()[1].seeds == 2
    for changes in ({"seed": 6, "epochs": 9}, {"seed": 7, "test_accuracy": 0.9, "test_images": 5}):
        other = dataclasses.replace(replicate, **changes)
        hashed = dataclasses.replace(longer, seed=other.seed, epochs=other.epochs).hash
        study.store.put_replicate(before[1].architecture, hashed, other, family=longer.family_hash)
    assert study.rows()[1].seeds == 2


def test_how_the_data_were_asked_for_is_kept_and_not_bound(tmp_path: Path) -> None:
    def create(inputs: dict[str, object] | None) -> Study:
        return Study.create("toy", toy.url(tmp_path), space=toy.space(), protocol=toy.PROTOCOL, inputs=inputs)

    assert create(None).inputs is None
    assert create({"data": "/old"}).inputs == {"data": "/old"}
    assert create({"data": "/new"}).inputs == {"data": "/new"}
    assert create(None).inputs == {"data": "/new"}


def test_two_searches_at_once_train_no_seed_twice(study: Study) -> None:
    begun = threading.Barrier(2)
    trained: list[int] = []

    def train(architecture: Architecture, seed: int) -> Replicate:
        found = [each for each in study.replicates().get(architecture.id, []) if each.seed == seed]
        if found:
            return found[0]
        trained.append(seed)
        time.sleep(0.05)  # while the other one may begin
        return Trainer(study, luck)(architecture, seed)

    def search() -> None:
        begun.wait()
        confirm(study, train, repeats=4, further=0)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(search) for _ in range(2)]:
            done.result()
    assert sorted(trained) == sorted(set(trained))
    assert len(trained) == 4
