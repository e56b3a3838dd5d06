"""One study: what it was made for, what it has finished, who works on what."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from nas.architecture import Architecture
from nas.evaluation import Evaluation
from nas.front import Row, mark_front
from nas.protocol import Protocol
from nas.space import ResolvedSpace
from nas.store import StorageError, Store, sqlite_path
from nas.study.binding import StudyError, bind, check_name, is_bound
from nas.study.sampler import Known, Proposal, distributions
from nas.study.storage import connect, connect_existing, lock
from nas.study.worker import Worker, is_dead

INTERRUPTED = "interrupted"
"""How the reason of a trial begins that was cut off; its architecture is evaluated in another trial."""
_PROPOSED = ("architecture", "placements", "control", "memory")
"""Attributes that a trial has from its proposal, and hands on when it has to be repeated."""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Where a study stands."""

    finished: int
    """Distinct architectures that were evaluated to the end."""
    running: int
    """Trials in work."""
    waiting: int
    """Trials that were cut off and wait to be repeated."""
    known: list[Known]
    """What is finished, failed, in work or waiting, in the order of the trials."""


class Study:
    """A study in a database. :meth:`create` makes or resumes one, :meth:`open` reads one."""

    def __init__(self, name: str, url: str, storage: optuna.storages.RDBStorage, store: Store) -> None:
        self.name = name
        self.url = url
        self.store = store
        self._storage = storage
        self._architectures: dict[str, Architecture] = {}
        self._file = sqlite_path(url)
        self._inode = _inode(self._file) if self._file is not None else None
        # The study's own sampler is never asked: proposals come from nas.study.sampler.
        self._study = optuna.load_study(study_name=name, storage=storage, sampler=optuna.samplers.RandomSampler(0))

    @classmethod
    def create(cls, name: str, url: str, *, space: ResolvedSpace, protocol: Protocol) -> Study:
        """Make a study, or resume the one of that name.

        Raises:
            StudyError: If the name cannot be a folder's, or the study there has another space or protocol.
            StorageError: If the database cannot be used.
        """
        check_name(name)
        storage, store = connect(url)
        try:
            with lock(url, "ask"):
                bind(name, storage, space=space, protocol=protocol)
            return cls(name, url, storage, store)
        except BaseException:
            _close(storage, store)
            raise

    @classmethod
    def open(cls, name: str, url: str) -> Study:
        """Open a study that exists.

        Raises:
            StudyError: If there is none of that name, with the names that there are.
            StorageError: If the database cannot be used.
        """
        storage, store = connect_existing(url)
        try:
            names = sorted(optuna.get_all_study_names(storage))
            if name not in names:
                raise StudyError(f"no study {name!r} in the database; its studies: {', '.join(names) or 'none'}")
            study = cls(name, url, storage, store)
            if not is_bound(study._study):
                raise StudyError(f"study {name!r} was not made by this program")
            return study
        except BaseException:
            _close(storage, store)
            raise

    def close(self) -> None:
        """Close the database's connections."""
        _close(self._storage, self.store)

    @property
    def number(self) -> int:
        """Number of the study in the database, as optuna-dashboard's addresses name it."""
        return self._study._study_id

    @property
    def protocol(self) -> Protocol:
        """The protocol that the study is bound to."""
        return Protocol.from_dict(self._study.user_attrs["protocol"])

    @cached_property
    def protocol_hash(self) -> str:
        """Hash of that protocol."""
        return str(self._study.user_attrs["protocol_hash"])

    @property
    def space(self) -> dict[str, Any]:
        """The search space that the study is bound to, as JSON values."""
        space: dict[str, Any] = self._study.user_attrs["space"]
        return space

    def rows(self) -> list[Row]:
        """Return the finished trials, those on the front marked."""
        evaluations = self.store.evaluations(self.protocol_hash)
        trials = self._trials(TrialState.COMPLETE)
        first = {_id(trial): trial for trial in reversed(trials)}
        return mark_front(
            [_row(trial, self.architecture(trial), evaluations[key]) for key, trial in reversed(first.items())]
        )

    def architecture(self, trial: FrozenTrial | optuna.Trial) -> Architecture:
        """Return the architecture of a trial."""
        identifier = _id(trial)
        if identifier not in self._architectures:
            self._architectures[identifier] = self.store.architecture(identifier)
        return self._architectures[identifier]

    def evaluation(self, trial: int) -> Evaluation:
        """Return all that was measured in a finished trial."""
        return self.store.evaluations(self.protocol_hash)[_id(self._trials()[trial])]

    def finished(self) -> int:
        """Return the number of distinct architectures that were evaluated to the end."""
        return self.tally().finished

    def failures(self) -> list[tuple[int, str]]:
        """Return number and reason of the failed trials; cut-off ones, which are repeated, are not among them."""
        return [(trial.number, reason_of(trial)) for trial in self._trials(TrialState.FAIL) if not _was_cut_off(trial)]

    def tally(self) -> Tally:
        """Return where the study stands, from one look at the database."""
        trials = [trial for trial in self._trials() if not _was_cut_off(trial)]
        evaluations = self.store.evaluations(self.protocol_hash)
        return Tally(
            finished=len({_id(trial) for trial in trials if trial.state == TrialState.COMPLETE}),
            running=sum(trial.state == TrialState.RUNNING for trial in trials),
            waiting=sum(trial.state == TrialState.WAITING for trial in trials),
            known=[_known(trial, evaluations.get(_id(trial))) for trial in trials],
        )

    def claim(self, proposal: Proposal, worker: Worker, space: ResolvedSpace) -> optuna.Trial:
        """Start a trial for a proposal. Call it under :meth:`lock`."""
        self.store.keep(proposal.architecture)
        attributes: dict[str, Any] = {
            "architecture": proposal.architecture.id,
            "placements": proposal.architecture.describe(),
        }
        if proposal.control:
            attributes["control"] = proposal.control
        if proposal.memory:
            attributes["memory"] = dict(proposal.memory)
        self._study.enqueue_trial(dict(proposal.params), user_attrs=attributes)
        trial = self.claim_waiting(worker, space)
        assert trial is not None  # it was queued a line above, under the lock
        return trial

    def claim_waiting(self, worker: Worker, space: ResolvedSpace) -> optuna.Trial | None:
        """Start the oldest trial that waits for a worker, if any. Call it under :meth:`lock`."""
        while waiting := self._trials(TrialState.WAITING):
            trial = self._study.ask(distributions(space, _params(waiting[0])))
            if _id(trial) not in {_id(other) for other in self._trials(TrialState.COMPLETE)}:
                trial.set_user_attr("worker", worker.id)
                return trial
            # Its architecture was finished after all, by a worker that had been taken for dead.
            self._end(trial.number, f"{INTERRUPTED}: no longer needed")
        return None

    def finish(self, trial: optuna.Trial, evaluation: Evaluation) -> bool:
        """Record an evaluation. Returns False if the trial had been taken over because this worker seemed dead.

        What was measured is kept before the trial is told, so that no crash in between can lose it.
        """
        self.store.put(self.architecture(trial), self.protocol_hash, evaluation)
        with self.lock():
            if self._trials()[trial.number].state.is_finished():
                return False
            # For people who look; what counts is in the store.
            trial.set_user_attr("latency_ratio", evaluation.latency.ratio)
            trial.set_user_attr("parameters", evaluation.parameters)
            trial.set_user_attr("macs", evaluation.macs)
            self._study.tell(trial, [evaluation.accuracy, evaluation.latency_ms])
        return True

    def fail(self, trial: optuna.Trial, reason: str) -> None:
        """Record that a trial failed, and why."""
        with self.lock():
            self._end(trial.number, reason)

    def retry(self, trial: FrozenTrial | optuna.Trial) -> None:
        """Queue a trial's architecture again, unless another trial has it. Call it under :meth:`lock`."""
        frozen = self._trials()[trial.number]
        others = self._trials(TrialState.WAITING, TrialState.COMPLETE, TrialState.RUNNING)
        if _id(frozen) not in {_id(other) for other in others if other.number != frozen.number}:
            kept = {key: value for key, value in frozen.user_attrs.items() if key in _PROPOSED}
            self._study.enqueue_trial(_params(frozen), user_attrs={**kept, "retry_of": frozen.number})

    def repair(self) -> int:
        """Fail the trials of dead workers and queue their architectures again. Call it under the study's lock.

        Returns:
            How many trials were repaired.
        """
        running = [
            trial for trial in self._trials(TrialState.RUNNING) if is_dead(trial.user_attrs.get("worker"), self.store)
        ]
        for trial in running:
            self.requeue(trial, f"its worker {trial.user_attrs.get('worker')} died")
        return len(running)

    def requeue(self, trial: FrozenTrial | optuna.Trial, cause: str) -> None:
        """Fail a trial that was cut off and queue its architecture again. Call it under :meth:`lock`."""
        if self._trials()[trial.number].state.is_finished():
            return
        self.retry(trial)  # first, so that a crash here leaves one trial too many and not one too few
        self._end(trial.number, f"{INTERRUPTED}: {cause}")

    def _end(self, number: int, reason: str) -> None:
        """Fail a trial for a reason, unless it is finished already."""
        frozen = self._trials()[number]
        if not frozen.state.is_finished():
            self._storage.set_trial_user_attr(frozen._trial_id, "reason", reason)
            self._study.tell(number, state=TrialState.FAIL)

    def check_database(self) -> None:
        """Raise if the database's file was removed: SQLite would go on writing to a file that nobody will see.

        Raises:
            StorageError: If it was.
        """
        if self._file is not None and _inode(self._file) != self._inode:
            raise StorageError(f"the database {self._file} was removed or replaced while the search ran")

    def lock(self) -> AbstractContextManager[object]:
        """Return the lock under which trials are started and repaired: one process at a time."""
        return lock(self.url, "ask")

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states or None)


def _close(storage: optuna.storages.RDBStorage, store: Store) -> None:
    storage.engine.dispose()
    store.close()


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


def reason_of(trial: FrozenTrial) -> str:
    """Return why a trial failed."""
    return str(trial.user_attrs.get("reason", "unknown"))


def _was_cut_off(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL and reason_of(trial).startswith(INTERRUPTED)


def _id(trial: FrozenTrial | optuna.Trial) -> str:
    identifier: str = trial.user_attrs["architecture"]
    return identifier


def _params(trial: FrozenTrial) -> dict[str, Any]:
    """Return the parameters of a trial; those of one that waits are not yet its own."""
    # what was enqueued, rather than what a process that was killed meanwhile had written of it
    params: dict[str, Any] = trial.system_attrs.get("fixed_params") or trial.params
    return params


def _known(trial: FrozenTrial, evaluation: Evaluation | None) -> Known:
    values = None
    if trial.state == TrialState.COMPLETE and evaluation is not None:
        values = (evaluation.accuracy, evaluation.nominal_ms)
    return Known(
        id=_id(trial),
        params=_params(trial),
        values=values,
        pending=trial.state in (TrialState.RUNNING, TrialState.WAITING),
        memory=trial.user_attrs.get("memory", {}),
    )


def _row(trial: FrozenTrial, architecture: Architecture, evaluation: Evaluation) -> Row:
    return Row(
        trial=trial.number,
        architecture=architecture,
        control=trial.user_attrs.get("control", ""),
        accuracy=evaluation.accuracy,
        accuracy_low=evaluation.accuracy_low,
        accuracy_high=evaluation.accuracy_high,
        latency_ms=evaluation.latency_ms,
        latency_ratio=evaluation.latency.ratio,
        ratio_low=evaluation.latency.ratio_low,
        ratio_high=evaluation.latency.ratio_high,
        parameters=evaluation.parameters,
        macs=evaluation.macs,
    )
