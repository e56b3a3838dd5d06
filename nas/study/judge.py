"""Stops trainings at rungs, by what their study knows at that moment."""

from __future__ import annotations

from collections.abc import Callable, Collection

from nas.architecture import Architecture
from nas.evaluation import Cost
from nas.rungs import Rungs, StoppedError, Training, judge
from nas.study.record import Record


class Judge:
    """Looks at each training after each epoch.

    It reads the study anew at each rung, and keeps nothing: with many workers each of them judges by what all of them
    have finished until then, and none waits for another.
    """

    def __init__(self, study: Record, rungs: Rungs, spared: Collection[str] = ()) -> None:
        """Say by what to judge.

        Args:
            study: The study.
            rungs: When to look, and what to stop.
            spared: Ids of architectures that are always trained to the end: all others are compared with them.

        Raises:
            ValueError: If a rung is not within the study's training.
        """
        self._epochs = study.protocol.epochs
        rungs.check(self._epochs)
        self._study = study
        self._rungs = rungs
        self._spared = frozenset(spared)

    def __call__(self, architecture: Architecture, cost: Cost, images: int) -> Callable[[int, float], None] | None:
        """Return what to call after each epoch of an architecture's training; None where it is spared.

        Args:
            architecture: What is to be trained.
            cost: What it costs.
            images: Number of validation images.
        """
        if architecture.id in self._spared:
            return None
        curve: list[float] = []

        def after_epoch(epoch: int, accuracy: float) -> None:
            curve.append(accuracy)
            if epoch not in self._rungs.epochs:
                return
            training = Training(ratio=cost.latency.ratio, curve=curve)
            others = self._study.trainings()
            stop = judge(training, others, self._rungs, epochs=self._epochs, images=images)
            if stop is not None:
                raise StoppedError(stop, curve, cost, images)

        return after_epoch
