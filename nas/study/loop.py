"""The ask/tell loop: as much training as N distinct architectures take, whatever happens in between."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import optuna

from nas.architecture import Architecture
from nas.evaluation import OUT_OF_MEMORY, Evaluation, EvaluationError, reason_of
from nas.limits import BeyondLimitsError
from nas.rungs import StoppedError
from nas.space import ResolvedSpace
from nas.study.ledger import AGAIN, Study
from nas.study.sampler import propose, resolve_sampler
from nas.study.storage import DATABASE_ERRORS
from nas.study.worker import Worker

SAME_FAILURES = 3
"""So many identical failures in a row end the run: the cause is then not the architecture."""
SAME_AMONG_FINISHED = 10
"""The same for failures that an architecture may well be the cause of, in a study that has finished others."""
MOST_REJECTED = 100
"""So many architectures in a row that are beyond the limits end the run."""
POLL_SECONDS = 0.5
"""Pause between two looks at the trials of other workers."""


class RunFailed(Exception):  # noqa: N818 - it is the run that failed
    """The run cannot go on; the message is the cause."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    finished: int
    """Finished distinct architectures in the study."""
    stopped: int = 0
    """Distinct architectures whose training was stopped at a rung."""
    exhausted: bool = False
    """Whether every architecture of the space was tried before the budget was reached."""
    stalled: bool = False
    """Whether the front had not moved beyond noise for as much training as the patience allows."""
    too_costly: bool = False
    """Whether the run ended as :data:`MOST_REJECTED` architectures in a row were beyond the limits."""
    interrupted: bool = False
    """Whether it was asked to stop before any of that."""


def run(
    study: Study,
    evaluate: Callable[[Architecture], Evaluation],
    *,
    space: ResolvedSpace,
    budget: int,
    sampler: str = "auto",
    seed: int = 0,
    patience: int | None = None,
    on_trial: Callable[[Study], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Evaluate architectures until as much was trained as ``budget`` distinct ones take.

    Where none is stopped early these are exactly so many finished ones. One that was stopped takes the share of a
    training that it had, so that there are more of them, and the last one may go beyond the budget by its rest. Those
    that are beyond the limits are not finished, and take nothing from the budget.

    Trials of dead workers are repaired first. Several processes may run one study; together they stop at the budget.

    Args:
        study: The study, new or resumed.
        evaluate: Measures an architecture; raises :class:`nas.evaluation.EvaluationError` where it cannot,
            :class:`nas.limits.BeyondLimitsError` where it was not trained because of what it costs, and
            :class:`nas.rungs.StoppedError` where the training was not worth going on with.
        space: The space that the study is bound to.
        budget: Whole trainings that the study shall have spent.
        sampler: One of :data:`nas.study.SAMPLERS`.
        seed: Seed of the proposals.
        patience: End once so many whole trainings of proposed architectures, of all workers, did not move the front
            beyond noise. None to go on.
        on_trial: Called after every finished or failed trial of this process.
        stop: Looked at before each trial: once it is true, none is started any more.

    Raises:
        ValueError: If the budget or the patience is below 1, or the sampler unknown.
        RunFailed: If :data:`SAME_FAILURES` trials in a row failed for the same reason, or
            :data:`SAME_AMONG_FINISHED` for want of memory or because of a loss that is not finite.
        KeyboardInterrupt: As it came; the trial in work is queued again first.
    """
    if budget < 1:
        raise ValueError(f"the budget must be at least 1 trial, but got {budget}")
    if patience is not None and patience < 1:
        raise ValueError(f"patience must be at least 1 trial, but got {patience}")
    resolve_sampler(sampler)
    alike: list[optuna.Trial] = []
    last: Failure | None = None
    with Worker(study.store) as worker, _released(study, worker):
        while True:
            trial, outcome = _next(
                study, worker, space, budget, sampler=sampler, seed=seed, patience=patience, stops=stop()
            )
            if outcome is not None:
                return outcome
            if trial is None:
                time.sleep(POLL_SECONDS)
                continue
            failure = evaluate_trial(study, trial, evaluate)
            if on_trial is not None:
                on_trial(study)
            again = failure is not None and last is not None and failure.kind == last.kind
            alike = [*(alike if again else []), trial] if failure is not None else []
            last = failure
            if failure is not None and len(alike) >= SAME_FAILURES:
                _give_up(study, alike, failure)


@contextmanager
def _released(study: Study, worker: Worker) -> Iterator[None]:
    """Queue again what a worker has in work when it is stopped, were that between two steps."""
    try:
        yield
    except KeyboardInterrupt:
        with suppress(Exception), study.lock():
            study.release(worker)
        raise


@dataclass(frozen=True)
class Failure:
    """Why a trial failed."""

    reason: str
    is_expected: bool
    """Whether evaluations are known to fail like that."""

    @property
    def kind(self) -> str:
        """The reason without its figures: three failures in epochs 1, 2 and 1 are alike."""
        return re.sub(r"\d[\d.]*", "#", self.reason)


def _give_up(study: Study, alike: list[optuna.Trial], failure: Failure) -> None:
    """Raise RunFailed if so many failures alike cannot be because of the architectures."""
    among_finished = failure.is_expected and study.finished() > 0
    if among_finished and len(alike) < SAME_AMONG_FINISHED:
        return
    with study.lock():
        # The next run shall try them again: once, where they may be the cause themselves.
        for failed in alike:
            if not (among_finished and failed.user_attrs.get(AGAIN)):
                study.retry(failed, {AGAIN: True})
    raise RunFailed(f"{len(alike)} trials in a row failed for the same reason: {failure.reason}")


def _next(
    study: Study,
    worker: Worker,
    space: ResolvedSpace,
    budget: int,
    *,
    sampler: str,
    seed: int,
    patience: int | None,
    stops: bool,
) -> tuple[optuna.Trial | None, Outcome | None]:
    """Start the next trial, or tell how the run ended; neither while other workers are at all that is left."""
    worker.beat()  # whoever was taken for dead lives again before it has a trial
    study.catch_up()
    with study.lock() as lock, suppress(optuna.exceptions.UpdateFinishedTrialError):
        study.check_database()
        study.repair(worker)
        trial, outcome = _choose(
            study, worker, space, budget, sampler=sampler, seed=seed, patience=patience, stops=stops
        )
        if trial is not None and not lock.is_held():  # another one may have begun the same, or the budget's last one
            study.requeue(trial, "the study's lock was lost")
            trial = None
        return trial, outcome
    return None, None  # others have changed the same trials, as the lock was lost: look again


def _choose(
    study: Study,
    worker: Worker,
    space: ResolvedSpace,
    budget: int,
    *,
    sampler: str,
    seed: int,
    patience: int | None,
    stops: bool,
) -> tuple[optuna.Trial | None, Outcome | None]:
    """Do what :func:`_next` does, under the study's lock."""
    tally = study.tally()
    outcome = Outcome(finished=tally.finished, stopped=tally.stopped)
    if tally.reaches(budget):
        return None, outcome
    if stops:
        return None, dataclasses.replace(outcome, interrupted=True)
    if tally.reaches(budget, with_running=True):
        return None, None
    if tally.rejected >= MOST_REJECTED:
        return None, None if tally.running else dataclasses.replace(outcome, too_costly=True)
    if tally.waiting:
        return study.claim_waiting(worker, space), None
    if patience is not None and study.since_gain() >= patience:
        return None, None if tally.running else dataclasses.replace(outcome, stalled=True)
    proposal = propose(space, tally.known, sampler=sampler, seed=seed)
    if proposal is not None:
        return study.claim(proposal, worker, space), None
    return None, None if tally.running else dataclasses.replace(outcome, exhausted=True)


def evaluate_trial(study: Study, trial: optuna.Trial, evaluate: Callable[[Architecture], Evaluation]) -> Failure | None:
    """Evaluate a trial's architecture and record what came of it. Returns the failure, if it is one."""
    architecture = study.architecture(trial)
    try:
        evaluation = evaluate(architecture)
    except KeyboardInterrupt:
        with study.lock():
            study.requeue(trial, "stopped by the user")
        raise
    except BeyondLimitsError as error:
        study.reject(trial, str(error), error.cost)
        return None
    except StoppedError as stopped:
        study.stop(trial, stopped)
        return None
    except EvaluationError as error:
        failure = Failure(reason_of(error), is_expected=True)
    except DATABASE_ERRORS:
        # The database failed and not the architecture. If it is back already the trial is queued again; else it is
        # repaired when the search goes on, as one whose worker died.
        with suppress(Exception), study.lock():
            study.requeue(trial, "the database failed")
        raise
    except Exception as error:  # one bad architecture must not end a night's search; three alike do
        failure = Failure(reason_of(error), is_expected=False)
    else:
        study.finish(trial, evaluation)
        return None
    _try_once_more(study, trial, failure)
    study.fail(trial, failure.reason)
    return failure


def _try_once_more(study: Study, trial: optuna.Trial, failure: Failure) -> None:
    """Queue an architecture once more that had no memory, if others may have taken it: it need not be the cause."""
    if OUT_OF_MEMORY in failure.reason and not trial.user_attrs.get(AGAIN):
        with study.lock():
            if study.tally().running > 1:
                study.retry(trial, {AGAIN: True})
