"""Data sets by timm's names; timm's factory is replaced, so that nothing is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import timm.data
import torch
from PIL import Image

from nas.data import DataError, Splits, load


def sizes(splits: Splits) -> tuple[int, int, int]:
    return len(splits.train), len(splits.val), len(splits.test)


class TestTimm:
    @staticmethod
    def fake(monkeypatch: pytest.MonkeyPatch, counts: Mapping[str, int], **attributes: Any) -> list[dict[str, Any]]:
        """Let timm make lists of 28x28 grey images, ten times fewer classes than images; returns the calls."""
        calls: list[dict[str, Any]] = []

        class FakeDataset(list[tuple[Any, int]]):
            pass

        def create_dataset(name: str, **arguments: Any) -> FakeDataset:
            calls.append({"name": name, **arguments})
            if arguments["split"] not in counts:
                raise ValueError(f"Unknown split {arguments['split']!r}")
            images = [(Image.new("L", (28, 28), index), index % 2) for index in range(counts[arguments["split"]])]
            dataset = FakeDataset(images)
            vars(dataset).update(attributes)
            return dataset

        monkeypatch.setattr(timm.data, "create_dataset", create_dataset)
        return calls

    def test_torch_names(self, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = self.fake(monkeypatch, {"train": 40, "validation": 10}, classes=["even", "odd"])
        splits = load("torch/mnist", data_dir="somewhere", download=True)
        assert sizes(splits) == (32, 8, 10)
        assert splits.classes == ("even", "odd")
        assert splits.train.images.shape == (32, 3, 32, 32)
        assert splits.origins["test"] == "as delivered"
        assert calls[0] == {"name": "torch/mnist", "root": "somewhere", "split": "train", "download": True}

    def test_missing_splits_are_cut(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fake(monkeypatch, {"train": 40})
        splits = load("hfds/someone/something", resolution=16, limit=20)
        assert sizes(splits) == (14, 4, 2)
        assert splits.classes == ("0", "1")

    def test_own_validation_and_test(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fake(monkeypatch, {"train": 40, "validation": 10, "test": 6})
        assert sizes(load("tfds/something")) == (40, 10, 6)

    def test_withheld_labels_are_no_test_split(self, monkeypatch: pytest.MonkeyPatch) -> None:
        images = [Image.new("L", (28, 28))] * 40
        sets = {
            "train": [(image, index % 2) for index, image in enumerate(images)],
            "validation": [(image, index % 2) for index, image in enumerate(images)],
            "test": [(image, -1) for image in images],
        }
        monkeypatch.setattr(timm.data, "create_dataset", lambda name, split, **_: sets[split])
        assert load("hfds/x").origins == {"train": "85% of train/", "test": "15% of train/", "val": "as delivered"}

    def test_no_data_dir(self) -> None:
        with pytest.raises(DataError, match="torch/cifar10 needs data_dir"):
            load("torch/cifar10")

    def test_unknown_torch_name(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no dataset 'torch/cifar11'; known: cifar10, cifar100"):
            load("torch/cifar11", data_dir=str(tmp_path))

    def test_folders_need_no_timm(self) -> None:
        with pytest.raises(DataError, match="torch/image_folder is a folder; give the folder itself as the data, pets"):
            load("torch/image_folder", data_dir="pets")

    def test_not_downloaded(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"cannot make the train split of torch/cifar10 .*download=False"):
            load("torch/cifar10", data_dir=str(tmp_path))

    @pytest.mark.parametrize(
        ("item", "message"),
        [
            ((torch.zeros(3, 8, 8), 0), "should yield PIL images, but yields Tensor"),
            ((Image.new("L", (8, 8)), [1]), "one integer label"),
        ],
    )
    def test_items_of_another_kind(self, monkeypatch: pytest.MonkeyPatch, item: Any, message: str) -> None:
        monkeypatch.setattr(timm.data, "create_dataset", lambda *_, **__: [item])
        with pytest.raises(DataError, match=message):
            load("hfds/x")

    def test_package_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def create_dataset(*_: Any, **__: Any) -> None:
            raise ModuleNotFoundError("No module named 'datasets'", name="datasets")

        monkeypatch.setattr(timm.data, "create_dataset", create_dataset)
        with pytest.raises(DataError, match="hfds/x needs the package 'datasets', which is not installed"):
            load("hfds/x")

    def test_one_class_from_timm(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(timm.data, "create_dataset", lambda *_, **__: [(Image.new("L", (8, 8)), 0)])
        with pytest.raises(DataError, match="one class only, '0'; at least 2"):
            load("hfds/x")
