"""How every trial of a study ended, as those need it who show one trial at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from optuna.trial import FrozenTrial, TrialState

from nas.architecture import Architecture
from nas.evaluation import Evaluation
from nas.study.trials import curve_of, reason_of, was_cut_off, was_stopped

Outcome = Literal["finished", "stopped", "rejected", "failed", "cut off", "running", "waiting"]


@dataclass(frozen=True, kw_only=True)
class End:
    """One trial of a study, whatever came of it."""

    trial: int
    """Number of the trial in its study."""
    key: int
    """Number of the trial in the database, by which optuna-dashboard names it."""
    outcome: Outcome
    """``rejected``: beyond the limits, not trained; ``cut off``: interrupted, its architecture has another trial."""
    architecture: Architecture
    """What was, or is to be, evaluated."""
    control: str = ""
    """Name of the control, empty for a trial of the search."""
    reason: str = ""
    """Why it was not finished, in words."""
    curve: tuple[float, ...] = ()
    """Validation accuracy after each epoch that was trained."""
    constraints: dict[str, float]
    """For each limit how far the cost is beyond it, as a share of the limit: 0 or less is within."""
    evaluation: Evaluation | None = None
    """What was measured in the first training; ``None`` unless finished."""


def end_of(trial: FrozenTrial, architecture: Architecture, evaluation: Evaluation | None) -> End:
    """Return how a trial ended.

    Args:
        trial: The trial.
        architecture: Its architecture.
        evaluation: What is known of that under the study's protocol.
    """
    finished = trial.state == TrialState.COMPLETE
    curve = curve_of(trial) if was_stopped(trial) else evaluation.curve if finished and evaluation is not None else ()
    return End(
        trial=trial.number,
        key=trial._trial_id,
        outcome=_outcome(trial),
        architecture=architecture,
        control=trial.user_attrs.get("control", ""),
        reason="" if finished or not trial.state.is_finished() else reason_of(trial),
        curve=curve,
        constraints=dict(sorted(trial.constraints.items())),
        evaluation=evaluation if finished else None,
    )


def _outcome(trial: FrozenTrial) -> Outcome:
    if trial.state == TrialState.FAIL:
        return "cut off" if was_cut_off(trial) else "failed"
    if trial.state == TrialState.PRUNED:
        return "stopped" if was_stopped(trial) else "rejected"
    if trial.state == TrialState.COMPLETE:
        return "finished"
    return "running" if trial.state == TrialState.RUNNING else "waiting"
