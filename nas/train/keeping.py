"""Where a training stands, on disk: timm's checkpoints and the curve, so that a killed training goes on the same.

An epoch is first added to the curve and then saved. Whatever the curve holds beyond the checkpoint is dropped on the
way back, and the epoch is trained again: it is a function of the state before it and of its number, so it comes out
equal. Epochs are counted from 1 in all files; ``last.pth.tar`` holds the number of those that are done.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from timm.models import load_checkpoint, resume_checkpoint
from timm.utils import CheckpointSaver, ModelEmaV3, update_summary
from torch import nn

from nas import files

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

    def tidy(self) -> None:
        """Bring the files into the state that the last whole checkpoint describes; for the process that writes."""
        self._folder.mkdir(parents=True, exist_ok=True)
        last, half = self._folder / LAST, self._folder / _HALF
        # timm unlinks the old checkpoint before it renames the new one; a kill in between leaves the new one alone.
        if not last.exists() and _epochs_in(half) is not None:
            os.replace(half, last)
        done = _epochs_in(last) or 0
        rows = [row for row in read_curve(self._folder / CURVE) if int(row["epoch"]) <= done]
        best = _best(rows)
        for path in self._folder.glob("checkpoint-*.pth.tar"):
            number = path.name.removeprefix("checkpoint-").removesuffix(".pth.tar")
            if number != str(best or done):
                path.unlink()
        if best is not None and best == done:  # it may have been killed before it was told that this is the best
            shutil.copy2(last, self._folder / "best.tmp")
            os.replace(self._folder / "best.tmp", self._folder / BEST)
        if rows:
            files.replace(self._folder / CURVE, _csv(rows).encode())
        else:
            (self._folder / CURVE).unlink(missing_ok=True)

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
    """Return after how many epochs a checkpoint was saved; None if it is not there, or not whole."""
    try:
        return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["epoch"])
    except Exception:  # half a file raises whatever the reader meets
        return None
