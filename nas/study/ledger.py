"""One study: what it was made for, what it has finished, who works on what."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from nas.architecture import Architecture
from nas.evaluation import Cost, Evaluation
from nas.front import BARE, Row, mark_front
from nas.limits import Limits
from nas.protocol import Protocol
from nas.seeds import Replicate, SeedNoise
from nas.space import ResolvedSpace
from nas.store import StorageError, Store, sqlite_path
from nas.study.binding import INPUTS, LIMITS, StudyError, bind, check_name, is_bound
from nas.study.rows import make_row, noise_of
from nas.study.sampler import Proposal, distributions
from nas.study.storage import connect, connect_existing, lock
from nas.study.trials import INTERRUPTED, Rejected, Tally, id_of, params_of, reason_of, tally, was_cut_off
from nas.study.worker import Worker, is_dead

AGAIN = "tried_again"
"""Attribute of a trial that repeats one whose failure was put down to something else than its architecture."""
MOST_DEATHS = 3
"""So many workers may die with one architecture: it is then the cause, as one that takes more memory than there is."""
_DEATHS = "deaths"
_PROPOSED = ("architecture", "placements", "control", "memory", AGAIN, _DEATHS)
"""Attributes that a trial has from its proposal, and hands on when it has to be repeated."""


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
            with lock(url, "ask"):
                bind(name, storage, space=space, protocol=protocol, limits=limits or Limits(), inputs=inputs)
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

    @cached_property
    def limits(self) -> Limits:
        """What an architecture of the study may cost at most."""
        return Limits(**self._study.user_attrs.get(LIMITS, {}))

    @property
    def inputs(self) -> dict[str, Any] | None:
        """How data and trained weights were asked for; ``None`` in a study that was made before that was kept."""
        inputs: dict[str, Any] | None = self._study.user_attrs.get(INPUTS)
        return inputs

    def rows(self) -> list[Row]:
        """Return the finished trials, those on the front marked; accuracies are means over their seeds."""
        evaluations = self._evaluations()
        trials = self._trials(TrialState.COMPLETE)
        first = {id_of(trial): trial for trial in reversed(trials)}
        replicates = self.replicates()
        noise = noise_of({key: evaluations[key] for key in first}, replicates)
        return mark_front(
            [
                make_row(trial, self.architecture(trial), evaluations[key], replicates.get(key, []), noise, self.limits)
                for key, trial in reversed(first.items())
            ]
        )

    def replicates(self) -> dict[str, list[Replicate]]:
        """Return the further trainings under the study's protocol but for the seed, by architecture id."""
        protocol = self.protocol
        found: dict[str, list[Replicate]] = {}
        for replicate in self.store.replicates(protocol.family_hash, "val"):
            if replicate.epochs == protocol.epochs and replicate.seed != protocol.seed:
                found.setdefault(replicate.architecture, []).append(replicate)
        return found

    def seed_noise(self) -> SeedNoise | None:
        """Return how much the seed changes the accuracy; ``None`` while no architecture was trained twice."""
        replicates = self.replicates()
        if not replicates:
            return None
        finished = {id_of(trial) for trial in self._trials(TrialState.COMPLETE)}
        evaluations = self._evaluations()
        return noise_of({key: evaluations[key] for key in finished}, replicates)

    def architecture(self, trial: FrozenTrial | optuna.Trial) -> Architecture:
        """Return the architecture of a trial."""
        identifier = id_of(trial)
        if identifier not in self._architectures:
            self._architectures[identifier] = self.store.architecture(identifier)
        return self._architectures[identifier]

    def evaluation(self, trial: int) -> Evaluation:
        """Return all that was measured in a finished trial."""
        return self._evaluations()[id_of(self._trials()[trial])]

    def finished(self) -> int:
        """Return the number of distinct architectures that were evaluated to the end."""
        return self.tally().finished

    def failures(self) -> list[tuple[int, str]]:
        """Return number and reason of the failed trials; cut-off ones, which are repeated, are not among them."""
        return [(trial.number, reason_of(trial)) for trial in self._trials(TrialState.FAIL) if not was_cut_off(trial)]

    def tally(self) -> Tally:
        """Return where the study stands, from one look at the database."""
        return tally(self._trials(), self._evaluations())

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
        # In one transaction: to queue it, to ask for it and to suggest each parameter takes a dozen, and three times as
        # long, and leaves a trial without its attributes if the process is killed between two of them.
        template = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=params,
            distributions=distributions(space, params),
            user_attrs=attributes,
        )
        trial_id = self._storage.create_new_trial(self._study._study_id, template_trial=template)
        return optuna.Trial(self._study, trial_id)

    def claim_waiting(self, worker: Worker, space: ResolvedSpace) -> optuna.Trial | None:
        """Start the oldest trial that waits for a worker, if any. Call it under :meth:`lock`."""
        while waiting := self._trials(TrialState.WAITING):
            trial = self._study.ask(distributions(space, params_of(waiting[0])))
            if id_of(trial) not in {id_of(other) for other in self._trials(TrialState.COMPLETE)}:
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
            self._constrain(trial, evaluation)
            self._study.tell(trial, [evaluation.accuracy, evaluation.latency_ms])
        return True

    def reject(self, trial: optuna.Trial, reason: str, cost: Cost) -> None:
        """Record that a trial's architecture costs more than is allowed and was not trained."""
        with self.lock():
            if not self._trials()[trial.number].state.is_finished():
                trial.set_user_attr("reason", reason)
                trial.set_user_attr("nominal_ms", cost.nominal_ms)
                self._constrain(trial, cost)
                self._study.tell(trial, state=TrialState.PRUNED)

    def rejected(self) -> list[Rejected]:
        """Return the architectures that were beyond the limits, in the order of their trials."""
        return [
            Rejected(trial.number, self.architecture(trial), reason_of(trial), max(trial.constraints.values()))
            for trial in self._trials(TrialState.PRUNED)
        ]

    def _constrain(self, trial: optuna.Trial, cost: Cost) -> None:
        """Say in Optuna's terms how far a cost is beyond the limits."""
        for name, excess in self.limits.excess(cost).items():
            trial.set_constraint(name, excess)

    def fail(self, trial: optuna.Trial, reason: str) -> None:
        """Record that a trial failed, and why."""
        with self.lock():
            self._end(trial.number, reason)

    def retry(self, trial: FrozenTrial | optuna.Trial, noted: Mapping[str, Any] | None = None) -> None:
        """Queue a trial's architecture again, with further attributes, unless another trial has it.

        Call it under :meth:`lock`.
        """
        frozen = self._trials()[trial.number]
        others = self._trials(TrialState.WAITING, TrialState.COMPLETE, TrialState.RUNNING)
        if id_of(frozen) not in {id_of(other) for other in others if other.number != frozen.number}:
            kept = {key: value for key, value in frozen.user_attrs.items() if key in _PROPOSED}
            self._study.enqueue_trial(
                params_of(frozen), user_attrs={**kept, "retry_of": frozen.number, **(noted or {})}
            )

    def repair(self) -> int:
        """Fail the trials of dead workers and queue their architectures again. Call it under the study's lock.

        Returns:
            How many trials were repaired.
        """
        running = [
            trial for trial in self._trials(TrialState.RUNNING) if is_dead(trial.user_attrs.get("worker"), self.store)
        ]
        for trial in running:
            deaths = trial.user_attrs.get(_DEATHS, 0) + 1
            if deaths >= MOST_DEATHS and trial.user_attrs.get("control") != BARE:  # all others are compared with it
                self._end(trial.number, f"{deaths} workers, one after the other, died while they evaluated it")
            else:
                self.requeue(trial, f"its worker {trial.user_attrs.get('worker')} died", {_DEATHS: deaths})
        return len(running)

    def requeue(self, trial: FrozenTrial | optuna.Trial, cause: str, noted: Mapping[str, Any] | None = None) -> None:
        """Fail a trial that was cut off and queue its architecture again. Call it under :meth:`lock`."""
        if self._trials()[trial.number].state.is_finished():
            return
        self.retry(trial, noted)  # first, so that a crash here leaves one trial too many and not one too few
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

    def _evaluations(self) -> dict[str, Evaluation]:
        """Return all that is known under the protocol, by architecture id, in multiples of one bare latency.

        A busy machine may have given the first of them another one than was found since.
        """
        found = self.store.evaluations(self.protocol_hash)
        bare_ms = self.store.bare_ms(*self._reference)
        if bare_ms is None:
            return found
        stale = {key: each for key, each in found.items() if each.reference_ms != bare_ms}
        return {**found, **{key: dataclasses.replace(each, reference_ms=bare_ms) for key, each in stale.items()}}

    @cached_property
    def _reference(self) -> tuple[str, str]:
        """Backbone and latency hash, under which the bare backbone's latency is kept."""
        (backbone,) = self.space["backbones"]
        return backbone, self.protocol.latency_hash

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
