"""Full training: the same curve after any interruption, one look at the test split, weights that do what is said."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from made_config import LIMIT, asked, few_digits, protocol_of, write_config
from safetensors.torch import load_file

from nas import batches, cli, export, proxy, trainer
from nas.architecture import Architecture
from nas.train import full, loop, pictures
from nas.train.keeping import read_curve
from nas.train.loop import Watcher
from nas.train.parallel import Crew
from nas.train.report import Outcome
from nas.train.settings import Settings, Start, recipe_of

EVERYTHING = {"mixup": 0.3, "cutmix": 1.0, "reprob": 0.5, "ema": 0.9, "clip_grad": 1.0, "block_lr_factor": 2.0}
EVERYTHING |= {"layer_decay": 0.9}
"""Whatever draws random numbers or has a state of its own."""


def curve_of(folder: Path, kind: str = "architecture") -> list[dict[str, str]]:
    """Return what a curve says but for the seconds."""
    rows = read_curve(folder / f"{kind}-seed1000" / "summary.csv")
    return [{name: value for name, value in row.items() if name != "train_seconds"} for row in rows]


def same_weights(first: Path, second: Path) -> bool:
    ours, theirs = load_file(first), load_file(second)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


class Stopper(Watcher):
    """Breaks a training off after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path / "best.json")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A training of an export folder with all that timm has to offer here, and its baseline."""
    folder = tmp_path_factory.mktemp("whole") / "exported"
    write_config(folder / "architecture.json")
    return full.train(folder, Settings(epochs=3, limit=LIMIT, device="cpu", baseline=True, **EVERYTHING))


def test_the_weights_do_what_is_said_of_them(whole: Outcome) -> None:
    folder = whole.folder.parent
    assert whole.weights == folder / "weights.safetensors"
    model = export.build(*export.read(folder / "architecture.json"))
    model.load_state_dict(load_file(whole.weights))
    splits = few_digits()
    # The search's own way of testing: the same bytes, normalised alike.
    accuracy = proxy.accuracy(model, splits.test, splits.search(), protocol_of())
    assert accuracy == whole.found[0].accuracy
    noted = json.loads((whole.folder / "train.json").read_text())
    assert noted["trainings"][0]["test_accuracy"] == accuracy
    assert noted["trainings"][0]["test_low"] < accuracy < noted["trainings"][0]["test_high"]


def test_the_moving_average_is_what_is_tested(whole: Outcome) -> None:
    saved = torch.load(whole.folder / "architecture-seed1000" / "last.pth.tar", weights_only=True)
    weights = load_file(whole.weights)
    assert all(torch.equal(weights[name], saved["state_dict_ema"][name]) for name in weights)
    assert not all(torch.equal(weights[name], saved["state_dict"][name]) for name in weights)


def test_the_difference_is_of_the_same_images(whole: Outcome) -> None:
    assert whole.difference is not None
    assert whole.difference.images == len(few_digits().test)
    assert whole.difference.difference == pytest.approx(whole.found[0].accuracy - whole.bare[0].accuracy)
    text = (whole.folder / "train.md").read_text()
    assert whole.difference.sentence() in text
    assert f"| bare | 1000 | {whole.bare[0].accuracy:.2%} |" in text


@pytest.mark.parametrize("steps", [1, 6, 12])
def test_a_training_that_was_broken_off_goes_on_to_the_same_curve(whole: Outcome, tmp_path: Path, steps: int) -> None:
    config = whole.folder.parent
    again = asked(tmp_path / "cut", **EVERYTHING)
    with pytest.raises(KeyboardInterrupt):
        full.train(config, again, Stopper(steps))
    torch.rand(3)  # the random numbers of the process are elsewhere now
    outcome = full.train(config, again)
    assert curve_of(tmp_path / "cut") == curve_of(whole.folder)
    assert len(curve_of(tmp_path / "cut")) == 3
    assert outcome.found[0].correct == whole.found[0].correct
    folder = Path("architecture-seed1000", "weights.safetensors")
    assert same_weights(tmp_path / "cut" / folder, whole.folder / folder)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # what loads is forked
def test_processes_that_load_images_are_seeded_too(config: Path, tmp_path: Path) -> None:
    for name, stopper in (("one", None), ("two", Stopper(7))):
        settings = asked(tmp_path / name, workers=2, reprob=0.5)
        if stopper is not None:
            with pytest.raises(KeyboardInterrupt):
                full.train(config, settings, stopper)
        full.train(config, settings)
    assert curve_of(tmp_path / "one") == curve_of(tmp_path / "two")


def test_every_epoch_draws_other_numbers(config: Path, tmp_path: Path) -> None:
    losses = []
    for name, changes in (("one", {}), ("two", {"seed": 1})):
        full.train(config, asked(tmp_path / name, lr=1e-30, epochs=2, **changes))
        losses += [row["train_loss"] for row in read_curve(next((tmp_path / name).glob("*/summary.csv")))]
    assert len(set(losses)) == 4  # the weights stay as they are: what differs is order, crops and seed


@pytest.mark.parametrize("broken", ["unlinked", "half", "ahead"])
def test_files_that_a_kill_left_are_made_good(whole: Outcome, tmp_path: Path, broken: str) -> None:
    config, out = whole.folder.parent, tmp_path / "cut"
    again = asked(out, **EVERYTHING)
    with pytest.raises(KeyboardInterrupt):
        full.train(config, again, Stopper(11))  # in the third epoch
    folder = out / "architecture-seed1000"
    if broken == "unlinked":  # killed after the old checkpoint was unlinked, before the new one had its name
        (folder / "last.pth.tar").rename(folder / "tmp.pth.tar")
        first, second = (float(row["eval_top1"]) for row in read_curve(folder / "summary.csv"))
        if second > first:  # or while the new best took the place of the old one
            (folder / "model_best.pth.tar").unlink()
    elif broken == "half":  # killed while the checkpoint was written
        (folder / "tmp.pth.tar").write_bytes((folder / "last.pth.tar").read_bytes()[:1000])
    with (folder / "summary.csv").open("a") as file:  # killed while the curve was written
        file.write("3,0.5,0.1,0.9,0.0\r\n" if broken == "ahead" else "3,0.")
    full.train(config, again)
    assert curve_of(out) == curve_of(whole.folder)
    best = max(curve_of(out), key=lambda row: float(row["eval_top1"]))
    saved = torch.load(folder / "model_best.pth.tar", weights_only=True)
    assert saved["epoch"] == int(best["epoch"])


def test_the_test_split_is_looked_at_once(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = {image.numpy().tobytes() for image in few_digits().test.images}
    seen: list[bytes] = []
    read = pictures.Pictures.__getitem__

    def noted(self: pictures.Pictures, index: int) -> Any:
        seen.append(self.images[index].numpy().tobytes())
        return read(self, index)

    monkeypatch.setattr(pictures.Pictures, "__getitem__", noted)
    full.train(config, asked(tmp_path / "out"))
    assert len(test) == len(few_digits().test)
    looked = [image in test for image in seen]
    assert looked == [False] * (len(seen) - len(test)) + [True] * len(test)
    assert sum(looked) == len(test)


def test_what_is_trained_is_kept_and_a_baseline_can_be_added(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = full.train(config, asked(tmp_path / "out", epochs=1))
    assert first.difference is None
    trained: list[str] = []
    fit = loop.fit
    monkeypatch.setattr(loop, "fit", lambda *args, **named: trained.append(named["name"]) or fit(*args, **named))
    second = full.train(config, asked(tmp_path / "out", epochs=1, baseline=True, seeds=2))
    assert trained == ["bare with seed 1000", "architecture with seed 1001", "bare with seed 1001"]
    assert second.found[0] == first.found[0]
    assert second.difference is not None
    assert second.difference.seeds == 2
    assert "Mean over 2 seeds: architecture" in second.text()
    assert "Weights, of seed 1000" in second.text()
    trained.clear()
    assert full.train(config, asked(tmp_path / "out", epochs=1, baseline=True, seeds=2)).text() == second.text()
    assert trained == []


def test_the_best_epoch_may_be_tested(config: Path, tmp_path: Path) -> None:
    outcome = full.train(config, asked(tmp_path / "out", select="best", lr=0.5, epochs=4))
    folder = tmp_path / "out" / "architecture-seed1000"
    rows = read_curve(folder / "summary.csv")
    best = max(rows, key=lambda row: float(row["eval_top1"]))
    assert outcome.found[0].epoch == int(best["epoch"])
    saved = torch.load(folder / "model_best.pth.tar", weights_only=True)["state_dict"]
    weights = load_file(outcome.weights)
    assert all(torch.equal(weights[name], saved[name]) for name in weights)


def test_val_may_be_trained_on(config: Path, tmp_path: Path) -> None:
    outcome = full.train(config, asked(tmp_path / "out", epochs=1, with_val=True))
    rows = curve_of(tmp_path / "out")
    assert "eval_top1" not in rows[0]
    assert outcome.found[0].val_accuracy is None
    splits = few_digits()
    assert f"1 epoch of {len(splits.train) + len(splits.val)} images" in outcome.text()


def test_images_arrive_as_in_the_search() -> None:
    splits = few_digits()
    recipe = recipe_of(protocol_of(), Settings(), Start(kind="fresh"), "cpu")
    feed = pictures.plain_feed(splits.test, splits, recipe, Crew(device=torch.device("cpu")))
    images, labels = (torch.cat(parts) for parts in zip(*feed.epoch(0), strict=True))
    norm = batches.normalisation(splits.search(), torch.device("cpu"))
    assert torch.equal(labels, splits.test.labels)
    torch.testing.assert_close(images, batches.inputs(splits.test.images, norm, protocol_of()))


@pytest.mark.parametrize("amp", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_half_precision_learns_and_goes_on_as_it_was(tmp_path: Path, amp: str) -> None:
    splits, crew = few_digits(), Crew(device=torch.device("cpu"))
    recipe = recipe_of(protocol_of(), Settings(epochs=3), Start(kind="fresh"), "cpu")
    recipe = dataclasses.replace(recipe, amp=amp)  # a CPU computes in float16, too, though nobody would ask for it

    def trained(name: str, watcher: Watcher | None = None) -> loop.Trained:
        model = trainer.build(Architecture(backbone="test_resnet"), protocol_of(), crew.device)
        return loop.fit(model, splits, recipe, seed=3, folder=tmp_path / name, crew=crew, watcher=watcher)

    whole = trained("whole")
    with pytest.raises(KeyboardInterrupt):
        trained("cut", Stopper(6))
    again = trained("cut")
    assert [row["train_loss"] for row in again.curve] == [row["train_loss"] for row in whole.curve]
    assert float(whole.curve[-1]["train_loss"]) < float(whole.curve[0]["train_loss"])
    saved = torch.load(tmp_path / "whole" / "last.pth.tar", weights_only=True)
    assert ("amp_scaler" in saved) == (amp == "float16")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("amp", ["auto", "bfloat16", "float16"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_gpu_trains(config: Path, tmp_path: Path, amp: str) -> None:
    again = asked(tmp_path / "out", device="cuda", amp=amp, **EVERYTHING)
    with pytest.raises(KeyboardInterrupt):
        full.train(config, again, Stopper(6))
    outcome = full.train(config, again)
    assert len(curve_of(tmp_path / "out")) == 3
    assert len(outcome.found[0].correct) == len(few_digits().test)


def test_other_data_may_be_asked_for(config: Path, tmp_path: Path) -> None:
    outcome = full.train(config, asked(tmp_path / "out", epochs=1, limit=200, other_data=True))
    assert "of other data than the search's" in outcome.facts["Test split"]


def test_photographs_in_a_folder_are_augmented_by_timm(tmp_path: Path) -> None:
    from PIL import Image

    from nas.data import load

    rng = torch.Generator().manual_seed(0)
    for part, count in (("train", 20), ("test", 6)):
        for label, name in enumerate(("cat", "dog")):
            folder = tmp_path / "pets" / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = torch.randint(0, 128, (16, 16, 3), generator=rng) + 100 * label
                Image.fromarray(pixels.to(torch.uint8).numpy()).save(folder / f"{index}.png")
    data = load(str(tmp_path / "pets"), resolution=16)
    fields = {"data": "pets", "data_hash": data.hash, "num_classes": 2, "channels": 3, "augmentation": "shift+flip"}
    config = write_config(tmp_path / "best.json", batch_size=8, **fields)
    settings = Settings(
        epochs=2, device="cpu", data=str(tmp_path / "pets"), aa="rand-m9-mstd0.5-inc1", color_jitter=0.2, lr=0.01
    )
    outcome = full.train(config, settings)
    assert outcome.folder == tmp_path / "best-train"
    assert len(outcome.found[0].correct) == 12
    with pytest.raises(ValueError, match=r"aa must be timm's words such as rand-m9-mstd0.5-inc1, but got 'nonsense'"):
        full.train(config, Settings(device="cpu", data=str(tmp_path / "pets"), aa="nonsense", out=str(tmp_path / "x")))


def test_the_command_line_trains_and_says_what_came_of_it(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", str(config), "--limit", str(LIMIT), "--epochs", "1", "--device", "cpu", "--baseline"]
    assert cli.main(words) == 0
    captured = capsys.readouterr()
    assert "Difference to the bare backbone on the same" in captured.out
    assert "architecture with seed 1000: epoch 1/1, loss " in captured.err
    assert (tmp_path / "best-train" / "weights.safetensors").exists()
    # Under anything else it is refused in one line, and a training that fails is no wrong use.
    assert cli.main([*words, "--lr", "0.3"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("run_search.py: ")
    assert "lr 0.05 (now 0.3)" in captured.err
    assert cli.main([*words, "--lr", "1e30", "--out", str(tmp_path / "nan")]) == 1
    assert "the run failed: the loss is" in capsys.readouterr().err


class Killed(BaseException):
    """Ends a training as a kill does: nobody catches it."""


@pytest.mark.slow
def test_a_kill_between_any_two_changes_of_the_files_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits, crew = few_digits(), Crew(device=torch.device("cpu"))
    recipe = recipe_of(protocol_of(), Settings(epochs=3, lr=0.3, ema=0.5), Start(kind="fresh"), "cpu")
    left: list[int] = [10**9]

    def counted(change: Any) -> Any:
        def changed(*args: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return change(*args, **named)

        return changed

    def trained(folder: Path) -> loop.Trained:
        model = trainer.build(Architecture(backbone="test_resnet"), protocol_of(), crew.device)
        return loop.fit(model, splits, recipe, seed=3, folder=folder, crew=crew, select="best")

    whole = trained(tmp_path / "whole")
    for name in ("unlink", "remove", "replace", "rename", "link"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    changes = 0
    while True:
        folder, left[0] = tmp_path / f"cut{changes}", changes
        try:
            trained(folder)
            break
        except Killed:
            pass
        left[0] = 10**9
        again = trained(folder)
        assert [row["train_loss"] for row in again.curve] == [row["train_loss"] for row in whole.curve]
        assert again.epoch == whole.epoch
        weights = whole.model.state_dict()
        assert all(torch.equal(tensor, weights[name]) for name, tensor in again.model.state_dict().items())
        changes += 1
    assert changes >= 6  # at least two in each epoch
