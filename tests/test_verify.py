"""What `verify` chooses and refuses, and one whole verification of a small search."""

from __future__ import annotations

import csv
import dataclasses
import sqlite3
from pathlib import Path
from unittest import mock

import pytest
import torch
import toy
from PIL import Image
from rows import make_row

from nas.cli import main
from nas.data import Splits, load
from nas.front import Row, mark_front
from nas.settings import Settings as SearchSettings
from nas.settings import make_protocol
from nas.study import Study, run
from nas.verify import Settings, _start_words, _trainer, choose, splits_of

SEARCH = ["--budget", "6", "--limit", "300", "--epochs", "1", "--batch-size", "32", "--latency-seconds", "0.02"]
SEARCH += ["--device", "cpu", "--sampler", "random", "--study", "small", "--repeats", "1"]
VERIFY = ["verify", "--study", "small", "--top", "2", "--others", "4", "--epochs", "1", "--seeds", "2"]
VERIFY += ["--device", "cpu"]


def trials(count: int, members: int) -> list[Row]:
    """The bare backbone, members of the front of rising accuracy, and dominated ones of falling accuracy."""
    rows = [make_row(0, 0.80, 2.0, "bare")]
    rows += [make_row(k, 0.80 + 0.02 * k, 2 + 0.1 * k) for k in range(1, members)]
    rows += [make_row(k, 0.79 - 0.01 * (k - members), 5.0 + 0.1 * k) for k in range(members, count)]
    return mark_front(rows)


def test_members_of_the_front_and_dominated_ones_are_chosen() -> None:
    # The front is 0 to 5, of which 5 is the best; what is recommended is the fastest that is as good within noise.
    chosen = [row.trial for row in choose(trials(21, 6), top=2, others=3)]
    assert chosen == [0, 4, 5, 8, 13, 18]


def test_a_short_front_is_filled_up_with_dominated_ones() -> None:
    chosen = choose(trials(30, 1), top=5, others=5)
    assert len(chosen) == 10  # the bare backbone is all there is to the front, and it is recommended
    assert len(choose(trials(8, 2), top=5, others=5)) == 8


@pytest.mark.parametrize(
    ("count", "top", "others", "message"),
    [
        (4, 5, 5, "at least 5 architectures must be compared, but the study has 4 finished trials"),
        (20, 1, 2, "at least 5 architectures must be compared, but top=1 and others=2 choose 4"),
    ],
)
def test_too_few_are_refused(count: int, top: int, others: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose(trials(count, 3), top, others)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"top": 0}, "top must be at least 1, but got 0"),
        ({"others": -1}, "others must be at least 0, but got -1"),
        ({"seeds": 0}, "seeds must be at least 1, but got 0"),
        ({"epochs": 0}, "epochs must be at least 1, but got 0"),
    ],
)
def test_settings_are_checked(given: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**given)


def study_on(folder: Path, inputs: dict[str, object], data_hash: str) -> Study:
    protocol = dataclasses.replace(toy.PROTOCOL, data_hash=data_hash)
    return Study.create("toy", toy.url(folder), space=toy.space(), protocol=protocol, inputs=inputs)


def test_data_that_have_moved_are_found_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for k in range(6):
            Image.new("L", (16, 16), 20 * k).save(tmp_path / "pets" / name / f"{k}.png")
    inputs = SearchSettings(data="pets", limit=10).inputs
    assert inputs["data"] == str(tmp_path / "pets")
    known = load("pets", limit=10)
    study = study_on(tmp_path, inputs, known.hash)
    monkeypatch.chdir("/")
    assert splits_of(study).hash == known.hash
    (tmp_path / "pets").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match="there is no data .*pets"):
        splits_of(study)
    assert splits_of(study, str(tmp_path / "moved")).hash == known.hash
    (tmp_path / "moved" / "cat" / "0.png").rename(tmp_path / "moved" / "cat" / "9.png")
    with pytest.raises(ValueError, match=f"have the hash .*, but study 'toy' was made on {known.hash}; give the place"):
        splits_of(study, str(tmp_path / "moved"))
    study.close()


def test_only_the_folder_of_a_named_data_set_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def look(source: str, **given: object) -> Splits:
        asked.append((source, given["data_dir"]))
        return dataclasses.replace(load("digits", limit=300), hash="0" * 16)

    monkeypatch.setattr("nas.data.load", look)
    inputs = SearchSettings(data="torch/cifar10", data_dir="old").inputs
    study = study_on(tmp_path, inputs, "0" * 16)
    splits_of(study)
    splits_of(study, "new")
    assert asked == [("torch/cifar10", "old"), ("torch/cifar10", "new")]
    study.close()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--repeats", "-1"], "repeats must be between 0 and 999 seeds, but got -1"),
        (["--confirm", "1000"], "confirm must be between 0 and 999 seeds, but got 1000"),
        (["verify"], "no database"),
        (["verify", "--top", "0"], "top must be at least 1, but got 0"),
    ],
)
def test_wrong_use_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(words, capsys)
    assert list(tmp_path.iterdir()) == []


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(words) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_a_study_that_does_not_know_its_data_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()
    study = toy.create(tmp_path / "studies")
    run(study, toy.evaluate, space=toy.space(), budget=4, sampler="random")
    assert "the study has 4 finished trials; search on with a larger --budget" in refused(["verify"], capsys)
    run(study, toy.evaluate, space=toy.space(), budget=6, sampler="random")
    assert "study 'toy' does not say where its data lie; resume it once with" in refused(["verify"], capsys)
    assert "further seeds must be between 0 and 999, but got 1000" in refused(["verify", "--seeds", "1000"], capsys)
    study.close()


def test_full_trainings_have_no_warm_start() -> None:
    splits = load("digits", limit=300, resolution=16)
    usual = make_protocol(SearchSettings(), splits, torch.device("cpu"))
    warm = {"weights": "those of the warm start", "warm_epochs": 6, "warm_learning_rate": 0.1, "learning_rate": 0.01}
    study = mock.Mock(
        protocol=dataclasses.replace(usual, **warm, freeze_backbone=True),  # type: ignore[arg-type]
        inputs={"pretrained": False, "checkpoint": None},
        space={"backbones": ["test_resnet"]},
    )
    full = _trainer(study, splits, "cpu")
    assert full.protocol == usual
    assert full.weights is None
    words = _start_words(study.protocol, full.protocol)
    assert words == ", but from fresh weights instead of the warm start, at 0.1, the backbone not frozen"
    assert _start_words(usual, usual) == ""


@pytest.mark.slow
def test_a_whole_verification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(SEARCH) == 0
    said = capsys.readouterr()
    assert "Seed noise: " in said.out
    assert "python run_search.py verify --study small" in said.out
    assert main(VERIFY) == 0
    first = capsys.readouterr()
    folder = tmp_path / "studies" / "small"
    text = (folder / "verify.md").read_text()
    assert text in first.out
    assert "\nThe proxy is " in text
    with (folder / "verify.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 6
    assert {line["seeds"] for line in lines} == {"2"}
    with sqlite3.connect(tmp_path / "studies" / "studies.db") as database:
        kinds = database.execute("SELECT kind, count(*) FROM nas_replicates GROUP BY kind").fetchall()
    assert dict(kinds) == {"val": 1, "val+test": 12}

    # Once more nothing is trained, and the same is said.
    def train(*_arguments: object, **_named: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("nas.proxy.train", train)
    assert main(VERIFY) == 0
    assert capsys.readouterr().out == first.out

    # Another cut of the data is refused, as its test split may hold what the search trained on.
    with sqlite3.connect(tmp_path / "studies" / "studies.db") as database:
        database.execute("UPDATE study_user_attributes SET value_json = replace(value_json, '300', '310')")
    assert "but study 'small' was made on" in refused(VERIFY, capsys)
