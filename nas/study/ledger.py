"""One study, as those write it who work on it: who does what, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from nas.database import Lock
from nas.evaluation import Counted, Evaluation
from nas.front import BARE
from nas.limits import Limits
from nas.protocol import Protocol
from nas.rungs import StoppedError
from nas.space import ResolvedSpace
from nas.study.binding import RUNGS, bind, check_name
from nas.study.history import History
from nas.study.record import close
from nas.study.sampler import Distribution, Proposal, distributions
from nas.study.storage import connect
from nas.study.trials import (
    CURVE,
    EXPLAINS,
    INTERRUPTED,
    RESUMES,
    checks,
    id_of,
    params_of,
    reason_of,
    was_cut_off,
    was_stopped,
)
from nas.study.worker import Watch, Worker, bury

AGAIN = "tried_again"
"""Attribute of a trial that repeats one whose failure was put down to something else than its architecture."""
MOST_DEATHS = 3
"""An architecture is not taken for the cause, as one would be that takes more memory than there is, before so many
workers have died with it."""
CHANCE = 1e-4
"""Nor before they would be so unlikely to have died by chance, as those died that evaluated others."""
_DEATHS = "deaths"
_DIED = "died"
"""How the reason of a trial ends whose worker did."""
_PROPOSED = ("architecture", "placements", "control", "memory", RESUMES, EXPLAINS, AGAIN, _DEATHS)
"""Attributes that a trial has from its proposal, and hands on when it has to be repeated."""


class Study(History):
    """A study in a database. :meth:`create` makes or resumes one, :meth:`open` reads one."""

    @classmethod
    def create(
        cls,
        name: str,
        url: str,
        *,
        space: ResolvedSpace,
        protocol: Protocol,
        limits: Limits | None = None,
        inputs: Mapping[str, Any] | None = None,
    ) -> Study:
        """Make a study, or resume the one of that name.

        ``inputs`` says how data and trained weights were asked for, as JSON values. A study is not bound to them.

        Raises:
            StudyError: If the name cannot be a folder's, or the study there has another space, protocol or limits.
            StorageError: If the database cannot be used.
        """
        check_name(name)
        storage, store = connect(url)
        try:
            with store.lock("ask", name):
                bind(name, storage, space=space, protocol=protocol, limits=limits or Limits(), inputs=inputs)
            return cls(name, url, storage, store)
        except BaseException:
            close(storage, store)
            raise

    def claim(self, proposal: Proposal, worker: Worker, space: ResolvedSpace) -> optuna.Trial:
        """Start a trial for a proposal. Call it under :meth:`lock`."""
        self.store.keep(proposal.architecture)
        params = dict(proposal.params)
        attributes: dict[str, Any] = {
            "architecture": proposal.architecture.id,
            "placements": proposal.architecture.describe(),
            "worker": worker.id,
        }
        if proposal.control:
            attributes["control"] = proposal.control
        if proposal.memory:
            attributes["memory"] = dict(proposal.memory)
        if proposal.resumes:
            attributes[RESUMES] = True
        if proposal.explains is not None:
            attributes[EXPLAINS] = proposal.explains
        questions = distributions(space, params)
        if proposal.explains is not None:  # from a space that was read back: what was asked before is asked alike
            asked = {name: each for trial in self._trials() for name, each in trial.distributions.items()}
            questions = {name: asked.get(name, each) for name, each in questions.items()}
        # In one transaction: to queue it, to ask for it and to suggest each parameter takes a dozen, and three times as
        # long, and leaves a trial without its attributes if the process is killed between two of them.
        return self._begin(params, questions, attributes)

    def _begin(
        self, params: dict[str, Any], questions: dict[str, Distribution], attributes: dict[str, Any]
    ) -> optuna.Trial:
        """Start a trial that has its parameters already."""
        template = optuna.trial.create_trial(
            state=TrialState.RUNNING, params=params, distributions=questions, user_attrs=attributes
        )
        trial_id = self._storage.create_new_trial(self._study._study_id, template_trial=template)
        return optuna.Trial(self._study, trial_id)

    def claim_waiting(self, worker: Worker, space: ResolvedSpace) -> optuna.Trial | None:
        """Start the oldest trial that waits for a worker, if any. Call it under :meth:`lock`."""
        while waiting := self._trials(TrialState.WAITING):
            first = waiting[0]
            if self._is_done(first) or self.in_work(self.architecture(first)) is not None:
                # By a worker that had been taken for dead; or it waits twice, as the answer to the first time was lost.
                self._storage.set_trial_state_values(first._trial_id, TrialState.RUNNING)
                self._end(first.number, f"{INTERRUPTED}: no longer needed")
            elif (trial := self._take(first, worker, space)) is not None:
                return trial
        return None

    def _take(self, waiting: FrozenTrial, worker: Worker, space: ResolvedSpace) -> optuna.Trial | None:
        """Start a trial that waits, unless another worker has. ``Study.ask`` would then start any other one."""
        # First of all, so that one who is killed between two of these steps is known for whose trial it is.
        self._storage.set_trial_user_attr(waiting._trial_id, "worker", worker.id)
        if not self._storage.set_trial_state_values(waiting._trial_id, TrialState.RUNNING):
            now = self._storage.get_trial(waiting._trial_id)  # perhaps it was started, and the answer was lost
            if now.state != TrialState.RUNNING or now.user_attrs.get("worker") != worker.id:
                return None
        trial = optuna.Trial(self._study, waiting._trial_id)
        for name, question in distributions(space, params_of(waiting)).items():
            trial._suggest(name, question)
        return trial

    def _is_done(self, trial: FrozenTrial) -> bool:
        """Tell whether another trial has trained what one is to train: to the end or, if that is new, to a rung."""
        resumes = trial.user_attrs.get(RESUMES)
        return any(id_of(other) == id_of(trial) and not (resumes and was_stopped(other)) for other in self._trained())

    def finish(self, trial: optuna.Trial, evaluation: Evaluation) -> bool:
        """Record an evaluation. Returns False if the trial had been taken over because this worker seemed dead.

        What was measured is kept before the trial is told, so that no crash in between can lose it. Where the worker
        that took over has stopped the same training at a rung meanwhile, the finished one counts, as another trial.
        """
        self.store.put(self.architecture(trial), self.protocol_hash, evaluation)
        with self.lock(), suppress(optuna.exceptions.UpdateFinishedTrialError):
            frozen = self._now(trial)
            if frozen.state.is_finished():
                alike = [other for other in self._trained() if id_of(other) == id_of(frozen)]
                if alike and all(was_stopped(other) for other in alike):
                    self._tell(self._begin(params_of(frozen), frozen.distributions, _proposed(frozen)), evaluation)
                return False
            self._tell(trial, evaluation)
            return True
        return False  # another one has just ended it, though this one has the lock: the server had lost it

    def _tell(self, trial: optuna.Trial, evaluation: Evaluation) -> None:
        # For people who look; what counts is in the store.
        trial.set_user_attr("latency_ratio", evaluation.latency.ratio)
        trial.set_user_attr("parameters", evaluation.parameters)
        trial.set_user_attr("macs", evaluation.macs)
        self._constrain(trial, evaluation)
        self._close(trial._trial_id, TrialState.COMPLETE, [evaluation.accuracy, evaluation.latency_ms])

    def reject(self, trial: optuna.Trial, reason: str, cost: Counted) -> None:
        """Record that a trial's architecture costs more than is allowed and was not trained."""
        with self.lock(), suppress(optuna.exceptions.UpdateFinishedTrialError):
            if not self._now(trial).state.is_finished():
                trial.set_user_attr("reason", reason)
                trial.set_user_attr("nominal_ms", cost.nominal_ms)
                self._constrain(trial, cost)
                self._close(trial._trial_id, TrialState.PRUNED)

    def stop(self, trial: optuna.Trial, stopped: StoppedError) -> None:
        """Record that a trial's training was stopped at a rung, with what was known of it until then.

        A worker that had been taken for dead may have finished the same training meanwhile: that counts.
        """
        architecture = self.architecture(trial)
        with self.lock(), suppress(optuna.exceptions.UpdateFinishedTrialError):
            if self._now(trial).state.is_finished():
                return
            finished = self.store.get(architecture, self.protocol_hash)
            if finished is not None:
                self._tell(trial, finished)
                return
            cost = stopped.cost
            trial.set_user_attr("reason", stopped.reason)
            trial.set_user_attr("nominal_ms", cost.nominal_ms)
            trial.set_user_attr("latency_ratio", cost.latency.ratio)
            trial.set_user_attr(CURVE, stopped.curve)  # the mark of a stopped trial: last
            self._constrain(trial, cost)
            self._close(trial._trial_id, TrialState.PRUNED)

    def note_rungs(self, words: str) -> None:
        """Keep in words by which rungs trainings are stopped, beside those that the study had before."""
        with self.lock():
            if words not in self.rungs:
                self._study.set_user_attr(RUNGS, [*self.rungs, words])

    def _constrain(self, trial: optuna.Trial, cost: Counted) -> None:
        """Say in Optuna's terms how far a cost is beyond the limits."""
        told = trial.constraints
        for name, excess in self.limits.excess(cost).items():
            if name not in told:  # Optuna keeps the first one, and warns
                trial.set_constraint(name, excess)

    def _close(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> None:
        """Give a trial its last state, unless it has one: the answer to the first time may have been lost."""
        with suppress(optuna.exceptions.UpdateFinishedTrialError):
            self._storage.set_trial_state_values(trial_id, state, values)

    def fail(self, trial: optuna.Trial, reason: str) -> None:
        """Record that a trial failed, and why."""
        with self.lock():
            self._end(trial.number, reason)

    def retry(self, trial: FrozenTrial | optuna.Trial, noted: Mapping[str, Any] | None = None) -> None:
        """Queue a trial's architecture again, with further attributes, unless another trial has it.

        What checks another trial is not queued: it is for those who asked to ask again. Call it under :meth:`lock`.
        """
        frozen = self._now(trial)
        if checks(frozen):
            return
        others = self._trials(TrialState.WAITING, TrialState.RUNNING)
        in_work = {id_of(other) for other in others if other.number != frozen.number}
        if id_of(frozen) not in in_work and not self._is_done(frozen):
            attributes = {**_proposed(frozen), "retry_of": frozen.number, **(noted or {})}
            self._study.enqueue_trial(params_of(frozen), user_attrs=attributes)

    def repair(self, worker: Worker | None = None, watch: Watch | None = None) -> int:
        """Fail the trials of dead workers and queue their architectures again. Call it under the study's lock.

        Args:
            worker: Who asks, while it works on nothing: a trial that is said to be its own was begun, but the database
                was gone before it could say so. None for one who only repairs.
            watch: Tells who is dead; by default the worker's, or one that sees only this machine's.

        Returns:
            How many trials were repaired.
        """
        watch = watch or (Watch(self.store) if worker is None else worker.watch)
        repaired = 0
        for trial in self._trials(TrialState.RUNNING):
            name = trial.user_attrs.get("worker")
            if worker is not None and name == worker.id:
                self.requeue(trial, "its start was not answered")
            elif watch.is_dead(name):
                self._repeat(trial)
                if name is not None:
                    bury(name, self.store)
            else:
                continue
            repaired += 1
        return repaired

    def release(self, worker: Worker) -> None:
        """Queue again what a worker has in work that stops. Call it under the study's lock."""
        for trial in self._trials(TrialState.RUNNING):
            if trial.user_attrs.get("worker") == worker.id:
                self.requeue(trial, "stopped by the user")

    def _repeat(self, trial: FrozenTrial) -> None:
        """Queue the architecture of a dead worker's trial again, unless it was the death of several."""
        deaths = trial.user_attrs.get(_DEATHS, 0) + 1
        is_bare = trial.user_attrs.get("control") == BARE  # all others are compared with it
        if not is_bare and self._is_deadly(trial, deaths):
            self._end(trial.number, f"{deaths} workers, one after the other, died while they evaluated it")
        else:
            self.requeue(trial, f"its worker {trial.user_attrs.get('worker')} {_DIED}", {_DEATHS: deaths})

    def _is_deadly(self, trial: FrozenTrial, deaths: int) -> bool:
        """Tell whether an architecture is the cause of so many deaths, one after the other.

        Machines that are taken away, or somebody who kills processes, hit whatever is in work. So it is a question of
        how often workers died with other architectures: with a uniform prior, by Laplace's rule of succession.
        """
        others = [each for each in self._trials() if each.state.is_finished() and id_of(each) != id_of(trial)]
        died = sum(was_cut_off(each) and reason_of(each).endswith(_DIED) for each in others)
        return deaths >= MOST_DEATHS and ((died + 1) / (len(others) + 2)) ** deaths < CHANCE

    def requeue(self, trial: FrozenTrial | optuna.Trial, cause: str, noted: Mapping[str, Any] | None = None) -> None:
        """Fail a trial that was cut off and queue its architecture again. Call it under :meth:`lock`."""
        if self._now(trial).state.is_finished():
            return
        self.retry(trial, noted)  # first, so that a crash here leaves one trial too many and not one too few
        self._end(trial.number, f"{INTERRUPTED}: {cause}")

    def _end(self, number: int, reason: str) -> None:
        """Fail a trial for a reason, unless it is finished already."""
        frozen = self._trials()[number]
        if not frozen.state.is_finished():
            self._storage.set_trial_user_attr(frozen._trial_id, "reason", reason)
            self._close(frozen._trial_id, TrialState.FAIL)

    def lock(self) -> AbstractContextManager[Lock]:
        """Return the lock under which trials are started and repaired: one process at a time."""
        return self.store.lock("ask", self.name)


def _proposed(trial: FrozenTrial) -> dict[str, Any]:
    """Return the attributes that a trial has from its proposal."""
    return {key: value for key, value in trial.user_attrs.items() if key in _PROPOSED}
