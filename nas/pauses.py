"""Trainings that were stopped or killed and may be taken up again: weights, and all else that they need to go on.

Nothing depends on these files: a training whose file is gone, or damaged, or on another machine, begins anew and ends
as it would have. The clock decides when a file is written, and never what comes out of a training.

Several processes may keep the same training, if one of them was taken for dead: each file is that of one of them, and
whole, and any of them will do.
"""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from nas.evaluation import OUT_OF_MEMORY, EvaluationError
from nas.packed import check_unpacked
from nas.rungs import StoppedError

MOST_BYTES = 4 * 1024**3
"""So much is kept at most; the oldest go first."""
CHECKPOINT_SECONDS = 20.0
"""A training is kept once so much was trained since it last was: shorter ones pay nothing, and lose no more than that.
"""
MOST_SHARE = 0.01
"""Largest share of a training that may go into keeping it: what takes a second to write is written every 100."""
FIRST_BYTES_PER_SECOND = 1e8
"""How fast a file is taken to be written until one was: as fast as a slow disk."""


class Pauses:
    """A folder of trainings to go on from."""

    def __init__(self, folder: str | Path, most_bytes: int = MOST_BYTES) -> None:
        """Name the folder; it is made when there is something to keep."""
        self._folder = Path(folder)
        self._most = most_bytes
        self._seconds_per_byte = 1 / FIRST_BYTES_PER_SECOND

    @contextmanager
    def of(self, key: str, *, keeps_stopped: bool = True) -> Iterator[Pause]:
        """Give a training its place, for as long as the context lasts.

        At the end it is forgotten, be it finished or failed; but not if it was stopped at a rung, unless that was for
        good, nor if it was cut off by anything else: Ctrl-C, or a database that is gone.

        Args:
            key: Names architecture and protocol, in letters that a file's name may have.
            keeps_stopped: Whether a training that is stopped at a rung may be taken up again.
        """
        try:
            yield Pause(self, key, keeps_stopped=keeps_stopped)
        except StoppedError:
            if not keeps_stopped:
                self.drop(key)
            raise
        except EvaluationError as error:
            if OUT_OF_MEMORY not in str(error):  # that may have been the neighbours', and is tried once more
                self.drop(key)
            raise
        self.drop(key)

    def put(self, key: str, state: Mapping[str, Any]) -> None:
        """Keep the state of a training, if there is room for it.

        Args:
            key: Names architecture and protocol, in letters that a file's name may have.
            state: Tensors, numbers and words, in dicts and lists.
        """
        size = bytes_of(state)
        if size > self._most:
            return
        started = time.perf_counter()
        # Not the process alone: those of two machines on one folder may have the same number.
        unfinished = self._folder / f".{key}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            buffer = io.BytesIO()
            torch.save(dict(state), buffer)
            with open(unfinished, "wb") as file:
                # torch does not look at the checksums that its files have: a flipped bit would be another weight.
                file.write(_digest(buffer.getbuffer()))
                file.write(buffer.getbuffer())
            self._make_room(besides=unfinished)
            unfinished.replace(self._path(key))
        except (OSError, RuntimeError):  # a full disk, for one
            pass
        finally:
            with suppress(OSError):
                unfinished.unlink()
        self._seconds_per_byte = (time.perf_counter() - started) / max(1, size)

    def seconds_for(self, size: int) -> float:
        """Return how long it takes to keep so many bytes, going by the last time; infinity for what has no room."""
        return size * self._seconds_per_byte if size <= self._most else float("inf")

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the state of a training on the CPU; None where there is none that can be read."""
        try:
            check_unpacked(self._path(key))
            content = memoryview(self._path(key).read_bytes())
            digest, content = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
            if digest != _digest(content):
                return None
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception:  # torch and pickle have many ways to say that a file is damaged
            return None
        return state if isinstance(state, dict) else None

    def drop(self, key: str) -> None:
        """Forget a training; the folder goes with the last one."""
        with suppress(OSError):
            self._path(key).unlink()
            self._folder.rmdir()

    def clear(self, besides: Collection[str] = ()) -> None:
        """Forget all, besides those whose keys begin with one of these words."""
        if not besides:
            shutil.rmtree(self._folder, ignore_errors=True)
            return
        with suppress(OSError):
            for path in self._folder.iterdir():
                if not path.name.lstrip(".").startswith(tuple(besides)):
                    with suppress(OSError):
                        path.unlink()
            self._folder.rmdir()

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


class Pause:
    """The place of one training."""

    def __init__(self, pauses: Pauses, key: str, *, keeps_stopped: bool = True) -> None:
        """Name the training; see :meth:`Pauses.of`."""
        self._pauses, self._key = pauses, key
        self.keeps_stopped = keeps_stopped
        self.kept_at = 0.0
        """Seconds of training after which it was kept last, or taken up."""

    def is_time(self, seconds: float) -> bool:
        """Tell whether enough was trained since it was last kept, after so many seconds of training."""
        return seconds - self.kept_at >= CHECKPOINT_SECONDS

    def is_worth(self, state: Mapping[str, Any], seconds: float) -> bool:
        """Tell whether it takes no more than its share to keep a state, after so many seconds of training."""
        return self._pauses.seconds_for(bytes_of(state)) <= MOST_SHARE * (seconds - self.kept_at)

    def keep(self, state: Mapping[str, Any]) -> None:
        """Keep a state, if there is room for it."""
        self._pauses.put(self._key, state)

    def load(self) -> dict[str, Any] | None:
        """Return what was kept, on the CPU; None where there is nothing that can be read."""
        return self._pauses.get(self._key)


def bytes_of(state: Any) -> int:
    """Return the bytes of all tensors in nested dicts and lists."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, Mapping):
        return sum(map(bytes_of, state.values()))
    return sum(map(bytes_of, state)) if isinstance(state, (list, tuple)) else 0


_DIGEST_BYTES = hashlib.sha256().digest_size


def _digest(content: Any) -> bytes:
    return hashlib.sha256(content).digest()
