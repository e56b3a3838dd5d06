"""A bar that shows how a search gets on."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.architecture import Architecture
    from nas.seeds import Replicate
    from nas.study import Study

BUSY = 0.75
"""Load for each core of the CPU from which a search warns that the machine is busy."""


class Progress:
    """A bar on stderr: trials done, time left; and as often as it takes little time, front size and best accuracy."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._bar: Any = None

    def start(self, study: Study) -> None:
        from tqdm import tqdm

        from nas.files import Sparing

        if words := _busy():
            self.say(words)
        self._bar = tqdm(total=self._budget, initial=self._spent(study), unit="training", smoothing=0.1)
        self._describe = Sparing(lambda: self._bar.set_postfix_str(_state(study), refresh=False))

    def update(self, study: Study) -> None:
        spent = self._spent(study)
        self._describe(now=spent == self._budget)
        self._bar.update(spent - self._bar.n)

    def _spent(self, study: Study) -> int:
        return min(int(study.tally().spent), self._budget)

    def say(self, words: str) -> None:
        """Say a line above the bar, so that neither spoils the other."""
        if self._bar is None:
            print(words, file=sys.stderr)
        else:
            self._bar.write(words, file=sys.stderr)

    def replicate(self, architecture: Architecture, replicate: Replicate) -> None:
        self.say(f"again with seed {replicate.seed}: {replicate.accuracy:.1%}, {architecture.describe()}")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _state(study: Study) -> str:
    """Return in a few words where a study stands."""
    rows, failures = study.rows(), study.failures()
    words = f"front {sum(row.on_front for row in rows)}, best {max((row.accuracy for row in rows), default=0):.1%}"
    stopped = len(study.stopped())
    words += f", stopped {stopped}" if stopped else ""
    return words + (f", failed {len(failures)}" if failures else "")


def _busy() -> str:
    """Return a warning if others use the machine already."""
    load, cores = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, os.cpu_count() or 1
    if load < BUSY * cores:
        return ""
    words = (
        f"the machine is busy (load {load:.1f} on {cores} cores): latencies will scatter, and their intervals be wide"
    )
    return words if os.environ.get("OMP_NUM_THREADS") == "1" else f"{words}; OMP_NUM_THREADS=1 helps on a CPU"
