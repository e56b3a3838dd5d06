"""What a full training does where nothing is asked for, and what it refuses to be asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_config import protocol_of

from nas.train.settings import EPOCHS_FACTOR, Settings, Start, counted, folder_of, recipe_of, start_of

FRESH = Start(kind="fresh")
WARM = {"warm_epochs": 4, "warm_learning_rate": 0.1, "learning_rate": 0.01}


def test_what_is_not_asked_for_is_as_in_the_search() -> None:
    protocol = protocol_of(
        epochs=3, batch_size=48, learning_rate=0.07, weight_decay=1e-3, label_smoothing=0.2, block_lr_factor=3.0
    )
    recipe = recipe_of(protocol, Settings(), FRESH, "cpu")
    assert recipe.epochs == 3 * EPOCHS_FACTOR
    assert (recipe.batch, recipe.opt, recipe.lr, recipe.weight_decay) == (48, "sgd", 0.07, 1e-3)
    assert (recipe.smoothing, recipe.block_lr_factor, recipe.warmup, recipe.workers) == (0.2, 3.0, 3, 0)


@pytest.mark.parametrize(
    ("augmentation", "crop", "hflip", "reprob"),
    [
        ("none", 1.0, 0.0, 0.0),
        ("shift", 0.6, 0.0, 0.0),
        ("shift+flip", 0.6, 0.5, 0.0),
        ("shift+flip+cutout", 0.6, 0.5, 0.25),
    ],
)
def test_augmentation_is_of_the_kinds_that_the_search_had(
    augmentation: str, crop: float, hflip: float, reprob: float
) -> None:
    recipe = recipe_of(protocol_of(augmentation=augmentation), Settings(), FRESH, "cpu")
    assert (recipe.crop, recipe.hflip, recipe.reprob) == (crop, hflip, reprob)


def test_what_is_asked_for_is_done_zero_too() -> None:
    asked = Settings(epochs=7, batch=10, lr=0.2, weight_decay=0.0, smoothing=0.0, hflip=0.0, warmup=0, ema=0.99)
    recipe = recipe_of(protocol_of(augmentation="shift+flip"), asked, FRESH, "cpu")
    assert (recipe.epochs, recipe.batch, recipe.lr, recipe.weight_decay) == (7, 10, 0.2, 0.0)
    assert (recipe.smoothing, recipe.hflip, recipe.warmup, recipe.ema) == (0.0, 0.0, 0, 0.99)


def test_precision_is_that_of_the_search_on_a_gpu_only() -> None:
    protocol = protocol_of(precision="bfloat16")
    assert recipe_of(protocol, Settings(), FRESH, "cuda").amp == "bfloat16"
    assert recipe_of(protocol, Settings(), FRESH, "cpu").amp == "float32"
    assert recipe_of(protocol, Settings(amp="bfloat16"), FRESH, "cpu").amp == "bfloat16"
    assert recipe_of(protocol, Settings(amp="float16"), FRESH, "cuda").amp == "float16"
    with pytest.raises(ValueError, match="amp float16 needs cuda, but the device is cpu"):
        recipe_of(protocol, Settings(amp="float16"), FRESH, "cpu")


@pytest.mark.parametrize(
    ("changes", "asked", "kind", "as_found"),
    [
        ({}, {}, "fresh", True),
        ({"weights": "timm's resnet18"}, {}, "timm", True),
        ({"weights": "timm's resnet18"}, {"fresh": True}, "fresh", False),
        ({"weights": "w.pth (sha256 0)"}, {"checkpoint": "w.pth"}, "file", True),
        ({"weights": "bare x after 4 epochs (sha256 0)", **WARM}, {}, "fresh", True),
        ({"weights": "bare x after 4 epochs (sha256 0), from timm's x", **WARM}, {}, "timm", True),
        ({}, {"pretrained": True}, "timm", False),
    ],
)
def test_it_starts_where_the_search_or_its_warm_start_did(
    changes: dict[str, Any], asked: dict[str, Any], kind: str, as_found: bool
) -> None:
    start = start_of(protocol_of(**changes), Settings(**asked))
    assert (start.kind, start.as_found) == (kind, as_found)


def test_a_file_of_weights_has_to_be_named() -> None:
    with pytest.raises(ValueError, match=r"the search started from w.pth \(sha256 0\): say with --checkpoint where"):
        start_of(protocol_of(weights="w.pth (sha256 0)"), Settings())


def test_the_rate_suits_the_start_and_the_optimiser() -> None:
    warm = protocol_of(weights="bare x after 4 epochs (sha256 0)", **WARM)
    assert recipe_of(warm, Settings(), start_of(warm, Settings()), "cpu").lr == 0.1  # that of the warm training
    trained = protocol_of(weights="timm's x", learning_rate=0.01)
    asked = Settings(fresh=True)
    assert recipe_of(trained, asked, start_of(trained, asked), "cpu").lr == 0.1
    assert recipe_of(protocol_of(), Settings(opt="adamw"), FRESH, "cpu").lr == 0.003
    frozen = protocol_of(weights="timm's x", learning_rate=0.7, freeze_backbone=True)  # a rate for blocks alone
    assert recipe_of(frozen, Settings(), start_of(frozen, Settings()), "cpu").lr == pytest.approx(0.01)
    with pytest.raises(ValueError, match="no learning rate is known to suit lamb: give lr"):
        recipe_of(protocol_of(), Settings(opt="lamb"), FRESH, "cpu")


def test_seeds_are_none_of_the_search() -> None:
    assert Settings(seeds=2).all_seeds(protocol_of(seed=5)) == [1005, 1006]
    assert Settings(seeds=2, seed=7).all_seeds(protocol_of()) == [7, 8]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, but got 0"),
        ({"lr": 0.0}, "lr must be positive and finite, but got 0.0"),
        ({"lr": float("nan")}, "lr must be positive and finite, but got nan"),
        ({"mixup": -1.0}, "mixup must be at least 0 and finite, but got -1.0"),
        ({"crop": 0.0}, "crop must be above 0 and at most 1, but got 0.0"),
        ({"hflip": 1.5}, "hflip must be at least 0 and at most 1, but got 1.5"),
        ({"ema": 1.0}, "ema must be at least 0 and below 1, but got 1.0"),
        ({"amp": "half"}, "amp must be one of auto, float32, bfloat16, float16, but got 'half'"),
        ({"fresh": True, "pretrained": True}, "give one of pretrained, checkpoint and fresh"),
        ({"with_val": True, "select": "best"}, "cannot be chosen"),
        ({"seeds": 0}, "seeds must be at least 1, but got 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**asked)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"epochs": 4, "warmup": 4}, "warmup must be below the 4 epochs, but got 4"),
        ({"batch": 9, "mixup": 0.2}, "batch must be even, but got 9"),
    ],
)
def test_what_does_not_fit_together_is_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe_of(protocol_of(), Settings(**asked), FRESH, "cpu")


def test_results_land_in_an_export_folder_or_beside_a_file(tmp_path: Path) -> None:
    assert folder_of(tmp_path, Settings()) == tmp_path / "train"
    assert folder_of(tmp_path / "best.json", Settings()) == tmp_path / "best-train"
    assert folder_of(tmp_path, Settings(out="x")) == Path("x")


def test_one_is_counted_in_the_singular() -> None:
    assert [counted(count, "epoch") for count in (0, 1, 2)] == ["0 epochs", "1 epoch", "2 epochs"]
    assert [counted(count, "class", "classes") for count in (1, 2)] == ["1 class", "2 classes"]
