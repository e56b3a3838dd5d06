"""Trainings that were stopped and may be taken up again: weights, and all else that they need to go on from there.

Nothing depends on these files: a training whose file is gone, or damaged, or on another machine, begins anew and ends
as it would have.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from nas.packed import check_unpacked

MOST_BYTES = 4 * 1024**3
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
        if _bytes(state) > self._most:
            return
        unfinished = self._folder / f".{key}.{os.getpid()}.tmp"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            torch.save(dict(state), unfinished)
            self._make_room(besides=unfinished)
            unfinished.replace(self._path(key))
        except (OSError, RuntimeError):  # a full disk, for one, which torch may put in its own words
            with suppress(OSError):
                unfinished.unlink()

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the state of a training on the CPU; None where there is none that can be read."""
        try:
            check_unpacked(self._path(key))
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

    def _make_room(self, besides: Path) -> None:
        """Remove the oldest files, also what dead processes left unfinished, until all the others are small enough."""
        found = []
        for path in self._folder.iterdir():
            with suppress(OSError):  # another process has just removed it
                state = path.stat()
                found.append((path == besides, state.st_mtime_ns, state.st_size, path))
        kept = sum(size for _, _, size, _ in found)
        for is_new, _, size, path in sorted(found):
            if kept <= self._most or is_new:
                break
            with suppress(OSError):
                path.unlink()
                kept -= size


def _bytes(state: Any) -> int:
    """Return the bytes of all tensors in nested dicts and lists."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, Mapping):
        return sum(map(_bytes, state.values()))
    return sum(map(_bytes, state)) if isinstance(state, (list, tuple)) else 0
