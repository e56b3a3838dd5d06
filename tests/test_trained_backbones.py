"""Searches from trained weights, with frozen backbones, with arguments for the model, and at every position."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import small
import timm
import torch
from torch import Tensor, nn

import nas
from nas import placement, proxy
from nas.architecture import Architecture, Placement
from nas.cli import main
from nas.data import SearchData
from nas.data import load as load_data
from nas.evaluate import Evaluator
from nas.flags import model_kwargs
from nas.protocol import Protocol
from nas.store import Store
from nas.trainer import Trainer

CPU = torch.device("cpu")
PROTOCOL = dataclasses.replace(small.PROTOCOL, epochs=1, batch_size=32, latency_seconds=0.02)
ARCHITECTURE = Architecture(
    backbone="test_resnet",
    placements=(Placement(stage=2, block="bam"), Placement(stage=4, block="se", position="in_residual")),
)
SMALL = ["--limit", "300", "--resolution", "32", "--epochs", "1", "--batch-size", "32", "--latency-seconds", "0.1"]
SMALL += ["--repeats", "1"]


@pytest.fixture(scope="module")
def data() -> SearchData:
    return load_data("digits", limit=200, resolution=16).search()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("weights") / "trained.pth", 17)


def saved(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    torch.save(timm.create_model("test_resnet", in_chans=1, num_classes=4).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def weights(checkpoint: Path) -> placement.Weights:
    return placement.pretrained("test_resnet", num_classes=10, in_channels=1, checkpoint=checkpoint)


class Seen:
    """Evaluates an architecture, and keeps the model as it was before and after its training."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.train = proxy.train
        monkeypatch.setattr("nas.proxy.train", self)

    def __call__(self, model: nn.Module, *arguments: Any, **named: Any) -> proxy.Curve:
        self.blocks = {
            name for name, module in model.named_modules() if any(module is block for block in named["blocks"])
        }
        self.before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        curve = self.train(model, *arguments, **named)
        self.after = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        return curve

    def changed(self) -> set[str]:
        return {name for name, tensor in self.after.items() if not torch.equal(tensor, self.before[name])}

    def of_blocks(self) -> set[str]:
        return {name for name in self.before if any(name.startswith(f"{block}.") for block in self.blocks)}


def evaluator(
    folder: Path, data: SearchData, weights: placement.Weights | None, **changes: Any
) -> tuple[Evaluator, Protocol]:
    protocol = dataclasses.replace(PROTOCOL, weights=weights.words if weights else "", **changes)
    store = Store(f"sqlite:///{folder / 'cache.db'}")
    store.create()
    return Evaluator(Trainer(data, protocol, CPU, weights), store), protocol


def test_a_frozen_backbone_stays_bit_for_bit(
    tmp_path: Path, data: SearchData, weights: placement.Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Seen(monkeypatch)
    frozen, _ = evaluator(tmp_path, data, weights, freeze_backbone=True)
    evaluation = frozen(ARCHITECTURE)
    assert seen.blocks == {"layer2.0.attention_2", "layer4.0.bn2.attention_4_in_residual"}
    for name, tensor in weights.tensors.items():
        assert torch.equal(seen.before[name], tensor), name
        assert torch.equal(seen.after[name], tensor), name
    assert seen.changed() <= seen.of_blocks() | {"fc.weight", "fc.bias"}
    assert {"fc.weight", "fc.bias"} < seen.changed()
    norms = {name for name in seen.of_blocks() if name.endswith("running_mean")}
    assert norms  # of bam
    assert norms < seen.changed()
    assert {name.rpartition(".attention_")[0] for name in seen.changed()} == {"", "layer2.0", "layer4.0.bn2"}
    assert evaluation.parameters == sum(
        tensor.numel() for name, tensor in seen.after.items() if "running" not in name and "num_batches" not in name
    )


def test_a_backbone_that_is_not_frozen_changes(
    tmp_path: Path, data: SearchData, weights: placement.Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Seen(monkeypatch)
    evaluator(tmp_path, data, weights)[0](ARCHITECTURE)
    assert set(weights.tensors) - seen.changed() <= {
        name for name in seen.after if name.endswith("num_batches_tracked")
    }


@pytest.mark.slow
def test_the_factor_of_blocks_slows_them_alone(
    tmp_path: Path, data: SearchData, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = {}
    for factor in (1.0, 1e-6):
        seen = Seen(monkeypatch)
        evaluator(tmp_path, data, None, block_lr_factor=factor)[0](ARCHITECTURE)
        moved[factor] = {
            in_blocks: distance(seen, {n for n in seen.before if (n in seen.of_blocks()) == in_blocks})
            for in_blocks in (True, False)
        }
        monkeypatch.undo()
    assert moved[1e-6][True] < 1e-4 * moved[1.0][True]
    assert moved[1e-6][False] > 0.2 * moved[1.0][False]


def distance(seen: Seen, names: set[str]) -> float:
    """The largest change of a trained tensor."""
    trained = [name for name in names if "running" not in name and "num_batches" not in name]
    return max(float((seen.after[name] - seen.before[name]).abs().max()) for name in trained)


@pytest.mark.parametrize("factor", [0.0, -1.0, float("inf"), float("nan")])
def test_a_factor_that_is_no_factor_is_refused(factor: float) -> None:
    with pytest.raises(ValueError, match="block_lr_factor must be positive and finite, but got"):
        dataclasses.replace(PROTOCOL, block_lr_factor=factor)


def test_fresh_weights_cannot_be_frozen() -> None:
    with pytest.raises(ValueError, match="only frozen with trained weights; fresh ones have to be trained"):
        dataclasses.replace(PROTOCOL, freeze_backbone=True)


@pytest.mark.parametrize("given", [None, "others"])
def test_the_trainer_wants_the_weights_of_its_protocol(
    given: str | None, tmp_path: Path, data: SearchData, weights: placement.Weights
) -> None:
    protocol = dataclasses.replace(PROTOCOL, weights=weights.words)
    others = None if given is None else dataclasses.replace(weights, words=given)
    with pytest.raises(ValueError, match="the protocol needs the weights 'trained.pth"):
        Trainer(data, protocol, CPU, others)


def test_what_changes_an_evaluation_changes_the_protocol() -> None:
    trained = dataclasses.replace(PROTOCOL, weights="a.pth (sha256 0)")
    others = [
        PROTOCOL,
        trained,
        dataclasses.replace(PROTOCOL, weights="a.pth (sha256 1)"),
        dataclasses.replace(trained, freeze_backbone=True),
        dataclasses.replace(PROTOCOL, block_lr_factor=0.5),
        dataclasses.replace(PROTOCOL, model_kwargs={"drop_path_rate": 0.1}),
        dataclasses.replace(PROTOCOL, model_kwargs={"drop_path_rate": 0.2}),
    ]
    assert len({protocol.hash for protocol in others}) == len(others)
    for protocol in others:
        assert Protocol.from_dict(json.loads(json.dumps(protocol.to_dict()))) == protocol
    first, second = ({"a": 1, "b": (1, 2)}, {"b": [1, 2], "a": 1})
    assert (
        dataclasses.replace(PROTOCOL, model_kwargs=first).hash
        == dataclasses.replace(PROTOCOL, model_kwargs=second).hash
    )


@pytest.mark.parametrize("given", [{"act": nn.ReLU}, {1: 2}, {"a": {"b": 1}}, [("a", 1)], {"a": [[1]]}])
def test_arguments_that_json_cannot_keep_are_refused(given: Any) -> None:
    with pytest.raises(ValueError, match="model_kwargs must"):
        dataclasses.replace(PROTOCOL, model_kwargs=given)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], {}),
        (["drop_path_rate=0.1", "img_size=64"], {"drop_path_rate": 0.1, "img_size": 64}),
        (["global_pool=avg", "act_layer=relu=x"], {"global_pool": "avg", "act_layer": "relu=x"}),
        (
            ["dynamic_img_size=True", "a=None", "b=(1, 2)", "c='1'", "d="],
            {"dynamic_img_size": True, "a": None, "b": (1, 2), "c": "1", "d": ""},
        ),
    ],
)
def test_words_for_the_model(words: list[str], found: dict[str, Any]) -> None:
    assert model_kwargs(words) == found


@pytest.mark.parametrize("word", ["drop_path_rate", "=1", "a b=1", "1a=1", ""])
def test_bad_words_for_the_model(word: str) -> None:
    with pytest.raises(ValueError, match="--model-kwargs takes NAME=VALUE, such as drop_path_rate=0.1, but got"):
        model_kwargs([word])


def test_the_same_word_twice() -> None:
    with pytest.raises(ValueError, match="--model-kwargs has a twice"):
        model_kwargs(["a=1", "a=1"])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def space_file(folder: Path, backbone: str = "test_resnet") -> str:
    space = f"SearchSpace(backbones=({backbone!r},), blocks=('se', 'eca'), init='paper')"
    (folder / "mine.py").write_text(f"from nas.space import SearchSpace\nSPACE = {space}\n")
    return "mine.py"


def run(folder: Path, *words: str, budget: int = 1, backbone: str = "test_resnet") -> int:
    asked = ["--space", space_file(folder, backbone), "--budget", str(budget), "--device", "cpu", "--study", "one"]
    return main([*asked, *SMALL, *words])


def exported(folder: Path, pick: str) -> dict[str, Any]:
    out = folder / "out.json"
    assert main(["export", "--study", "one", "--pick", pick, "--out", str(out)]) == 0
    content: dict[str, Any] = json.loads(out.read_text())
    return content


@pytest.mark.slow
def test_arguments_for_the_model_reach_it_and_the_export(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = []
    train = proxy.train

    def watched(model: nn.Module, *arguments: Any, **named: Any) -> proxy.Curve:
        rates.append(rate_of(model))
        return train(model, *arguments, **named)

    monkeypatch.setattr("nas.proxy.train", watched)
    assert run(here, "--model-kwargs", "drop_path_rate=0.1", backbone="test_convnext") == 0
    assert rates == [pytest.approx(0.1)] * 2  # the trial, and a further seed of the bare backbone
    assert exported(here, "trial:0")["protocol"]["model_kwargs"] == {"drop_path_rate": 0.1}
    assert rate_of(nas.load(here / "out.json")) == pytest.approx(0.1)


def rate_of(model: nn.Module) -> float:
    return max(getattr(module, "drop_prob", None) or 0.0 for module in model.modules())


@pytest.mark.slow
def test_a_study_keeps_to_its_checkpoint(here: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(here, "--checkpoint", str(checkpoint)) == 0
    content = exported(here, "trial:0")
    assert content["protocol"]["weights"].startswith("trained.pth (sha256 ")
    assert content["protocol"]["learning_rate"] == pytest.approx(0.01)  # a tenth on trained weights
    capsys.readouterr()
    for words in (["--checkpoint", str(saved(here / "trained.pth", 18))], []):
        assert run(here, *words) == 2
        assert "protocol.weights" in capsys.readouterr().err
    moved = here / "elsewhere"
    moved.mkdir()
    same = moved / "trained.pth"
    same.write_bytes(checkpoint.read_bytes())
    assert run(here, "--checkpoint", str(same)) == 0


@pytest.mark.slow
def test_blocks_start_as_the_identity_on_trained_weights(here: Path, checkpoint: Path) -> None:
    assert run(here, "--checkpoint", str(checkpoint), "--freeze-backbone", budget=2) == 0
    content = exported(here, "trial:1")
    assert {placed["init"] for placed in content["architecture"]["placements"]} == {"identity"}
    assert content["protocol"]["freeze_backbone"] is True


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "words", "positions"),
    [
        ("test_resnet", ["--positions", "in_residual"], {"in_residual"}),
        ("mobilenetv3_small_050", ["--positions", "replace"], {"replace"}),
        ("test_efficientnet", ["--positions", "replace,after_stage"], {"replace", "after_stage"}),
        ("test_vit", ["--positions", "in_residual"], {"in_residual"}),
        ("test_vit", ["--model-kwargs", "dynamic_img_size=False", "global_pool=avg"], {"after_stage"}),
        ("test_mambaout", ["--positions", "after_stage,in_residual"], {"after_stage", "in_residual"}),
        ("test_convnext", ["--positions", "in_residual", "--init", "identity"], {"in_residual"}),
    ],
)
def test_a_search_at_each_position_ends_in_models(
    here: Path, backbone: str, words: list[str], positions: set[str]
) -> None:
    assert run(here, *words, backbone=backbone, budget=4) == 0
    with (here / "studies" / "one" / "front.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    used = set()
    for row in rows:
        content = exported(here, f"trial:{row['trial']}")
        used |= {placed["position"] for placed in content["architecture"]["placements"]}
        model = nas.load(here / "out.json").eval()
        assert sum(parameter.numel() for parameter in model.parameters()) == int(row["parameters"])
        with torch.no_grad():
            assert model(torch.randn(2, 1, 32, 32)).shape == (2, 10)
    assert used
    assert used <= positions
    assert len({row["parameters"] for row in rows}) > 1


@pytest.mark.slow
def test_one_trial_at_each_place(here: Path) -> None:
    assert run(here, "--positions", "replace", budget=2, backbone="test_efficientnet") == 0
    content = exported(here, "trial:1")
    assert content["architecture"]["placements"]
    assert {placed["position"] for placed in content["architecture"]["placements"]} == {"replace"}
    with (here / "studies" / "one" / "front.csv").open() as file:
        bare, second = list(csv.DictReader(file))
    model = nas.load(here / "out.json")
    assert total(model.parameters()) == int(second["parameters"]) < int(bare["parameters"])


def total(tensors: Any) -> int:
    return sum(tensor.numel() for tensor in tensors if isinstance(tensor, Tensor))
