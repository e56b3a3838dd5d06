"""What a study says: what it was made for, and what came of its trials."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from nas import backup, schema
from nas.architecture import Architecture
from nas.database import StorageError, sqlite_path
from nas.evaluation import Cost, Evaluation
from nas.front import Row, mark_front
from nas.limits import Limits
from nas.protocol import Protocol
from nas.seeds import Replicate, SeedNoise
from nas.store import Store
from nas.study.binding import INPUTS, LIMITS, RUNGS, SEARCH, StudyError, check_name, is_bound, is_name
from nas.study.board import Board
from nas.study.rows import make_row, noise_of
from nas.study.sampler import Known
from nas.study.storage import connect_existing, seal, study_names
from nas.study.trials import (
    EXPLAINS,
    Rejected,
    Stopped,
    Tally,
    checks,
    curve_of,
    id_of,
    reason_of,
    still_stopped,
    tally,
    was_cut_off,
    was_stopped,
    was_trained,
)

if TYPE_CHECKING:
    from typing_extensions import Self


MANY = 8
"""So many trials in work make it worth while to read what their workers did before the study's lock is taken."""


class Record:
    """A study as readers need it. :meth:`open` opens one that exists."""

    def __init__(self, name: str, url: str, storage: optuna.storages.RDBStorage, store: Store) -> None:
        self.name = name
        self.url = url
        self.store = store
        self._storage = storage
        self._architectures: dict[str, Architecture] = {}
        self._in_work = 0
        self._file = sqlite_path(url)
        self._inode = _inode(self._file) if self._file is not None else None
        self._log: int | None = None
        # The study's own sampler is never asked: proposals come from nas.study.sampler.
        self._study = optuna.load_study(study_name=name, storage=storage, sampler=optuna.samplers.RandomSampler(0))

    @classmethod
    def open(cls, name: str, url: str) -> Self:
        """Open a study that exists.

        Raises:
            StudyError: If there is none of that name, with the names that there are.
            StorageError: If the database cannot be used.
        """
        storage, store = connect_existing(url)
        try:
            schema.check_readable(storage.engine)
            names = sorted(optuna.get_all_study_names(storage))
            if name not in names:
                raise StudyError(f"no study {name!r} in the database; its studies: {', '.join(names) or 'none'}")
            study = cls(name, url, storage, store)
            if not is_bound(study._study):
                raise StudyError(f"study {name!r} was not made by this program")
            check_name(name)  # somebody else may have written the database, and files land in a folder of that name
            return study
        except BaseException:
            close(storage, store)
            raise

    @classmethod
    def open_only(cls, name: str | None, url: str, *, ask: str) -> Self:
        """Open the study of a name or, without one, the only study of a database.

        Raises:
            StudyError: If there is none of that name; or if there is no name, and not one study: the message begins
                with ``ask``.
            StorageError: If the database cannot be used.
        """
        if name is None:
            names = study_names(url)
            if len(names) != 1:
                raise StudyError(f"{ask}; the database has: {', '.join(names) or 'none'}")
            (name,) = names
        return cls.open(name, url)

    def close(self) -> None:
        """Close the database's connections."""
        close(self._storage, self.store)

    @property
    def number(self) -> int:
        """Number of the study in the database, as optuna-dashboard's addresses name it."""
        return self._study._study_id

    @property
    def attributes(self) -> dict[str, Any]:
        """All that the study says of itself, as JSON values and unread."""
        attributes: dict[str, Any] = self._study.user_attrs
        return attributes

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

    @property
    def search(self) -> dict[str, Any] | None:
        """How the study is searched, as the last search asked; ``None`` where that was not kept yet."""
        search: dict[str, Any] | None = (self.inputs or {}).get(SEARCH)
        return search

    @property
    def rungs(self) -> list[str]:
        """By which rungs trainings were stopped, in words; empty if none ever was to be."""
        rungs: list[str] = self._study.user_attrs.get(RUNGS, [])
        return rungs

    def rows(self) -> list[Row]:
        """Return the finished trials, those on the front marked; accuracies are means over their seeds."""
        trained = self._trained()
        trials = [trial for trial in trained if not was_stopped(trial)]
        evaluations = self._evaluations()
        first = {id_of(trial): trial for trial in reversed(trials)}
        left = len({id_of(trial) for trial in trained} - first.keys())
        replicates = self.replicates()
        noise = noise_of({key: evaluations[key] for key in first}, replicates)
        rows = [
            make_row(trial, self.architecture(trial), evaluations[key], replicates.get(key, []), noise, self.limits)
            for key, trial in reversed(first.items())
        ]
        return mark_front([dataclasses.replace(row, left=left) for row in rows])

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
        identifier = id_of(self._trials()[trial])
        return self._evaluations()[identifier]

    def finished(self) -> int:
        """Return the number of distinct architectures that were evaluated to the end."""
        return self.tally().finished

    def failures(self) -> list[tuple[int, str]]:
        """Return number and reason of the failed trials; cut-off ones, which are repeated, are not among them."""
        return [(trial.number, reason_of(trial)) for trial in self._trials(TrialState.FAIL) if not was_cut_off(trial)]

    def rejected(self) -> list[Rejected]:
        """Return the architectures that were beyond the limits, in the order of their trials."""
        return [
            Rejected(trial.number, self.architecture(trial), reason_of(trial), max(trial.constraints.values()))
            for trial in self._trials(TrialState.PRUNED)
            if not was_stopped(trial)
        ]

    def stopped(self) -> list[Stopped]:
        """Return the architectures whose training was stopped at a rung, and not taken up again, in their order."""
        return [
            Stopped(trial.number, self.architecture(trial), reason_of(trial), curve_of(trial))
            for trial in sorted(still_stopped(self._trials()), key=lambda trial: trial.number)
        ]

    def _trained(self) -> list[FrozenTrial]:
        """Return the trials that were trained, to the end or to a rung."""
        return [trial for trial in self._trials(TrialState.COMPLETE, TrialState.PRUNED) if was_trained(trial)]

    def tally(self) -> Tally:
        """Return where the study stands, from one look at the database."""
        # The trials first, here and elsewhere: what another worker finishes is kept before its trial says so.
        trials = self._trials()
        found = tally(trials, self._evaluations(), self.protocol.epochs)
        self._in_work = found.running
        return found

    def catch_up(self) -> None:
        """Read what other workers did since, if they are many: less is left to be read under the study's lock."""
        if self._in_work >= MANY:
            self._trials()

    def if_stopped(self, identifier: str, curve: Sequence[float], cost: Cost) -> list[Known]:
        """Return what would be known, were the training of an architecture in work stopped now."""
        excess = self.limits.excess(cost)
        return [
            dataclasses.replace(each, pending=False, curve=tuple(curve), nominal_ms=cost.nominal_ms, excess=excess)
            if each.id == identifier and each.pending
            else each
            for each in self.tally().known
        ]

    def was_stopped(self, identifier: str) -> bool:
        """Tell whether the training of an architecture was stopped at a rung before."""
        return any(id_of(trial) == identifier and was_stopped(trial) for trial in self._trials(TrialState.PRUNED))

    def ending(self, architecture: Architecture) -> str | None:
        """Return nothing in words if an architecture is finished, the limits that it exceeds if it is beyond them.

        None if neither is known, also where it failed or where its training was stopped.
        """
        ended = [trial for trial in self._trials(TrialState.COMPLETE, TrialState.PRUNED) if not was_stopped(trial)]
        mine = [trial for trial in ended if id_of(trial) == architecture.id]
        if not mine:
            return None
        return "" if any(trial.state == TrialState.COMPLETE for trial in mine) else reason_of(mine[-1])

    def joined(self, trial: int) -> list[int]:
        """Return the numbers of the finished trials that joined the study to check another one."""
        return [
            other.number
            for other in self._trials(TrialState.COMPLETE)
            if checks(other) and other.user_attrs[EXPLAINS] == trial
        ]

    def in_work(self, architecture: Architecture) -> int | None:
        """Return the number of the trial in which an architecture is being evaluated just now; None for none."""
        running = self._trials(TrialState.RUNNING)
        return next((trial.number for trial in running if id_of(trial) == architecture.id), None)

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

    def _now(self, trial: FrozenTrial | optuna.Trial) -> FrozenTrial:
        """Return one trial as it is now: to read all those of other workers for it takes longer, the more there are."""
        return self._storage.get_trial(trial._trial_id)

    def seal(self) -> None:
        """Let the database refuse every change of Optuna's tables by way of this object, from now on."""
        seal(self._storage)

    def board(self, *, editable: bool = False) -> Board:
        """Return the study's database as optuna-dashboard is to see it, with all the studies that it holds."""
        return Board(self._study._storage, editable=editable)

    def sibling(self, number: int) -> Self | None:
        """Return another study of the same database, by its number there, over the same connections.

        ``None`` where there is none of that number, or it was not made by this program.
        """
        try:
            found = type(self)(self._storage.get_study_name_from_id(number), self.url, self._storage, self.store)
        except KeyError:
            return None
        return found if is_bound(found._study) and is_name(found.name) else None

    def pulse(self) -> tuple[int, ...]:
        """Return counts of which one changes whenever something begins, ends or is trained again; cheap to ask."""
        states = [trial.state for trial in self._trials()]
        again = len(self.store.replicates(self.protocol.family_hash, "val"))
        return (*(states.count(state) for state in TrialState), again)

    def check_database(self) -> None:
        """Raise if the database's file was removed: SQLite would go on writing to a file that nobody will see.

        What it held is written to another file, as far as it can still be seen.

        Raises:
            StorageError: If it was.
        """
        if self._file is not None and _inode(self._file) != self._inode:
            connection = self._storage.engine.raw_connection()
            try:
                held = connection.driver_connection
                kept = backup.rescue(held, self._file) if isinstance(held, sqlite3.Connection) else None
            finally:
                connection.close()
            if kept is not None and _inode(_log_of(self._file)) == self._log:
                _log_of(self._file).unlink(
                    missing_ok=True
                )  # SQLite would replay it into whatever is in the file's place
            words = f"; what it held is kept in {kept}: to go on, copy that to its place" if kept is not None else ""
            raise StorageError(f"the database {self._file} was removed or replaced while the search ran{words}")
        if self._file is not None:
            self._log = _inode(_log_of(self._file))


def close(storage: optuna.storages.RDBStorage, store: Store) -> None:
    """Close the database's connections."""
    storage.engine.dispose()
    store.close()


def _log_of(path: Path) -> Path:
    """Return the file to which SQLite writes ahead of a database."""
    return path.with_name(f"{path.name}-wal")


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None
