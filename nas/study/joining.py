"""An architecture that nobody proposed joins a study as a trial: to check what the blocks of another one are worth."""

from __future__ import annotations

import time
from collections.abc import Callable

import optuna

from nas.architecture import Architecture
from nas.evaluation import Evaluation
from nas.space import ResolvedSpace
from nas.study.ledger import Study
from nas.study.loop import POLL_SECONDS, evaluate_trial
from nas.study.sampler import Proposal
from nas.study.worker import Worker


def join(
    study: Study,
    evaluate: Callable[[Architecture], Evaluation],
    architecture: Architecture,
    *,
    space: ResolvedSpace,
    explains: int,
    on_wait: Callable[[int], None] | None = None,
) -> str:
    """Evaluate an architecture as a trial of a study, unless one has finished it or turned it away already.

    What another process has in work is waited for. A trial whose training was stopped at a rung is not finished: it is
    taken up again. The trial counts as one that checks another (:data:`nas.study.trials.EXPLAINS`), and takes nothing
    from the budget of a search; but the study's own controls are its own, whoever trains them.

    Args:
        study: The study.
        evaluate: As :func:`nas.study.run` takes it.
        architecture: One of the study's space, or one made of the blocks of its controls.
        space: The space that the study is bound to.
        explains: Number of the trial that is checked.
        on_wait: Called once with the number of the trial that is waited for.

    Returns:
        Why it could not be evaluated; nothing if it was.

    Raises:
        KeyboardInterrupt: As it came; the trial is recorded as interrupted first.
    """
    waited = False
    with Worker(study.store) as worker:
        while True:
            trial: optuna.Trial | None = None
            worker.beat()
            with study.lock() as lock:
                study.check_database()
                study.repair(worker)
                if (reason := study.ending(architecture)) is not None:
                    return reason
                if (other := study.in_work(architecture)) is None:
                    trial = study.claim(_proposal(study, architecture, space, explains), worker, space)
                    if not lock.is_held():
                        continue  # another one may have begun the same: it is found to be repaired
            if trial is not None:
                if (failure := evaluate_trial(study, trial, evaluate)) is not None:
                    return failure.reason
                continue  # to look what came of it: a worker that was taken for dead has to begin anew
            if other is not None and on_wait is not None and not waited:
                on_wait(other)
                waited = True
            time.sleep(POLL_SECONDS)


def _proposal(study: Study, architecture: Architecture, space: ResolvedSpace, explains: int) -> Proposal:
    control = next((each for each in space.controls() if each.architecture.id == architecture.id), None)
    resumes = study.was_stopped(architecture.id)
    if control is not None:
        return Proposal(architecture=architecture, params=control.choices, control=control.label, resumes=resumes)
    params = space.answers(architecture) or {}
    return Proposal(architecture=architecture, params=params, resumes=resumes, explains=explains)
