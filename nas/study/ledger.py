"""One study: what it was made for, what it has finished, who works on what."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from nas.architecture import Architecture
from nas.evaluation import Evaluation
from nas.front import Row, mark_front
from nas.protocol import Protocol
from nas.space import ResolvedSpace
from nas.store import Store
from nas.study.sampler import Known, Proposal, distributions
from nas.study.storage import connect, connect_existing, lock
from nas.study.worker import Worker, is_dead

METRICS = ("accuracy", "latency_ms")
INTERRUPTED = "interrupted"
"""How the reason of a trial begins that was cut off; its architecture is evaluated in another trial."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class StudyError(ValueError):
    """A study cannot be opened or resumed as asked; the message says why."""


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
        # Compared as JSON, so that a tuple and the list that was read back are the same.
        attributes = {"space": space.to_dict(), "protocol": protocol.to_dict()}
        attributes = json.loads(json.dumps(attributes))
        with lock(url, "ask"):
            if name not in optuna.get_all_study_names(storage):
                _make(name, storage, {**attributes, "space_hash": space.hash, "protocol_hash": protocol.hash})
            study = cls(name, url, storage, store)
            found = study._study.user_attrs
        if "protocol" not in found:
            study.close()
            raise StudyError(f"study {name!r} was not made by this program; choose another name with --study")
        changed = differences({key: found[key] for key in attributes}, attributes)
        if changed:
            study.close()
            shown = "; ".join(changed[:4]) + (f"; and {len(changed) - 4} more" if len(changed) > 4 else "")
            raise StudyError(
                f"study {name!r} has another space or protocol ({shown}); "
                "resume it with the same settings, or choose another name with --study"
            )
        return study

    @classmethod
    def open(cls, name: str, url: str) -> Study:
        """Open a study that exists.

        Raises:
            StudyError: If there is none of that name, with the names that there are.
            StorageError: If the database cannot be used.
        """
        storage, store = connect_existing(url)
        names = optuna.get_all_study_names(storage)
        if name not in names:
            storage.engine.dispose()
            store.close()
            raise StudyError(f"no study {name!r} in the database; its studies: {', '.join(names) or 'none'}")
        study = cls(name, url, storage, store)
        if "protocol" not in study._study.user_attrs:
            study.close()
            raise StudyError(f"study {name!r} was not made by this program")
        return study

    def close(self) -> None:
        """Close the database's connections."""
        self._storage.engine.dispose()
        self.store.close()

    @property
    def number(self) -> int:
        """Number of the study in the database, as optuna-dashboard's addresses name it."""
        return self._study._study_id

    @property
    def protocol(self) -> Protocol:
        """The protocol that the study is bound to."""
        return Protocol.from_dict(self._study.user_attrs["protocol"])

    @property
    def space(self) -> dict[str, Any]:
        """The search space that the study is bound to, as JSON values."""
        space: dict[str, Any] = self._study.user_attrs["space"]
        return space

    def rows(self) -> list[Row]:
        """Return the finished trials, those on the front marked."""
        return mark_front([_row(trial) for trial in self._trials(TrialState.COMPLETE)])

    def evaluation(self, trial: int) -> Evaluation:
        """Return all that was measured in a finished trial."""
        return _evaluation(self._trials()[trial])

    def finished(self) -> int:
        """Return the number of distinct architectures that were evaluated to the end."""
        return self.tally().finished

    def failures(self) -> list[tuple[int, str]]:
        """Return number and reason of the failed trials; cut-off ones, which are repeated, are not among them."""
        return [(trial.number, reason_of(trial)) for trial in self._trials(TrialState.FAIL) if not _was_cut_off(trial)]

    def tally(self) -> Tally:
        """Return where the study stands, from one look at the database."""
        trials = [trial for trial in self._trials() if not _was_cut_off(trial)]
        return Tally(
            finished=len({architecture_of(trial).id for trial in trials if trial.state == TrialState.COMPLETE}),
            running=sum(trial.state == TrialState.RUNNING for trial in trials),
            waiting=sum(trial.state == TrialState.WAITING for trial in trials),
            known=[_known(trial) for trial in trials],
        )

    def claim(self, proposal: Proposal, worker: Worker, space: ResolvedSpace) -> optuna.Trial:
        """Start a trial for a proposal. Call it under :meth:`lock`."""
        self._queue(
            {
                "placements": proposal.architecture.describe(),
                "architecture": proposal.architecture.to_dict(),
                "control": proposal.control,
                "params": dict(proposal.params),
                "memory": dict(proposal.memory),
            }
        )
        trial = self.claim_waiting(worker, space)
        assert trial is not None  # it was queued a line above, under the lock
        return trial

    def claim_waiting(self, worker: Worker, space: ResolvedSpace) -> optuna.Trial | None:
        """Start the oldest trial that waits for a worker, if any. Call it under :meth:`lock`."""
        waiting = self._trials(TrialState.WAITING)
        if not waiting:
            return None
        trial = self._study.ask(distributions(space, waiting[0].user_attrs["params"]))
        trial.set_user_attr("worker", worker.id)
        return trial

    def finish(self, trial: optuna.Trial, evaluation: Evaluation) -> bool:
        """Record an evaluation. Returns False if the trial had been taken over because this worker seemed dead."""
        try:
            trial.set_user_attr("evaluation", json.loads(evaluation.to_json()))
            trial.set_user_attr("latency_ratio", evaluation.latency.ratio)
            trial.set_user_attr("parameters", evaluation.parameters)
            trial.set_user_attr("macs", evaluation.macs)
            self._study.tell(trial, [evaluation.accuracy, evaluation.latency_ms])
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            return False
        return True

    def fail(self, trial: optuna.Trial, reason: str) -> None:
        """Record that a trial failed, and why."""
        try:
            trial.set_user_attr("reason", reason)
            self._study.tell(trial, state=TrialState.FAIL)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            pass  # taken over by another worker in the meantime

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
        """Fail a cut-off trial and queue its architecture again, in that order of safety: queued first."""
        frozen = self._trials()[trial.number]
        architecture = architecture_of(frozen)
        others = self._trials(TrialState.WAITING, TrialState.COMPLETE)
        if architecture.id not in {architecture_of(other).id for other in others}:
            kept = {
                key: frozen.user_attrs[key] for key in ("placements", "architecture", "control", "params", "memory")
            }
            self._queue({**kept, "retry_of": frozen.number})
        self._storage.set_trial_user_attr(frozen._trial_id, "reason", f"{INTERRUPTED}: {cause}")
        self._study.tell(frozen.number, state=TrialState.FAIL, skip_if_finished=True)

    def lock(self) -> AbstractContextManager[object]:
        """Return the lock under which trials are started and repaired: one process at a time."""
        return lock(self.url, "ask")

    def _queue(self, attributes: dict[str, Any]) -> None:
        self._study.enqueue_trial(attributes["params"], user_attrs=attributes)

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states or None)


def check_name(name: str) -> None:
    """Raise unless a study's name can also be the name of its folder.

    Raises:
        StudyError: If it cannot.
    """
    if not _NAME.fullmatch(name):
        rule = "letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 100"
        raise StudyError(f"a study's name must be {rule}, but got {name!r}")


def differences(old: object, new: object, where: str = "") -> list[str]:
    """Return what differs between two JSON values, one short line each: ``protocol.epochs: 3 -> 5``."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for key in [*old, *(key for key in new if key not in old)]:
            name = f"{where}.{key}" if where else str(key)
            lines += differences(old.get(key, "absent"), new.get(key, "absent"), name)
        return lines
    return [] if old == new else [f"{where}: {_short(old)} -> {_short(new)}"]


def architecture_of(trial: FrozenTrial) -> Architecture:
    """Return the architecture of a trial."""
    return Architecture.from_dict(trial.user_attrs["architecture"])


def reason_of(trial: FrozenTrial) -> str:
    """Return why a trial failed."""
    return str(trial.user_attrs.get("reason", "unknown"))


def _make(name: str, storage: optuna.storages.RDBStorage, attributes: Mapping[str, Any]) -> None:
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        directions=["maximize", "minimize"],
        sampler=optuna.samplers.RandomSampler(0),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(METRICS))
    for key, value in attributes.items():
        study.set_user_attr(key, value)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _was_cut_off(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL and reason_of(trial).startswith(INTERRUPTED)


def _evaluation(trial: FrozenTrial) -> Evaluation:
    return Evaluation.from_json(json.dumps(trial.user_attrs["evaluation"]))


def _known(trial: FrozenTrial) -> Known:
    values = None
    if trial.state == TrialState.COMPLETE:
        evaluation = _evaluation(trial)
        values = (evaluation.accuracy, evaluation.nominal_ms)
    return Known(
        architecture=architecture_of(trial),
        params=trial.user_attrs["params"],
        values=values,
        pending=trial.state in (TrialState.RUNNING, TrialState.WAITING),
        memory=trial.user_attrs["memory"],
    )


def _row(trial: FrozenTrial) -> Row:
    evaluation = _evaluation(trial)
    return Row(
        trial=trial.number,
        architecture=architecture_of(trial),
        control=trial.user_attrs["control"],
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
