"""What a full training refuses, and how one ends that cannot go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import filelock
import pytest
import torch
from made_config import LIMIT, asked, write_config

from nas.train import full, loop
from nas.train.settings import TrainingFailed


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path / "best.json")


def test_others_settings_are_refused_with_what_differs(config: Path, tmp_path: Path) -> None:
    full.train(config, asked(tmp_path / "out", epochs=1))
    with pytest.raises(ValueError, match=r"holds a training with epochs 1 \(now 2\), lr 0.05 \(now 0.1\); repeat"):
        full.train(config, asked(tmp_path / "out", epochs=2, lr=0.1))
    other = write_config(tmp_path / "other.json", placements=())
    with pytest.raises(ValueError, match=r"holds a training with architecture '\w+' \(now '\w+'\); repeat"):
        full.train(other, asked(tmp_path / "out", epochs=1))


def test_a_folder_in_which_no_epoch_was_finished_takes_other_settings(config: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match="a lower --lr"):
        full.train(config, asked(tmp_path / "out", epochs=1, lr=1e30))
    assert (tmp_path / "out" / "recipe.json").exists()
    assert full.train(config, asked(tmp_path / "out", epochs=1)).found


def test_as_many_images_as_the_search_had_are_taken(tmp_path: Path) -> None:
    config = write_config(tmp_path / "best.json")
    content = json.loads(config.read_text())
    config.write_text(json.dumps({**content, "evidence": {"limit": LIMIT}}))
    assert full.train(config, asked(tmp_path / "out", epochs=1, limit=None)).found
    config.write_text(json.dumps({**content, "evidence": {"limit": "all"}}))
    with pytest.raises(ValueError, match="the data digits have the hash"):
        full.train(config, asked(tmp_path / "other", epochs=1, limit=None))


def test_a_folder_takes_one_training_at_a_time(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full, "LOCK_SECONDS", 0.01)
    (tmp_path / "out").mkdir()
    with (
        filelock.FileLock(str(tmp_path / "out" / ".lock")),
        pytest.raises(ValueError, match="another training writes into"),
    ):
        full.train(config, asked(tmp_path / "out"))


def test_a_loss_that_is_no_number_ends_the_training(config: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match=r"the loss is (nan|inf) in epoch 1; a lower --lr"):
        full.train(config, asked(tmp_path / "out", lr=1e30))
    assert not list((tmp_path / "out").glob("*/last.pth.tar"))


def test_memory_that_does_not_suffice_is_told_in_words(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_memory(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loop, "fit", full_memory)
    with pytest.raises(TrainingFailed, match="out of memory on cpu with batch 32 at 16 pixels; a smaller --batch"):
        full.train(config, asked(tmp_path / "out"))


@pytest.mark.parametrize(
    ("changes", "protocol", "message"),
    [
        ({"other_data": True, "limit": 200}, {"channels": 3}, "was found on 3 channels, but the data digits have 1"),
        ({"limit": 200}, {}, r"the data digits with limit 200 have the hash \w+, but the search was made on \w+; give"),
        ({}, {"data": "flowers"}, "the search was made on 'flowers': say with --data where that folder lies"),
        ({"data": "nowhere"}, {"data": "flowers"}, "there is no data 'nowhere'"),
        ({"aa": "rand-m9"}, {}, "needs images of 3 channels, but these have 1"),
        ({"opt": "sgdx", "lr": 0.1}, {}, "opt must be one of timm's, such as .*, but got 'sgdx'"),
        ({"device": "cuda:77"}, {}, "device must be one of auto, .* but got 'cuda:77'"),
        ({"other_data": True, "limit": 200}, {"num_classes": 9}, "was found on 9 classes, but the data digits have 10"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    tmp_path: Path, changes: dict[str, Any], protocol: dict[str, Any], message: str
) -> None:
    config = write_config(tmp_path / "best.json", **protocol)
    with pytest.raises(ValueError, match=message):
        full.train(config, asked(tmp_path / "out", **changes))


def test_the_bare_backbone_has_no_baseline(tmp_path: Path) -> None:
    config = write_config(tmp_path / "bare.json", placements=())
    with pytest.raises(ValueError, match="is the bare backbone itself: there is nothing to compare it with"):
        full.train(config, asked(tmp_path / "out", baseline=True))
