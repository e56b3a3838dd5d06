"""Trainings that were stopped and may be taken up again: weights, and all else that they need to go on from there.

Nothing depends on these files: a training whose file is gone, or damaged, or on another machine, begins anew and ends
as it would have.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from nas import files

MOST_BYTES = 2 * 1024**3
"""So much is kept at most; the oldest go first."""


class Pauses:
    """A folder of stopped trainings."""

    def __init__(self, folder: str | Path, most_bytes: int = MOST_BYTES) -> None:
        """Name the folder; it is made when there is something to keep."""
        self._folder = Path(folder)
        self._most = most_bytes

    def put(self, key: str, state: Mapping[str, Any]) -> None:
        """Keep the state of a training, if there is room for it.

        Args:
            key: Names architecture and protocol, in letters that a file's name may have.
            state: Tensors, numbers and words, in dicts and lists.
        """
        content = io.BytesIO()
        torch.save(dict(state), content)
        if content.tell() > self._most:
            return
        with suppress(OSError):  # a full disk, for one: the training then begins anew
            self._folder.mkdir(parents=True, exist_ok=True)
            self._make_room(content.tell())
            files.replace(self._path(key), content.getvalue())

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the state of a training on the CPU; None where there is none that can be read."""
        try:
            state: dict[str, Any] = torch.load(self._path(key), map_location="cpu", weights_only=True)
        except Exception:  # torch and pickle have many ways to say that a file is damaged
            return None
        return state

    def drop(self, key: str) -> None:
        """Forget a training, which was finished."""
        with suppress(OSError):
            self._path(key).unlink()

    def clear(self) -> None:
        """Forget all."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.pt"

    def _make_room(self, needed: int) -> None:
        found = [(path.stat().st_mtime_ns, path.stat().st_size, path) for path in self._folder.glob("*.pt")]
        kept = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if kept + needed <= self._most:
                break
            path.unlink(missing_ok=True)
            kept -= size
