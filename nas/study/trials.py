"""What the trials of a study say: which architecture, how it ended and why, and where the study stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from nas.architecture import Architecture
from nas.evaluation import Evaluation
from nas.study.sampler import Known

INTERRUPTED = "interrupted"
"""How the reason of a trial begins that was cut off; its architecture is evaluated in another trial."""
CURVE = "curve"
"""Attribute of a trial that was stopped at a rung: its validation accuracies up to there. No other trial has it."""
RESUMES = "resumes"
"""Attribute of a trial whose architecture was stopped in another one: its training is taken up again."""

EXPLAINS = "explains"
"""Attribute of a trial that nobody proposed: number of the one whose blocks it checks. The search does not pay for it.
"""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Where a study stands."""

    finished: int
    """Distinct architectures that were evaluated to the end."""
    stopped: int
    """Distinct architectures whose training was stopped at a rung, and that no other trial has finished."""
    paid: int
    """Epochs that both were trained; one that was stopped and then finished counts as one whole training.

    What checks another trial is not paid by the search: it would end earlier for every question that was asked of it.
    """
    epochs: int
    """Epochs of a whole training."""
    rejected: int
    """Architectures that were beyond the limits, one after the other, since the last one that was not."""
    running: int
    """Trials in work."""
    checking: int
    """How many of them check another trial."""
    waiting: int
    """Trials that were cut off and wait to be repeated."""
    known: list[Known]
    """What is finished, stopped, failed, in work or waiting, in the order of the trials."""

    @property
    def spent(self) -> float:
        """What counts towards the budget: whole trainings, and of those that were stopped the share that they had."""
        return self.paid / self.epochs

    def reaches(self, budget: int, *, with_running: bool = False) -> bool:
        """Tell whether a budget of whole trainings is spent, or will be if all that is in work is trained to the end.

        In whole epochs: shares of trainings do not add up to one without rounding.
        """
        coming = (self.running - self.checking) * self.epochs if with_running else 0
        return self.paid + coming >= budget * self.epochs


@dataclass(frozen=True)
class Rejected:
    """An architecture that costs more than is allowed, and was not trained."""

    trial: int
    architecture: Architecture
    reason: str
    """Which limits it exceeds, in words."""
    excess: float
    """How far it is beyond the worst of the limits, as a share of that limit."""


@dataclass(frozen=True)
class Stopped:
    """An architecture whose training was stopped at a rung."""

    trial: int
    architecture: Architecture
    reason: str
    """At which rung, and how likely it was to get far enough, in words."""
    curve: tuple[float, ...]
    """Validation accuracy after each epoch that was trained."""


def reason_of(trial: FrozenTrial) -> str:
    """Return why a trial failed."""
    return str(trial.user_attrs.get("reason", "unknown"))


def was_cut_off(trial: FrozenTrial) -> bool:
    """Tell whether a trial was cut off, so that its architecture is evaluated in another one."""
    return trial.state == TrialState.FAIL and reason_of(trial).startswith(INTERRUPTED)


def was_stopped(trial: FrozenTrial) -> bool:
    """Tell whether a trial was stopped at a rung; Optuna has the same state for those beyond the limits."""
    return trial.state == TrialState.PRUNED and CURVE in trial.user_attrs


def was_trained(trial: FrozenTrial) -> bool:
    """Tell whether a trial was trained, to the end or to a rung."""
    return trial.state == TrialState.COMPLETE or was_stopped(trial)


def still_stopped(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that were stopped and whose architecture was not taken up again, or has not ended since.

    Args:
        trials: All trials of a study.
    """
    ended = {id_of(trial): trial for trial in trials if trial.state.is_finished() and not was_cut_off(trial)}
    finished = {id_of(trial) for trial in trials if trial.state == TrialState.COMPLETE}
    return [trial for key, trial in ended.items() if was_stopped(trial) and key not in finished]


def checks(trial: FrozenTrial) -> bool:
    """Tell whether a trial checks the blocks of another one, and was not proposed by the search."""
    return EXPLAINS in trial.user_attrs


def curve_of(trial: FrozenTrial) -> tuple[float, ...]:
    """Return the learning curve of a trial that was stopped, as far as it goes."""
    return tuple(trial.user_attrs[CURVE])


def id_of(trial: FrozenTrial | optuna.Trial) -> str:
    """Return the id of a trial's architecture."""
    identifier: str = trial.user_attrs["architecture"]
    return identifier


def params_of(trial: FrozenTrial) -> dict[str, Any]:
    """Return the parameters of a trial; those of one that waits are not yet its own."""
    # what was enqueued, rather than what a process that was killed meanwhile had written of it
    params: dict[str, Any] = trial.system_attrs.get("fixed_params") or trial.params
    return params


def _known(trial: FrozenTrial, evaluation: Evaluation | None) -> Known:
    values, curve = None, curve_of(trial) if was_stopped(trial) else ()
    if trial.state == TrialState.COMPLETE and evaluation is not None:
        values, curve = (evaluation.accuracy, evaluation.nominal_ms), evaluation.curve
    return Known(
        id=id_of(trial),
        params=params_of(trial),
        values=values,
        pending=trial.state in (TrialState.RUNNING, TrialState.WAITING),
        memory=trial.user_attrs.get("memory", {}),
        excess=dict(trial.constraints),
        nominal_ms=trial.user_attrs.get("nominal_ms"),
        curve=curve,
    )


def _last_rejected(trials: Sequence[FrozenTrial]) -> int:
    """Return how many trials were beyond the limits since the last one that was trained."""
    count = 0
    for trial in trials:
        if was_trained(trial):
            count = 0
        elif trial.state == TrialState.PRUNED:
            count += 1
    return count


def tally(trials: Sequence[FrozenTrial], evaluations: Mapping[str, Evaluation], epochs: int) -> Tally:
    """Return where a study stands.

    Args:
        trials: All its trials.
        evaluations: What is known under its protocol, by architecture id.
        epochs: Epochs of a whole training.
    """
    trials = [trial for trial in trials if not was_cut_off(trial)]
    own = [trial for trial in trials if not checks(trial)]
    finished = {id_of(trial) for trial in own if trial.state == TrialState.COMPLETE}
    begun = {id_of(trial): len(curve_of(trial)) for trial in own if was_stopped(trial)}
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    return Tally(
        finished=len({id_of(trial) for trial in trials if trial.state == TrialState.COMPLETE}),
        stopped=len(still_stopped(trials)),
        paid=len(finished) * epochs + sum(begun[key] for key in begun.keys() - finished),
        epochs=epochs,
        rejected=_last_rejected(own),
        running=len(running),
        checking=sum(map(checks, running)),
        waiting=sum(trial.state == TrialState.WAITING for trial in trials),
        known=[_known(trial, evaluations.get(id_of(trial))) for trial in trials],
    )
