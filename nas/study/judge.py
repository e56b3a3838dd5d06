"""Stops trainings at rungs, by what their study knows at that moment.

Both rules read the study anew at each rung, and keep nothing: with many workers each of them judges by what all of them
have finished until then, and none waits for another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence

from nas.architecture import Architecture
from nas.evaluation import Cost
from nas.rungs import Rungs, StoppedError, Training, judge
from nas.space import ResolvedSpace
from nas.study.history import History
from nas.study.sampler import goes_on


class _Rule(ABC):
    """Looks at trainings at rungs, and stops some; what was stopped once, and what is spared, is finished."""

    def __init__(self, study: History, rungs: Rungs, spared: Collection[str]) -> None:
        rungs.check(study.protocol.epochs)
        self._study = study
        self._rungs = rungs
        self._spared = frozenset(spared)

    def __call__(self, architecture: Architecture, cost: Cost, images: int) -> Callable[[int, float], None] | None:
        """Return what to call after each epoch of an architecture's training; None where it is to be finished.

        Args:
            architecture: What is to be trained.
            cost: What it costs.
            images: Number of validation images.
        """
        if architecture.id in self._spared or self._study.was_stopped(architecture.id):
            return None
        curve: list[float] = []

        def after_epoch(epoch: int, accuracy: float) -> None:
            curve.append(accuracy)
            if epoch in self._rungs.epochs and (reason := self._reason(architecture, cost, images, curve)):
                raise StoppedError(reason, curve, cost)

        return after_epoch

    @abstractmethod
    def _reason(self, architecture: Architecture, cost: Cost, images: int, curve: Sequence[float]) -> str:
        """Return why a training is stopped after the last epoch of its curve; nothing if it goes on."""


class Judge(_Rule):
    """Stops for good what is unlikely to end above a rival that is as fast, see :mod:`nas.rungs`."""

    def __init__(self, study: History, rungs: Rungs, spared: Collection[str] = ()) -> None:
        """Say by what to judge.

        Args:
            study: The study.
            rungs: When to look, and what to stop.
            spared: Ids of architectures that are always trained to the end: all others are compared with them.

        Raises:
            ValueError: If a rung is not within the study's training.
        """
        super().__init__(study, rungs, spared)
        self._epochs = study.protocol.epochs

    def _reason(self, architecture: Architecture, cost: Cost, images: int, curve: Sequence[float]) -> str:
        training = Training(ratio=cost.latency.ratio, curve=curve)
        stop = judge(training, self._study.trainings(), self._rungs, epochs=self._epochs, images=images)
        return stop.reason if stop is not None else ""


class Chooser(_Rule):
    """Stops, for the time being, what is not what our own sampler would train next.

    A training that has reached the rung is a candidate like any other, of which more is known, and of which only the
    rest has to be paid. It goes on if it is the best of all; if it is that only later, because the model has learnt
    more or because the better ones are done, the sampler proposes it again.
    """

    def __init__(
        self, study: History, space: ResolvedSpace, rungs: Rungs, *, seed: int, spared: Collection[str] = ()
    ) -> None:
        """Say by what to choose.

        Args:
            study: The study.
            space: The space that it is bound to.
            rungs: When to look: once.
            seed: Seed of the search.
            spared: Ids of architectures that are always trained to the end.

        Raises:
            ValueError: If there are several rungs, or the rung is not within the study's training.
        """
        super().__init__(study, rungs, spared)
        if len(rungs.epochs) > 1:
            raise ValueError(f"this sampler looks at a training once, but got rungs {rungs.epochs!r}")
        self._space, self._seed = space, seed

    def _reason(self, architecture: Architecture, cost: Cost, images: int, curve: Sequence[float]) -> str:
        known = self._study.if_stopped(architecture.id, curve, cost)
        if goes_on(self._space, known, architecture.id, seed=self._seed):
            return ""
        return f"stopped after epoch {len(curve)} at {100 * curve[-1]:.1f} %: another training promises more"
