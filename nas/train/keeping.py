"""Where a training stands, on disk: timm's checkpoints and the curve, so that a killed training goes on the same.

An epoch is first added to the curve and then saved. Whatever the curve holds beyond the checkpoint is dropped on the
way back, and the epoch is trained again: it is a function of the state before it and of its number, so it comes out
equal. Epochs are counted from 1 in all files; ``last.pth.tar`` holds the number of those that are done.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.models import load_checkpoint, resume_checkpoint
from timm.utils import CheckpointSaver, ModelEmaV3, update_summary
from torch import nn

from nas import files
from nas.packed import check_unpacked
from nas.train.settings import TrainingFailed, counted

LAST, BEST, CURVE = "last.pth.tar", "model_best.pth.tar", "summary.csv"
_HALF = "tmp.pth.tar"


class Keeper:
    """Saves a training after each epoch, and takes it up again."""

    def __init__(
        self, folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, ema: ModelEmaV3 | None, scaler: Any
    ) -> None:
        """Say what is saved, and where; the model without what distributes it."""
        self._folder, self._model, self._optimizer, self._ema, self._scaler = folder, model, optimizer, ema, scaler
        self._saver = CheckpointSaver(
            model, optimizer, model_ema=ema, amp_scaler=scaler, checkpoint_dir=str(folder), max_history=1
        )
        self.curve: list[dict[str, str]] = []
        """The epochs that are done, as ``summary.csv`` has them."""

    def tidy(self) -> str:
        """Bring the files into the state that the last whole checkpoint describes; for the process that writes.

        Returns:
            What had to be given up, in words; nothing in the usual case.

        Raises:
            TrainingFailed: If that state cannot be told. No file has been changed then.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        last = self._folder / LAST
        source, done, words = self._standing()
        rows = [row for row in read_curve(self._folder / CURVE) if int(row["epoch"]) <= done]
        if [row["epoch"] for row in rows] != [str(epoch) for epoch in range(1, done + 1)]:
            raise TrainingFailed(
                f"{self._folder / CURVE} does not hold the {counted(done, 'epoch')} of {source.name} one by one; "
                "nothing has been changed; put the file back, or remove its folder to begin anew"
            )
        if source.name == _HALF:
            os.replace(source, last)
        elif source != last:
            _copy(source, last)
        best = _best(rows)
        for path, number in self._numbered():
            if number != (best or done):
                path.unlink()
        if best is not None and best == done:  # it may have been killed before it was told that this is the best
            _copy(last, self._folder / BEST)
        if rows:
            files.replace(self._folder / CURVE, _csv(rows).encode())
        else:
            (self._folder / CURVE).unlink(missing_ok=True)
        return words

    def _standing(self) -> tuple[Path, int, str]:
        """Return the checkpoint to go on from, the epochs that are done in it, and words if it is not the usual one."""
        last, half = self._folder / LAST, self._folder / _HALF
        done = _epochs_in(last)
        if done is not None:
            return last, done, ""
        # timm unlinks the old checkpoint before it renames the new one; a kill in between leaves the new one alone.
        done = None if last.exists() else _epochs_in(half)
        if done is not None:
            return half, done, ""
        why = "is not whole" if last.exists() else "is gone"
        for path, _ in self._numbered():
            done = _epochs_in(path)
            if done is not None:
                return path, done, f"{last} {why}: goes on from {path.name}, after {counted(done, 'epoch')}"
        if last.exists() or self._numbered():
            raise TrainingFailed(
                f"{last} {why}, and there is no whole checkpoint besides; nothing has been changed; put the file back, "
                "or remove its folder to begin anew"
            )
        return last, 0, ""

    def _numbered(self) -> list[tuple[Path, int]]:
        """Return timm's checkpoints that are named after their epochs, the newest first."""
        found = []
        for path in self._folder.glob("checkpoint-*.pth.tar"):
            number = path.name.removeprefix("checkpoint-").removesuffix(".pth.tar")
            if number.isdecimal():
                found.append((path, int(number)))
        return sorted(found, key=lambda each: -each[1])

    def resume(self) -> int:
        """Take up the training where the files say that it stands; return the number of epochs that are done."""
        last = self._folder / LAST
        if not last.exists():
            return 0
        done = int(resume_checkpoint(self._model, str(last), self._optimizer, self._scaler, log_info=False) or 1) - 1
        if self._ema is not None:
            load_checkpoint(self._ema.module, str(last), use_ema=True)
        self.curve = read_curve(self._folder / CURVE)
        best = _best(self.curve)
        if best is not None:
            self._saver.best_epoch, self._saver.best_metric = best, float(self.curve[best - 1]["eval_top1"])
        kept = self._folder / f"checkpoint-{best or done}.pth.tar"
        if kept.exists():
            self._saver.checkpoint_files = [(str(kept), self._saver.best_metric)]
        return done

    def save(self, epoch: int, train: dict[str, float], val: dict[str, float], rate: float) -> None:
        """Add an epoch to the curve, and save the training as it is after it."""
        path = self._folder / CURVE
        update_summary(epoch, OrderedDict(train), OrderedDict(val), str(path), lr=rate, write_header=not path.exists())
        self.curve = read_curve(path)
        self._saver.save_checkpoint(epoch, metric=val.get("top1"))

    def load_best(self, model: nn.Module, curve: list[dict[str, str]]) -> int:
        """Load into a model the weights that were best on val, the moving average if there is one; return their epoch.

        Earlier is better among equals.
        """
        if _epochs_in(self._folder / BEST) is None:  # reads it without executing anything, which not every timm does
            raise TrainingFailed(f"{self._folder / BEST} is gone, or not whole; --select last tests the last epoch")
        load_checkpoint(model, str(self._folder / BEST), use_ema=self._ema is not None)
        return _best(curve) or len(curve)


def read_curve(path: Path) -> list[dict[str, str]]:
    """Return the epochs of a ``summary.csv`` in their order; a last line that was cut off is passed over."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if None not in row and None not in row.values()]


def _csv(rows: list[dict[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _best(rows: list[dict[str, str]]) -> int | None:
    """Return the epoch with the highest accuracy on val, the earliest of equals; None where val was not watched."""
    if not rows or "eval_top1" not in rows[0]:
        return None
    return int(max(rows, key=lambda row: float(row["eval_top1"]))["epoch"])


def _epochs_in(path: Path) -> int | None:
    """Return after how many epochs a checkpoint was saved; None if it is not there, or was cut off.

    Raises:
        TrainingFailed: If it cannot be read for another reason, which may pass.
    """
    try:
        with zipfile.ZipFile(path):  # its directory is written last: half a file has none
            pass
        check_unpacked(path)
        return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["epoch"])
    except (FileNotFoundError, zipfile.BadZipFile):
        return None
    except Exception as error:  # whatever it is, a checkpoint that may be whole must not be given up
        raise TrainingFailed(
            f"{path} cannot be read: {type(error).__name__}: {error}; nothing has been changed; try again, or remove "
            "that file, and the same command goes on from an earlier epoch"
        ) from error


def _copy(source: Path, target: Path) -> None:
    """Put a copy of a file in the place of another, at once."""
    beside = target.with_name(f"{target.name}.tmp")
    shutil.copy2(source, beside)
    os.replace(beside, target)


def bind(folder: Path, identity: Mapping[str, Any]) -> None:
    """Note under what a folder's trainings are made, or refuse to go on with them under anything else.

    Where no epoch was finished there is nothing to go on with, as after a learning rate that was too high.
    """
    path = folder / "recipe.json"
    if path.exists() and _is_begun(folder):
        try:
            noted = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not JSON: {error}; give another --out") from error
        changed = [
            f"{name} {noted.get(name)!r} (now {identity.get(name)!r})"
            for name in {**noted, **identity}
            if noted.get(name) != identity.get(name)
        ]
        if changed:
            raise ValueError(
                f"{folder} holds a training with {', '.join(changed)}; repeat its settings, or give another --out"
            )
    files.replace(path, (json.dumps(identity, indent=2) + "\n").encode())


def _is_begun(folder: Path) -> bool:
    """Tell whether any training in a folder has finished an epoch."""
    return any(path.name in (CURVE, LAST, "tested.json") for path in folder.glob("*-seed*/*"))
