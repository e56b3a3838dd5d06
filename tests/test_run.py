"""The main job on real data, small: the search, its files, the export, and that it can be repeated."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import nas
from nas import placement, run
from nas.architecture import Architecture, Stage
from nas.data import Splits
from nas.data import load as load_data
from nas.evaluate import Evaluator
from nas.evaluation import EvaluationError
from nas.export import ConfigError
from nas.facts import facts
from nas.preflight import preflight
from nas.protocol import Protocol
from nas.run import Result, search
from nas.settings import Settings, make_protocol
from nas.space import ResolvedSpace, SearchSpace
from nas.store import Store
from nas.study import RunFailed, StudyError
from nas.threads import threads_of_torch
from nas.trainer import Trainer

SPACE = """
from nas.space import SearchSpace
SPACE = SearchSpace(backbones=("test_resnet",), stages=(2, 4), blocks=("se", "eca", "simam"))
"""
BUDGET = 6


@pytest.fixture(scope="module")
def space_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("space") / "small.py"
    path.write_text(SPACE)
    return path


def settings(folder: Path, space: Path, **changes: object) -> Settings:
    small = Settings(
        budget=BUDGET,
        space=str(space),
        limit=300,
        resolution=16,
        epochs=1,
        batch_size=32,
        device="cpu",
        sampler="tpe",
        latency_seconds=0.02,
        repeats=1,
        study="small",
        studies=str(folder),
    )
    return dataclasses.replace(small, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, space_file: Path) -> Result:
    return search(settings(tmp_path_factory.mktemp("studies"), space_file))


@pytest.fixture(scope="module")
def folder(result: Result) -> Path:
    path = Path(result.study.url.removeprefix("sqlite:///")).parent / "small"
    assert path.is_dir()
    return path


def test_the_search_ends_with_its_budget(result: Result) -> None:
    rows = result.study.rows()
    assert len({row.architecture.id for row in rows}) == BUDGET
    assert [row.control for row in rows[:4]] == ["bare", "se everywhere", "eca everywhere", "cbam everywhere"]
    assert all(0 <= row.accuracy_low <= row.accuracy <= row.accuracy_high <= 1 for row in rows)
    assert all(row.ratio_low <= row.latency_ratio <= row.ratio_high for row in rows)
    assert rows[0].latency_ratio == 1
    assert rows[0].latency_ms == result.study.evaluation(0).reference_ms
    assert rows[1].parameters > rows[0].parameters > 100_000
    assert rows[1].macs > rows[0].macs > 1_000_000


def test_every_evaluation_says_how_it_was_made(result: Result) -> None:
    evaluation = result.study.evaluation(0)
    assert evaluation.latency.n >= 6
    assert evaluation.latency.device.startswith("cpu: ")
    assert set(evaluation.versions) == {"python", "torch", "timm"}
    assert len(evaluation.curve) == 1
    assert evaluation.accuracy == evaluation.curve[-1]


def test_the_files(result: Result, folder: Path) -> None:
    names = ["best.json", "front.csv", "pareto.html", "report.html", "split.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    with (folder / "front.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["architecture"] for row in rows] == [row.architecture.id for row in result.study.rows()]
    assert "se everywhere" in (folder / "pareto.html").read_text()
    split = json.loads((folder / "split.json").read_text())
    indices = [index for part in split["indices"].values() for index in part]
    assert len(indices) == len(set(indices)) == 300


def test_the_exported_config_rebuilds_the_model(result: Result, folder: Path) -> None:
    content = json.loads((folder / "best.json").read_text())
    row = next(row for row in result.study.rows() if row.trial == content["evidence"]["trial"])
    first, second = (nas.load(folder / "best.json").eval() for _ in range(2))
    assert sum(parameter.numel() for parameter in first.parameters()) == row.parameters
    second.load_state_dict(first.state_dict())
    images = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(first(images), second(images))
    assert content["evidence"]["accuracy"] == row.accuracy


@pytest.mark.slow
def test_the_same_seed_gives_the_same_search(result: Result, space_file: Path, tmp_path: Path) -> None:
    again = search(settings(tmp_path, space_file))
    for first, second in zip(result.study.rows(), again.study.rows(), strict=True):
        assert (first.architecture, first.accuracy) == (second.architecture, second.accuracy)


@pytest.mark.slow
def test_a_second_study_answers_from_the_cache(
    result: Result, folder: Path, space_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_arguments: object, **_named: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("nas.proxy.train", train)
    second = search(settings(folder.parent, space_file, study="second"))
    assert [row.accuracy for row in second.study.rows()] == [row.accuracy for row in result.study.rows()]


def test_another_protocol_under_the_same_name_is_refused(folder: Path, space_file: Path, result: Result) -> None:
    with pytest.raises(StudyError, match="protocol.epochs: 1 -> 2"):
        search(settings(folder.parent, space_file, epochs=2))
    assert result.study.finished() == BUDGET


def test_the_search_never_sees_the_test_split(
    space_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = load_data("digits", limit=300, resolution=16)
    poisoned = dataclasses.replace(splits, test=None)  # type: ignore[arg-type]
    monkeypatch.setattr(Splits, "record", lambda _: {})  # it writes down which images the test split holds
    monkeypatch.setattr("nas.data.load", lambda *_, **__: poisoned)
    assert search(settings(tmp_path, space_file, budget=2)).outcome.finished == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"content": "{"}, "is not JSON"),
        ({"content": "[]"}, "must have the keys"),
        ({"drop": "evidence"}, "must have the keys .*evidence.*, but has"),
        ({"schema": 9}, "has schema 9, but this version reads 1"),
        ({"id": "0" * 12}, "says id '000000000000', but its architecture has .*: it was changed"),
        ({"num_classes": "10"}, "says num_classes '10', but its protocol has 10: it was changed"),
        ({"in_channels": 3}, "says in_channels 3, but its protocol has 1: it was changed"),
        ({"protocol": None}, "protocol must be a JSON object, but got None"),
        ({"architecture": {"schema": 1}}, "architecture lacks the key 'backbone'"),
        ({"protocol": {"epochs": 1}}, "not a protocol"),
    ],
)
def test_a_damaged_config_is_refused(folder: Path, tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "best.json"
    content = json.loads((folder / "best.json").read_text())
    if "drop" in change:
        del content[str(change["drop"])]
    else:
        content |= {key: value for key, value in change.items() if key != "content"}
    path.write_text(str(change.get("content", json.dumps(content))))
    with pytest.raises(ConfigError, match=message):
        nas.load(path)


def test_an_absent_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read .*nothing.json"):
        nas.load(tmp_path / "nothing.json")


@pytest.fixture
def protocol(tmp_path: Path, space_file: Path) -> Protocol:
    small = settings(tmp_path, space_file)
    return make_protocol(small, load_data("digits", limit=300, resolution=16), torch.device("cpu"))


@pytest.mark.parametrize(
    ("data", "augmentation"),
    [
        ("digits", "shift"),
        ("torch/MNIST", "shift"),
        ("hfds/ylecun/mnist", "shift"),
        ("torch/fashion_mnist", "shift+flip"),
        ("torch/cifar10", "shift+flip"),
    ],
)
def test_writing_is_not_mirrored(data: str, augmentation: str) -> None:
    splits = load_data("digits", limit=300, resolution=16)
    assert make_protocol(Settings(data=data), splits, torch.device("cpu")).augmentation == augmentation


@pytest.mark.parametrize(
    ("asked", "precision"),
    [
        ({}, "bfloat16"),
        ({"runtime": "onnxruntime"}, "float32"),
        ({"latency_precision": "float32"}, "float32"),
        ({"runtime": "onnxruntime", "latency_precision": "bfloat16"}, "bfloat16"),
    ],
)
def test_what_is_timed_has_the_precision_of_the_training_where_it_runs_alike(
    asked: dict[str, Any], precision: str
) -> None:
    splits = load_data("digits", limit=300, resolution=16)
    asking = Settings(precision="bfloat16", **asked)
    assert make_protocol(asking, splits, torch.device("cpu")).latency_precision == precision
    elsewhere = make_protocol(asking, splits, torch.device("cpu"), timed=torch.device("mps"))
    assert elsewhere.latency_precision == asked.get("latency_precision", "float32")


def trainer(protocol: Protocol) -> Trainer:
    return Trainer(load_data("digits", limit=300, resolution=16).search(), protocol, torch.device("cpu"))


def evaluator(protocol: Protocol, folder: Path) -> Evaluator:
    store = Store(f"sqlite:///{folder / 'cache.db'}")
    store.create()
    return Evaluator(trainer(protocol), store)


def test_a_loss_that_is_not_finite_is_a_failure(protocol: Protocol, tmp_path: Path) -> None:
    hot = dataclasses.replace(protocol, learning_rate=1e30)
    with pytest.raises(EvaluationError, match="non-finite"):
        evaluator(hot, tmp_path)(Architecture(backbone="test_resnet"))


def test_running_out_of_memory_is_a_failure(
    protocol: Protocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*_arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nmore")

    monkeypatch.setattr("nas.trainer.build", build)
    with pytest.raises(EvaluationError, match=r"^out of memory on cpu: [^\n]*threads?$"):
        evaluator(protocol, tmp_path)(Architecture(backbone="test_resnet"))


def test_two_backbones_in_one_search_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "two.py"
    path.write_text(SPACE.replace('("test_resnet",)', '("test_resnet", "resnet18")'))
    with pytest.raises(ValueError, match="a search takes one backbone, but the space has test_resnet, resnet18"):
        search(settings(tmp_path, path))


def test_an_error_of_the_search_itself_is_not_wrong_use(
    tmp_path: Path, space_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object, **_named: object) -> None:
        raise ValueError("the matrix is singular")

    monkeypatch.setattr("nas.study.loop.propose", broken)
    with pytest.raises(RunFailed, match="ValueError: the matrix is singular"):
        search(settings(tmp_path, space_file))


def resolved(protocol: Protocol, *blocks: str) -> ResolvedSpace:
    stages = placement.stages(placement.create("test_resnet", num_classes=10, in_channels=1))
    return SearchSpace(backbones=("test_resnet",), blocks=blocks, stages=(4,)).resolve({"test_resnet": stages})


def test_preflight_passes_what_runs(protocol: Protocol) -> None:
    preflight(resolved(protocol, "se", "cbam", "shuffle"), trainer(protocol))


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (RuntimeError("sizes do not match\nmore"), "sizes do not match$"),
        (torch.zeros(1, 2, 3, 3), "the shape must stay .*, but became"),
        (None, "output and gradient must be finite, but are not"),
    ],
)
def test_preflight_names_the_bad_combination(
    protocol: Protocol, monkeypatch: pytest.MonkeyPatch, result: RuntimeError | torch.Tensor | None, message: str
) -> None:
    def forward(_self: object, x: torch.Tensor) -> torch.Tensor:
        if isinstance(result, RuntimeError):
            raise result
        return x * float("nan") if result is None else result

    monkeypatch.setattr("nas.attention.channel.SE.forward", forward)
    with pytest.raises(
        EvaluationError, match=rf"se\(reduction=\d+\) cannot run at stage 4 of test_resnet on a map of .*: {message}"
    ):
        preflight(resolved(protocol, "se"), trainer(protocol))


def test_preflight_names_a_resolution_that_is_too_small(protocol: Protocol, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = dataclasses.replace(protocol, resolution=8)
    stages = (Stage(index=4, name="features.28", channels=512, reduction=32),)
    space = SearchSpace(backbones=("vgg11_bn",), blocks=("se",)).resolve({"vgg11_bn": stages})
    with pytest.raises(EvaluationError, match="vgg11_bn cannot run on a 1x8x8 image"):
        preflight(space, trainer(tiny))


@pytest.mark.slow
def test_weak_trainings_are_stopped_at_rungs(tmp_path: Path, space_file: Path) -> None:
    rungs = {"epochs": 4, "rungs": "usual", "risk": 0.5, "budget": 20, "sampler": "random", "repeats": 0}
    study = search(settings(tmp_path, space_file, **rungs)).study
    stopped = study.stopped()
    assert len(stopped) > 0
    assert {len(each.curve) for each in stopped} <= {1, 3}
    assert study.finished() + len(stopped) > 20
    assert {row.control for row in study.rows()} >= {"bare", "se everywhere", "eca everywhere", "cbam everywhere"}
    assert f"{len(stopped)} stopped early" in facts(study)["Trials"]
    assert facts(study)["Rungs"].startswith("after epochs 1, 3 at a risk of 0.5: ")
    page = (tmp_path / "small" / "pareto.html").read_text()
    assert f"{len(stopped)} stopped early" in page


@pytest.mark.slow
def test_trainings_are_stopped_half_way_where_another_promises_more(tmp_path: Path, space_file: Path) -> None:
    half = {"epochs": 6, "budget": 12, "sampler": "auto", "repeats": 0}
    study = search(settings(tmp_path, space_file, **half)).study
    stopped = study.stopped()
    assert len(stopped) > 0
    assert {len(each.curve) for each in stopped} == {3}
    assert 12 <= study.finished() + len(stopped) / 2 == study.tally().spent < 13
    assert facts(study)["Rungs"].startswith("after epoch 3, where another training promises more: ")
    assert not (tmp_path / "small" / "stopped").exists()


def test_a_page_that_cannot_be_drawn_does_not_end_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError(4)

    monkeypatch.setattr(run, "write_files", broken)
    keep_up = run.kept_up(SimpleNamespace(), tmp_path)
    with pytest.warns(UserWarning, match="the pages could not be written: KeyError: 4"):
        keep_up(now=True)


@pytest.mark.slow
def test_a_study_is_gone_on_with_on_as_many_threads_as_it_was_made_with(tmp_path: Path) -> None:
    given = Settings(
        budget=2, limit=300, epochs=1, latency_seconds=0.05, sampler="random", repeats=0, studies=str(tmp_path)
    )
    with threads_of_torch(2):
        search(given).study.close()
    with threads_of_torch(1):
        found = search(dataclasses.replace(given, budget=3)).study
    assert ", 2 threads" in found.protocol.device
    assert found.finished() == 3
    found.close()
