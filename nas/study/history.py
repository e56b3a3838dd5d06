"""How a study went: what was trained in which order, what came of it, and when it last brought something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from optuna.trial import FrozenTrial, TrialState

from nas.evaluation import Evaluation
from nas.progress import last_gain
from nas.rungs import Training
from nas.study.ends import End, end_of
from nas.study.record import Record
from nas.study.rows import make_row
from nas.study.trials import checks, curve_of, id_of, was_stopped


class History(Record):
    """A study as those need it who look back."""

    def curves(self) -> dict[int, tuple[float, ...]]:
        """Return the validation accuracy after each epoch, by the number of the first trial that finished it."""
        first = {id_of(trial): trial.number for trial in reversed(self._trials(TrialState.COMPLETE))}
        evaluations = self._evaluations()  # after the trials: what another worker finishes is kept before it says so
        return {number: evaluations[key].curve for key, number in sorted(first.items(), key=lambda pair: pair[1])}

    def spent(self) -> dict[int, float]:
        """Return how many whole trainings were done up to each trial, itself among them, in the order of the trials.

        Those that were stopped count as the share of their epochs, and those that were taken up again once.
        """
        epochs, total = self.protocol.epochs, 0
        had: dict[str, int] = {}
        paid: dict[int, float] = {}
        for trial in self._trained():
            key = id_of(trial)
            now = len(curve_of(trial)) if was_stopped(trial) else epochs
            total += max(0, now - had.get(key, 0))
            had[key] = max(now, had.get(key, 0))
            paid[trial.number] = total / epochs
        return paid

    def period(self) -> tuple[datetime, datetime] | None:
        """Return when the first trial began and when the last one ended, in local time; None before that."""
        ends = [trial.datetime_complete for trial in self._trials() if trial.datetime_complete is not None]
        starts = [trial.datetime_start for trial in self._trials() if trial.datetime_start is not None]
        return (min(starts), max(ends)) if starts and ends else None

    def ends(self) -> list[End]:
        """Return how every trial ended, or that it is in work, in the order of the trials."""
        trials, evaluations = self._trials(), self._evaluations()
        return [end_of(trial, self.architecture(trial), evaluations.get(id_of(trial))) for trial in trials]

    def trainings(self) -> list[Training]:
        """Return the learning curves of the finished trials."""
        return _curves(self._trials(TrialState.COMPLETE), self._evaluations())

    def last_gain(self) -> int | None:
        """Return the number of the last trial by which the front grew beyond noise; None before the first one.

        Further seeds do not count: they are trained when the search has ended, and must not make it go on when it is
        resumed.
        """
        trials = self._trials(TrialState.COMPLETE)
        evaluations = self._evaluations()
        return last_gain(
            make_row(trial, self.architecture(trial), evaluations[id_of(trial)], [], None, self.limits)
            for trial in trials
        )

    def since_gain(self) -> float:
        """Return how much was trained since :meth:`last_gain`, in whole trainings.

        The controls do not count, nor what checks another trial: nobody proposed them.
        """
        trained = {id_of(trial): trial for trial in self._trained()}
        gained = self.last_gain()
        if gained is None:
            return 0
        since = [
            trial
            for trial in trained.values()
            if trial.number > gained and "control" not in trial.user_attrs and not checks(trial)
        ]
        epochs = self.protocol.epochs
        return sum(len(curve_of(trial)) if was_stopped(trial) else epochs for trial in since) / epochs


def _curves(trials: Sequence[FrozenTrial], evaluations: Mapping[str, Evaluation]) -> list[Training]:
    """Return the learning curves of those of the trials that are finished, each architecture's once."""
    finished = dict.fromkeys(id_of(trial) for trial in trials if trial.state == TrialState.COMPLETE)
    found = [evaluations[key] for key in finished]
    return [Training(ratio=each.latency.ratio, curve=each.curve) for each in found]
