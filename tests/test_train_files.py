"""Checkpoints that cannot be read: nothing is given up that may be whole, and the curve comes out the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from made_config import few_digits, protocol_of

from nas import trainer
from nas.architecture import Architecture
from nas.train import keeping, loop
from nas.train.keeping import read_curve
from nas.train.loop import Watcher
from nas.train.parallel import Crew
from nas.train.settings import Settings, Start, TrainingFailed, recipe_of


class Heard(Watcher):
    """Keeps what it is told, and breaks off at a step."""

    def __init__(self, stop_at: int = -1) -> None:
        self.steps, self.stop_at, self.said = 0, stop_at, list[str]()

    def step(self) -> None:
        self.steps += 1
        if self.steps == self.stop_at:
            raise KeyboardInterrupt

    def say(self, words: str) -> None:
        self.said.append(words)


def fit(folder: Path, watcher: Watcher | None = None, *, lr: float = 0.05) -> loop.Trained:
    crew = Crew(device=torch.device("cpu"))
    recipe = recipe_of(protocol_of(), Settings(epochs=4, lr=lr), Start(kind="fresh"), "cpu")
    model = trainer.build(Architecture(backbone="test_resnet"), protocol_of(), crew.device)
    return loop.fit(model, few_digits(), recipe, seed=3, folder=folder, crew=crew, watcher=watcher)


def losses(trained: loop.Trained) -> list[str]:
    return [row["train_loss"] for row in trained.curve]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return losses(fit(tmp_path_factory.mktemp("whole")))


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    """Three epochs of a training; what is numbered is a file of its own and of its second epoch."""
    heard = Heard()
    heard.stop_at = 2 * steps_of_an_epoch() + 1
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, heard)
    second = (tmp_path / "last.pth.tar").read_bytes()
    heard = Heard(steps_of_an_epoch() + 1)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, heard)
    for path in tmp_path.glob("checkpoint-*"):
        path.unlink()
    (tmp_path / "checkpoint-2.pth.tar").write_bytes(second)
    assert len(read_curve(tmp_path / "summary.csv")) == 3
    return tmp_path


def steps_of_an_epoch() -> int:
    return len(few_digits().train) // 32


def test_a_checkpoint_that_was_cut_off_gives_way_to_an_earlier_one(cut: Path, whole: list[str]) -> None:
    last = cut / "last.pth.tar"
    last.write_bytes(last.read_bytes()[:-5000])
    heard = Heard()
    assert losses(fit(cut, heard)) == whole
    assert heard.steps == 2 * steps_of_an_epoch()
    assert heard.said[0].endswith("last.pth.tar is not whole: goes on from checkpoint-2.pth.tar, after 2 epochs")


def test_a_checkpoint_that_is_gone_gives_way_to_an_earlier_one(cut: Path, whole: list[str]) -> None:
    (cut / "last.pth.tar").unlink()
    (cut / "tmp.pth.tar").write_bytes(b"half")
    heard = Heard()
    assert losses(fit(cut, heard)) == whole
    assert heard.said[0].endswith("last.pth.tar is gone: goes on from checkpoint-2.pth.tar, after 2 epochs")


def test_nothing_is_touched_where_no_checkpoint_is_whole(cut: Path) -> None:
    for name in ("last.pth.tar", "checkpoint-2.pth.tar"):
        (cut / name).write_bytes((cut / name).read_bytes()[:1000])
    before = contents(cut)
    with pytest.raises(TrainingFailed, match=r"last.pth.tar is not whole, and there is no whole checkpoint besides"):
        fit(cut)
    assert contents(cut) == before


@pytest.mark.parametrize("name", ["last.pth.tar", "tmp.pth.tar", "checkpoint-2.pth.tar"])
@pytest.mark.parametrize("failure", [PermissionError("not now"), MemoryError(), RuntimeError("mmap failed")])
def test_a_look_that_fails_costs_nothing(
    cut: Path, whole: list[str], monkeypatch: pytest.MonkeyPatch, name: str, failure: Exception
) -> None:
    if name != "last.pth.tar":
        (cut / "last.pth.tar").rename(cut / "tmp.pth.tar")
    if name.startswith("checkpoint"):
        (cut / "tmp.pth.tar").unlink()
    before, load = contents(cut), torch.load

    def failing(path: Path, **named: object) -> object:
        if Path(path).name == name:
            raise failure
        return load(path, **named)

    with monkeypatch.context() as patch:
        patch.setattr(keeping.torch, "load", failing)
        with pytest.raises(TrainingFailed, match=f"{name} cannot be read: {type(failure).__name__}: .*nothing has"):
            fit(cut)
    assert contents(cut) == before
    assert losses(fit(cut)) == whole


def test_what_cannot_be_opened_costs_nothing(cut: Path) -> None:
    (cut / "last.pth.tar").unlink()
    (cut / "last.pth.tar").mkdir()  # opening it raises an OSError, for root too
    before = contents(cut)
    with pytest.raises(TrainingFailed, match=r"last.pth.tar cannot be read: IsADirectoryError|PermissionError"):
        fit(cut)
    assert contents(cut) == before


def test_a_curve_with_gaps_is_refused(cut: Path) -> None:
    rows = (cut / "summary.csv").read_text().splitlines(keepends=True)
    (cut / "summary.csv").write_text("".join([rows[0], *rows[2:]]))
    before = contents(cut)
    with pytest.raises(TrainingFailed, match=r"summary.csv does not hold the 3 epochs of last.pth.tar one by one"):
        fit(cut)
    assert contents(cut) == before
