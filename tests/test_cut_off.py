"""Trainings whose process is killed: the next one goes on from the last epoch that was kept, as if nothing had been."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import small

from nas import pauses, proxy
from nas.architecture import Architecture, Placement
from nas.data import load as load_data
from nas.evaluate import Evaluator
from nas.evaluation import Cost, EvaluationError
from nas.pauses import Pause, Pauses
from nas.proxy import Curve
from nas.replicate import Replicator
from nas.rungs import StoppedError
from nas.store import Store
from nas.trainer import Trainer

SE = Architecture(backbone="test_resnet", placements=(Placement(stage=4, block="se", options={"reduction": 4}),))
PROTOCOL = replace(small.PROTOCOL, epochs=5, latency_seconds=0.05, average_epochs=3, model_kwargs={"drop_rate": 0.3})
KEY = f"{SE.id}-{PROTOCOL.hash}"
KILLED = """
import os, signal, sys
import torch
import test_cut_off as shared
from nas import pauses

torch.set_num_threads(int(sys.argv[2]))
shared.keep_always(lambda owner, name, value: setattr(owner, name, value))

def rule(architecture, cost, images):
    def after_epoch(epoch, accuracy):
        if epoch == 4:
            os.kill(os.getpid(), signal.SIGKILL)
    return after_epoch

shared.evaluator(shared.Path(sys.argv[1]), rule)(shared.SE)
"""


def keep_always(change: Callable[[object, str, float], None]) -> None:
    change(pauses, "CHECKPOINT_SECONDS", 0.0)
    change(pauses, "MOST_SHARE", float("inf"))


def store(folder: Path) -> Store:
    made = Store(f"sqlite:///{folder / 'studies.db'}")
    made.create()
    return made


def trainer() -> Trainer:
    return Trainer(load_data("digits", limit=300, resolution=16).search(), PROTOCOL, small.CPU)


def evaluator(folder: Path, rule: object = None, *, keeps_stopped: bool = True) -> Evaluator:
    return Evaluator(
        trainer(),
        store(folder),
        stop_rule=rule,  # type: ignore[arg-type]
        pauses=Pauses(folder / "stopped"),
        keeps_stopped=keeps_stopped,
    )


class Rule:
    """Notes the epochs, and raises after one of them."""

    def __init__(self, epoch: int = 0, error: BaseException | None = None) -> None:
        self.epoch, self.error = epoch, error
        self.seen: list[int] = []

    def __call__(self, architecture: Architecture, cost: Cost, images: int) -> Callable[[int, float], None]:
        def after_epoch(epoch: int, accuracy: float) -> None:
            self.seen.append(epoch)
            if epoch == self.epoch and self.error is not None:
                raise self.error

        return after_epoch


def stopped() -> StoppedError:
    return StoppedError("weak", [0.5], None)  # type: ignore[arg-type]


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_always(monkeypatch.setattr)


@pytest.fixture(scope="module")
def whole() -> Curve:
    trained = trainer()
    return trained.train(trained.build(SE))


@pytest.fixture
def validations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every epoch that is really trained."""
    inner, seen = proxy.accuracy, []

    def watched(*arguments: object) -> float:
        seen.append(1)
        return inner(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(proxy, "accuracy", watched)
    return seen


@contextmanager
def cut_off(epoch: int) -> Iterator[None]:
    """Raise KeyboardInterrupt in the validation after an epoch."""
    with pytest.MonkeyPatch.context() as patch:
        inner, seen = proxy.accuracy, []

        def watched(*arguments: object) -> float:
            seen.append(1)
            if len(seen) == epoch:
                raise KeyboardInterrupt
            return inner(*arguments)  # type: ignore[arg-type]

        patch.setattr(proxy, "accuracy", watched)
        with pytest.raises(KeyboardInterrupt):
            yield


def kept(folder: Path) -> int:
    """Return how many epochs the kept training has had; 0 where none is kept."""
    state = Pauses(folder / "stopped").get(KEY)
    return len(state["accuracies"]) if state is not None else 0


def test_what_was_killed_goes_on_and_ends_as_if_it_had_not_been(
    tmp_path: Path, whole: Curve, validations: list[int]
) -> None:
    import torch

    child = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), str(torch.get_num_threads())],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert kept(tmp_path) == 3
    rule = Rule()
    found = evaluator(tmp_path, rule)(SE)
    assert (found.curve, found.accuracy) == (whole.accuracies, whole.accuracies[-1])
    assert rule.seen == [1, 2, 3, 4, 5]
    assert len(validations) == 2
    assert not (tmp_path / "stopped").exists()


@pytest.mark.usefixtures("always")
class TestWhatIsKept:
    def test_nothing_after_the_last_epoch(self, tmp_path: Path, whole: Curve) -> None:
        trained, place = trainer(), Pauses(tmp_path / "stopped")
        found = trained.train(trained.build(SE), pause=Pause(place, KEY))
        assert found.accuracies == whole.accuracies
        assert kept(tmp_path) == 4

    @pytest.mark.parametrize(
        ("error", "epochs"),
        [
            (EvaluationError("non-finite loss"), 0),
            (KeyboardInterrupt(), 2),
            (ConnectionError("the database is gone"), 2),
        ],
        ids=["failed", "Ctrl-C", "database"],
    )
    def test_what_failed_is_forgotten_and_what_was_cut_off_is_not(
        self, tmp_path: Path, whole: Curve, validations: list[int], error: BaseException, epochs: int
    ) -> None:
        with pytest.raises(type(error)):
            evaluator(tmp_path, Rule(3, error))(SE)
        assert kept(tmp_path) == epochs
        assert evaluator(tmp_path)(SE).curve == whole.accuracies
        assert len(validations) == 3 + 5 - epochs

    def test_what_was_stopped_for_good_is_forgotten(self, tmp_path: Path) -> None:
        with pytest.raises(StoppedError):
            evaluator(tmp_path, Rule(3, stopped()), keeps_stopped=False)(SE)
        assert not (tmp_path / "stopped").exists()
        with pytest.raises(StoppedError):
            evaluator(tmp_path, Rule(3, stopped()))(SE)
        assert kept(tmp_path) == 3

    def test_who_stops_it_before_where_it_was_kept_leaves_it_as_it_is(
        self, tmp_path: Path, whole: Curve, validations: list[int]
    ) -> None:
        """A rung looks at it again, with what it knows now; the weights are those of a later epoch."""
        with pytest.raises(KeyboardInterrupt):
            evaluator(tmp_path, Rule(4, KeyboardInterrupt()))(SE)
        rule = Rule(2, stopped())
        with pytest.raises(StoppedError):
            evaluator(tmp_path, rule)(SE)
        assert (rule.seen, kept(tmp_path)) == ([1, 2], 3)
        assert evaluator(tmp_path)(SE).curve == whole.accuracies
        assert len(validations) == 4 + 0 + 2

    def test_the_evaluation_is_kept_before_the_training_is_forgotten(
        self, tmp_path: Path, whole: Curve, monkeypatch: pytest.MonkeyPatch, validations: list[int]
    ) -> None:
        def gone(*_arguments: object) -> None:
            raise ConnectionError("the database is gone")

        one = evaluator(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(Store, "put", gone)
            with pytest.raises(ConnectionError):
                one(SE)
        assert one(SE).curve == whole.accuracies
        assert len(validations) == 5 + 1

    def test_it_is_written_in_a_turn(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        inside: list[int] = []
        written: list[bool] = []

        @contextmanager
        def turn() -> Iterator[None]:
            inside.append(1)
            yield
            inside.pop()

        monkeypatch.setattr(Pauses, "put", lambda *_: written.append(bool(inside)))
        trained = trainer()
        trained.train(trained.build(SE), turn=turn, pause=Pause(Pauses(tmp_path / "stopped"), KEY))
        assert written == [True] * 4

    def test_further_seeds_go_on_too(self, tmp_path: Path, validations: list[int]) -> None:
        expected = Replicator(trainer(), store(tmp_path))(SE, 1)
        validations.clear()
        other = tmp_path / "other"
        other.mkdir()
        place = Pauses(other / "stopped")
        with cut_off(4):
            Replicator(trainer(), store(other), pauses=place)(SE, 1)
        assert len(list((other / "stopped").iterdir())) == 1
        validations.clear()
        found = Replicator(trainer(), store(other), pauses=place)(SE, 1)
        assert (found.curve, found.accuracy) == (expected.curve, expected.accuracy)
        assert len(validations) == 2
        assert not (other / "stopped").exists()


def test_short_trainings_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def put(*_arguments: object) -> None:
        raise AssertionError("kept")

    monkeypatch.setattr(Pauses, "put", put)
    evaluator(tmp_path)(SE)
    assert not (tmp_path / "stopped").exists()


def test_long_ones_are_kept_as_often_as_it_is_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "MOST_SHARE", float("inf"))
    clock = iter(range(0, 10_000, 11))  # every epoch takes 11 seconds
    monkeypatch.setattr(proxy.time, "perf_counter", lambda: float(next(clock)))
    counts: list[int] = []
    monkeypatch.setattr(Pauses, "put", lambda _self, _key, state: counts.append(len(state["accuracies"])))
    trained = trainer()
    trained.train(trained.build(SE), pause=Pause(Pauses(tmp_path), KEY))
    assert counts == [2, 4]
