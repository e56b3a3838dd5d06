"""The warm start: trained once, kept whole, and where every trial starts, bit for bit."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small
import torch
from torch import nn

from nas import cli, proxy, warm
from nas.architecture import Architecture, Placement
from nas.data import SearchData, load
from nas.evaluation import EvaluationError
from nas.placement import pretrained
from nas.protocol import Protocol
from nas.run import search
from nas.settings import Settings
from nas.study import StudyError
from nas.trainer import Trainer

CPU = torch.device("cpu")
BACKBONE = "test_resnet"
BARE = Architecture(backbone=BACKBONE)
PROTOCOL = replace(small.PROTOCOL, epochs=1, batch_size=32, channels_last=True)


@pytest.fixture(scope="module")
def data() -> SearchData:
    return load("digits", limit=200, resolution=16).search()


@pytest.fixture(scope="module")
def cold(data: SearchData) -> Trainer:
    return Trainer(data, PROTOCOL, CPU)


@pytest.fixture(scope="module")
def kept(cold: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the warm start of the cold trainer."""
    folder = tmp_path_factory.mktemp("warm")
    warm.start(cold, BACKBONE, folder, epochs=2)
    return folder


def file_in(folder: Path) -> Path:
    (path,) = folder.glob("*.safetensors")
    return path


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model.eval()(torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
    return result


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The epochs of every training from here on."""
    found: list[int] = []
    train = proxy.train

    def watched(model: nn.Module, data: SearchData, protocol: Protocol, **named: Any) -> proxy.Curve:
        found.append(protocol.epochs)
        return train(model, data, protocol, **named)

    monkeypatch.setattr("nas.proxy.train", watched)
    return found


def test_it_is_the_backbone_that_was_trained(cold: Trainer, kept: Path) -> None:
    warmed = warm.start(cold, BACKBONE, kept, epochs=2)
    recipe = cold.under(epochs=2, seed=PROTOCOL.seed + warm.SEED_OFFSET)
    model = recipe.build(BARE)
    curve = recipe.train(model)
    assert torch.equal(logits(warmed.build(BARE)), logits(model))
    assert warmed.protocol == replace(PROTOCOL, weights=warmed.protocol.weights, warm_epochs=2, warm_learning_rate=0.1)
    assert warmed.protocol.weights.startswith("bare test_resnet after 2 epochs (sha256 ")
    assert proxy.accuracy(warmed.build(BARE), cold.data.val, cold.data, PROTOCOL) == curve.accuracies[-1]


@pytest.mark.parametrize("position", ["after_stage", "in_residual"])
def test_trials_start_as_the_warm_backbone_bit_for_bit(cold: Trainer, kept: Path, position: str) -> None:
    warmed = warm.start(cold, BACKBONE, kept, epochs=2)
    places = ((2, "bam"), (3, "se"), (4, "mhsa"))
    placements = tuple(Placement(stage=s, block=b, position=position, init="identity") for s, b in places)
    trial = warmed.build(Architecture(backbone=BACKBONE, placements=placements))
    assert torch.equal(logits(trial), logits(warmed.build(BARE)))
    seeded = warmed.under(seed=7)  # another seed trains on from the same weights
    assert torch.equal(logits(seeded.build(BARE)), logits(warmed.build(BARE)))


def test_blocks_in_place_of_built_in_attention(data: SearchData, tmp_path: Path) -> None:
    backbone = "test_efficientnet"
    warmed = warm.start(Trainer(data, PROTOCOL, CPU), backbone, tmp_path, epochs=1)
    stages = warmed.plan(backbone).stages
    stage = next(stage.index for stage in stages if stage.widths("replace"))
    trial = warmed.build(
        Architecture(backbone=backbone, placements=(Placement(stage=stage, block="eca", position="replace"),))
    )
    bare = warmed.build(Architecture(backbone=backbone)).state_dict()
    shared = {name: tensor for name, tensor in trial.state_dict().items() if name in bare}
    assert 0 < len(shared) < len(bare)
    assert all(torch.equal(tensor, bare[name]) for name, tensor in shared.items())
    assert 0 <= warmed.train(trial).accuracies[-1] <= 1


def test_it_starts_from_trained_weights_itself(data: SearchData, kept: Path, tmp_path: Path) -> None:
    source = pretrained(BACKBONE, num_classes=10, in_channels=1, checkpoint=file_in(kept))
    trained = Trainer(data, replace(PROTOCOL, weights=source.words, freeze_backbone=True), CPU, source)
    warmed = warm.start(trained, BACKBONE, tmp_path, epochs=1)
    assert warmed.protocol.weights.endswith(f", from {source.words}")
    assert warmed.protocol.freeze_backbone
    first, second = (dict(trainer.build(BARE).named_parameters()) for trainer in (trained, warmed))
    assert not any(torch.equal(first[name], second[name]) for name in first)  # the warm training itself is not frozen


def test_another_training_is_another_file(cold: Trainer) -> None:
    changes: list[dict[str, Any]] = [{}, {"seed": 1}, {"batch_size": 16}, {"data_hash": "1"}]

    def key(trainer: Trainer, epochs: int = 2, rate: float = 0.1, backbone: str = BACKBONE) -> str:
        return warm._key(warm._recipe(trainer, epochs, rate).protocol, backbone)

    keys = [key(cold.under(**change)) for change in changes]
    keys += [key(cold, epochs=3), key(cold, rate=0.05), key(cold, backbone="resnet18")]
    assert len(set(keys)) == len(keys)
    same: list[dict[str, Any]] = [{"epochs": 4}, {"latency_seconds": 9.0}, {"block_lr_factor": 2.0}]
    same += [{"learning_rate": 0.05}]  # that of the trials
    same += [{"epochs": 4, "average_epochs": 3}]
    for change in same:
        assert key(cold.under(**change)) == keys[0]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: content[:-100], "is damaged"),
        (lambda content: b"", "is damaged"),
        (lambda content: content[:-50] + bytes([content[-50] ^ 1]) + content[-49:], "its tensors have sha256 "),
    ],
    ids=["cut off", "empty", "one bit"],
)
def test_a_damaged_file_is_trained_again(
    cold: Trainer, kept: Path, tmp_path: Path, damage: Any, reason: str, trainings: list[int]
) -> None:
    path = tmp_path / file_in(kept).name
    path.write_bytes(damage(file_in(kept).read_bytes()))
    said: list[str] = []
    warmed = warm.start(cold, BACKBONE, tmp_path, epochs=2, on_event=said.append)
    assert trainings == [2]
    assert reason in said[0]
    assert said[0].startswith(f"{path} is damaged (")
    assert warmed.protocol == warm.start(cold, BACKBONE, kept, epochs=2).protocol
    assert trainings == [2]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), EvaluationError("non-finite loss in epoch 1")])
def test_of_a_broken_training_nothing_is_left(
    cold: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def train(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr("nas.proxy.train", train)
        with pytest.raises(type(error), match=f"^the warm start failed: {error}$" if str(error) else None):
            warm.start(cold, BACKBONE, tmp_path, epochs=1)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".lock"}
    assert warm.start(cold, BACKBONE, tmp_path, epochs=1).protocol.warm_epochs == 1


def test_who_comes_second_waits_and_trains_nothing(
    cold: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    train = warm._train

    def slow(recipe: Trainer, backbone: str, path: Path) -> None:
        trained.append(backbone)
        time.sleep(0.2)
        train(recipe, backbone, path)

    monkeypatch.setattr(warm, "_train", slow)
    cold.plan(BACKBONE)
    words: list[str] = []
    threads = [
        threading.Thread(target=lambda: words.append(warm.start(cold, BACKBONE, tmp_path, epochs=1).protocol.weights))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert trained == [BACKBONE]
    assert len(words) == 2
    assert len(set(words)) == 1


@pytest.mark.parametrize("epochs", [0, -1])
def test_it_takes_an_epoch(cold: Trainer, tmp_path: Path, epochs: int) -> None:
    with pytest.raises(ValueError, match=f"takes at least 1 epoch, but got {epochs}"):
        warm.start(cold, BACKBONE, tmp_path, epochs=epochs)


def test_a_protocol_with_warm_epochs_names_the_weights() -> None:
    with pytest.raises(ValueError, match="3 warm epochs give trained weights, but the protocol names none"):
        replace(PROTOCOL, warm_epochs=3)


@pytest.mark.parametrize(
    ("words", "found"), [([], False), (["--warm-start"], True), (["--warm-start", "7"], 7), (["--warm-start", "0"], 0)]
)
def test_the_flag(words: list[str], found: int | bool) -> None:
    given = cli.parser().parse_args(["search", *words]).warm_start
    assert given == found
    assert type(given) is type(found)
    assert Settings(warm_start=given).is_trained == bool(words and found)


def test_less_than_none_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 epoch, or 0 for none, but got -1"):
        Settings(warm_start=-1)


@pytest.mark.slow
def test_searches_share_one_warm_start(tmp_path: Path, trainings: list[int]) -> None:
    space = "SearchSpace(backbones=('test_resnet',), stages=(4,), blocks=('se', 'eca'), init='paper')"
    (tmp_path / "mine.py").write_text(f"from nas.space import SearchSpace\nSPACE = {space}\n")
    said: list[str] = []

    def run(study: str, budget: int, **changes: Any) -> Protocol:
        settings = Settings(
            space=str(tmp_path / "mine.py"),
            budget=budget,
            study=study,
            studies=str(tmp_path / "studies"),
            device="cpu",
            limit=200,
            resolution=32,
            epochs=1,
            batch_size=32,
            latency_seconds=0.02,
            repeats=0,
        )
        return search(replace(settings, **{"warm_start": True, **changes}), on_event=said.append).study.protocol

    protocol = run("one", 2)
    assert trainings[0] == 2
    assert protocol.warm_epochs == 2
    assert protocol.learning_rate == pytest.approx(0.01)  # fresh weights take the tenfold, trained ones lose by it
    assert protocol.warm_learning_rate == 0.1
    assert said[0] == "trying every block at every stage of test_resnet"
    assert said[1] == "training the bare test_resnet for 2 epochs, once, for all trials to start from"
    assert "tensors of the backbone; " in said[2]
    assert run("one", 3) == protocol  # goes on
    assert run("two", 2).weights == protocol.weights
    frozen = run("three", 1, freeze_backbone=True)
    assert frozen == replace(protocol, freeze_backbone=True)
    assert trainings.count(2) == 1
    with pytest.raises(StudyError, match="protocol.weights: "):
        run("one", 3, warm_start=1)
