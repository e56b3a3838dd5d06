"""Trainings that are stopped and taken up again: as if they had not been, and only as long as there is room."""

from __future__ import annotations

import hashlib
import os
import pickle
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small
import torch

from nas.architecture import Architecture, Placement
from nas.data import load as load_data
from nas.evaluate import Evaluator
from nas.evaluation import Cost
from nas.pauses import Pause, Pauses
from nas.rungs import StoppedError
from nas.store import Store
from nas.trainer import Trainer

SE = Architecture(backbone="test_resnet", placements=(Placement(stage=4, block="se", options={"reduction": 4}),))
PROTOCOL = replace(small.PROTOCOL, epochs=5, latency_seconds=0.05)


def trainer(**changes: Any) -> Trainer:
    data = load_data("digits", limit=300, resolution=16).search()
    return Trainer(data, replace(PROTOCOL, **changes), torch.device("cpu"))


class Rule:
    """Stops after an epoch, the first time."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.seen: list[int] = []

    def __call__(self, architecture: Architecture, cost: Cost, images: int) -> Callable[[int, float], None]:
        def after_epoch(epoch: int, accuracy: float) -> None:
            self.seen.append(epoch)
            if epoch == self.epoch and self.seen.count(epoch) == 1:
                raise StoppedError("stopped", [accuracy], cost)

        return after_epoch


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adamw", "learning_rate": 0.003},
        {"average_epochs": 4},
        {"model_kwargs": {"drop_rate": 0.3}},
    ],
    ids=["sgd", "adamw", "average", "dropout"],
)
def test_it_ends_as_if_it_had_not_been_stopped(tmp_path: Path, changes: dict[str, Any]) -> None:
    whole = trainer(**changes)
    straight = whole.build(SE)
    expected = whole.train(straight)

    def stop(epoch: int, accuracy: float) -> None:
        if epoch == 3:
            raise StoppedError("stopped", [accuracy], None)  # type: ignore[arg-type]

    pauses = Pauses(tmp_path / "stopped")
    with pytest.raises(StoppedError):
        whole.train(whole.build(SE), on_epoch=stop, pause=Pause(pauses, "one"))
    other = trainer(**changes)
    torch.rand(7)
    before = torch.get_rng_state()
    model, epochs = other.build(SE), []
    found = other.train(model, pause=Pause(pauses, "one"), on_epoch=lambda epoch, _: epochs.append(epoch))
    assert epochs == [1, 2, 3, 4, 5]  # the first three at once
    assert (found.accuracies, found.losses) == (expected.accuracies, expected.losses)
    assert all(
        torch.equal(mine, theirs)
        for mine, theirs in zip(model.state_dict().values(), straight.state_dict().values(), strict=True)
    )
    assert torch.equal(torch.get_rng_state(), before)


class TestEvaluator:
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        store = Store(f"sqlite:///{tmp_path / 'studies.db'}")
        store.create()
        return store

    def stopped(self, store: Store, folder: Path) -> Rule:
        rule = Rule(2)
        with pytest.raises(StoppedError):
            Evaluator(trainer(), store, stop_rule=rule, pauses=Pauses(folder))(SE)
        return rule

    def test_it_trains_the_rest_and_forgets(self, store: Store, tmp_path: Path) -> None:
        folder = tmp_path / "stopped"
        rule = self.stopped(store, folder)
        (kept,) = folder.iterdir()
        assert kept.name == f"{SE.id}-{PROTOCOL.hash}.pt"
        found = Evaluator(trainer(), store, stop_rule=rule, pauses=Pauses(folder))(SE)
        assert rule.seen == [1, 2, 1, 2, 3, 4, 5]
        assert not folder.exists()
        assert found.curve == trainer().train(trainer().build(SE)).accuracies

    def test_a_rule_that_does_not_know_that_it_stopped_it_stops_it_again(self, store: Store, tmp_path: Path) -> None:
        """As where the process was killed between writing the file and telling the study."""
        folder = tmp_path / "stopped"
        self.stopped(store, folder)
        trained = trainer()
        with pytest.raises(StoppedError):
            Evaluator(trained, store, stop_rule=Rule(2), pauses=Pauses(folder))(SE)
        assert len(list(folder.iterdir())) == 1
        found = Evaluator(trained, store, pauses=Pauses(folder))(SE)
        assert found.curve == trainer().train(trainer().build(SE)).accuracies

    @pytest.mark.parametrize(
        "damage", ["gone", "half", "other", "folder", "empty", "renamed", "bit", "optimiser", "list"]
    )
    def test_what_cannot_be_read_begins_anew(self, store: Store, tmp_path: Path, damage: str) -> None:
        folder = tmp_path / "stopped"
        rule = self.stopped(store, folder)
        (kept,) = folder.iterdir()
        content = kept.read_bytes()
        kept.unlink()
        if damage == "half":
            kept.write_bytes(content[: len(content) // 2])
        elif damage == "other":
            kept.write_bytes(b"not a training")
        elif damage == "folder":
            kept.mkdir()
        elif damage == "bit":
            kept.write_bytes(content[:-5000] + bytes([content[-5000] ^ 1]) + content[-4999:])
        else:
            kept.write_bytes(content)
            state: Any = Pauses(folder).get(kept.stem)
            if damage == "empty":
                state = {}
            elif damage == "renamed":
                state["model"] = {f"old.{name}": tensor for name, tensor in state["model"].items()}
            elif damage == "optimiser":  # found when the weights are loaded already
                state["optimizer"]["param_groups"] = []
            elif damage == "list":
                state["accuracies"] = 0.5
            Pauses(folder).put(kept.stem, state)
        found = Evaluator(trainer(), store, stop_rule=rule, pauses=Pauses(folder))(SE)
        assert rule.seen == [1, 2, 1, 2, 3, 4, 5]
        assert len(found.curve) == 5
        assert found.curve == trainer().train(trainer().build(SE)).accuracies

    def test_one_of_another_protocol_is_not_taken(self, store: Store, tmp_path: Path) -> None:
        folder = tmp_path / "stopped"
        rule = self.stopped(store, folder)
        Evaluator(trainer(seed=1), store, stop_rule=rule, pauses=Pauses(folder))(SE)
        assert rule.seen == [1, 2, 1, 2, 3, 4, 5]
        assert len(list(folder.iterdir())) == 1


STATE = {"weights": torch.zeros(25_000), "epoch": 3}  # 100 kB


class TestRoom:
    def test_what_was_kept_is_what_is_found(self, tmp_path: Path) -> None:
        pauses = Pauses(tmp_path / "a" / "b")
        assert pauses.get("one") is None
        pauses.put("one", STATE)
        found = pauses.get("one")
        assert found is not None
        assert (found["epoch"], found["weights"].shape) == (3, (25_000,))
        pauses.drop("one")
        pauses.drop("one")
        assert pauses.get("one") is None

    def test_a_bit_that_flipped_is_found(self, tmp_path: Path) -> None:
        pauses = Pauses(tmp_path)
        pauses.put("one", STATE)
        content = bytearray((tmp_path / "one.pt").read_bytes())
        content[len(content) // 2] ^= 1  # in the weights, where torch alone would not see it
        (tmp_path / "one.pt").write_bytes(content)
        assert pauses.get("one") is None

    def test_the_oldest_make_room(self, tmp_path: Path) -> None:
        pauses = Pauses(tmp_path, most_bytes=350_000)
        for number in range(5):
            pauses.put(str(number), STATE)
            os.utime(tmp_path / f"{number}.pt", (number, number))
        assert sorted(path.stem for path in tmp_path.iterdir()) == ["2", "3", "4"]
        Pauses(tmp_path, most_bytes=50_000).put("large", STATE)  # does not fit at all, and drives nothing out
        assert len(list(tmp_path.iterdir())) == 3

    def test_what_a_killed_process_left_unfinished_makes_room_first(self, tmp_path: Path) -> None:
        (tmp_path / ".one.1.tmp").write_bytes(bytes(300_000))
        os.utime(tmp_path / ".one.1.tmp", (1, 1))
        Pauses(tmp_path, most_bytes=350_000).put("two", STATE)
        assert [path.name for path in tmp_path.iterdir()] == ["two.pt"]

    def test_a_full_disk_is_no_reason_to_fail(self, tmp_path: Path) -> None:
        resource = pytest.importorskip("resource", reason="needs a limit on the size of files")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        pauses = Pauses(tmp_path)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
        try:
            pauses.put("one", STATE)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert list(tmp_path.iterdir()) == []
        pauses.put("one", STATE)
        assert [path.name for path in tmp_path.iterdir()] == ["one.pt"]

    def test_a_folder_that_cannot_be_made_is_no_reason_to_fail(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        pauses = Pauses(tmp_path / "file" / "stopped")
        pauses.put("one", STATE)
        assert pauses.get("one") is None
        pauses.drop("one")
        pauses.clear()

    def test_all_is_forgotten_at_the_end(self, tmp_path: Path) -> None:
        pauses = Pauses(tmp_path / "stopped")
        pauses.put("one", STATE)
        pauses.clear()
        assert not (tmp_path / "stopped").exists()
        pauses.clear()

    def test_what_others_work_on_may_stay(self, tmp_path: Path) -> None:
        pauses = Pauses(tmp_path / "stopped")
        for name in ("aa-1.pt", "bb-1.pt", ".aa-1.7.x.tmp", ".cc-1.7.x.tmp"):
            (tmp_path / "stopped").mkdir(exist_ok=True)
            (tmp_path / "stopped" / name).write_text("")
        pauses.clear(besides=["aa", "dd"])
        assert sorted(path.name for path in (tmp_path / "stopped").iterdir()) == [".aa-1.7.x.tmp", "aa-1.pt"]
        pauses.clear(besides=["dd"])
        assert not (tmp_path / "stopped").exists()
        pauses.clear(besides=["dd"])

    def test_readers_meet_whole_files_while_others_write_the_same_one(self, tmp_path: Path) -> None:
        """As where a worker that was taken for dead trains on, beside the one that repeats its trial."""
        Pauses(tmp_path).put("one", {"weights": torch.zeros(5000)})

        def write(value: float) -> None:
            for _ in range(100):
                Pauses(tmp_path).put("one", {"weights": torch.full((5000,), value)})

        writers = [threading.Thread(target=write, args=(value,)) for value in (1.0, 2.0)]
        for writer in writers:
            writer.start()
        seen = []
        while any(writer.is_alive() for writer in writers):
            found = Pauses(tmp_path).get("one")
            assert found is not None
            seen.append(set(found["weights"].tolist()))
        assert all(len(values) == 1 for values in seen)
        assert [path.name for path in tmp_path.iterdir()] == ["one.pt"]


def test_a_file_that_would_run_something_runs_nothing(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    pauses = Pauses(tmp_path / "stopped")
    pauses.put("one", {"model": Bomb()})
    assert (tmp_path / "stopped" / "one.pt").stat().st_size > 32
    assert pauses.get("one") is None
    for content in (pickle.dumps(Bomb()), b""):
        (tmp_path / "stopped" / "one.pt").write_bytes(hashlib.sha256(content).digest() + content)
        assert pauses.get("one") is None
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Bomb()))  # it would have
    assert (tmp_path / "ran").exists()


class TestWhenToKeep:
    def test_short_trainings_never_pay_and_long_ones_a_share(self, tmp_path: Path) -> None:
        pauses = Pauses(tmp_path)
        pause = Pause(pauses, "one")
        assert not pause.is_time(19.9)
        assert pause.is_time(20)
        pause.kept_at = 30
        assert not pause.is_time(49)
        assert pause.is_time(51)
        large = {"weights": [torch.zeros(25_000_000)]}  # a second on a slow disk
        pause.kept_at = 0
        assert not pause.is_worth(large, 99)
        assert pause.is_worth(large, 101)
        pause.kept_at = 50
        assert not pause.is_worth(large, 101)

    def test_what_it_took_last_time_is_what_counts(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        ticks = iter([0.0, 3.0])
        monkeypatch.setattr("nas.pauses.time.perf_counter", lambda: next(ticks))
        pauses = Pauses(tmp_path)
        pauses.put("one", STATE)
        assert pauses.seconds_for(100_000) == pytest.approx(3)
        assert not Pause(pauses, "two").is_worth(STATE, 299)
        assert Pause(pauses, "two").is_worth(STATE, 301)

    def test_what_has_no_room_is_not_tried(self, tmp_path: Path) -> None:
        assert not Pause(Pauses(tmp_path, most_bytes=50_000), "one").is_worth(STATE, 1e9)
