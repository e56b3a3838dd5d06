"""Mend what is wrong with a study. Everything is done under the study's lock, and may be done twice.

Optuna changes no trial that has ended. Where a finished trial says what is not so, its rows are changed here: those
columns are Optuna's, and the same ever since its third version.
"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from optuna.trial import FrozenTrial

from nas.study.checkup import differing, lost_evaluations, twice
from nas.study.inventory import Inventory, dead_workers, take
from nas.study.ledger import Study
from nas.study.trials import INTERRUPTED, checks, id_of, was_cut_off
from nas.study.worker import Watch, bury


def mend(study: Study, watch: Watch) -> list[str]:
    """Mend what can be mended in a study's database, and return what was done, in words.

    A trial whose worker lives is not touched. Finished trials are made unfinished only where nobody is at work: Optuna
    keeps in memory what they had been. For the same reason the study's object has to be opened again afterwards.
    """
    with study.lock():
        held = take(study)
        again, lost, differ = twice(held), lost_evaluations(held), differing(held)
        at_work = [worker for worker in study.store.signs() if not watch.is_dead(worker)]
        refused = []
        if (again or lost) and at_work:
            again, lost = [], []
            refused = [f"ended trials are left as they are while workers are at work ({len(at_work)}): end them first"]
        done = [*refused, *_remove_unreadable(study, held)]
        first = {id_of(trial): trial.number for trial in reversed(held.trials) if trial.state.name == "COMPLETE"}
        for trial in again:
            _unfinish(study, trial, f"{INTERRUPTED}: trial {first[id_of(trial)]} had finished it")
        for trial in lost:
            _unfinish(study, trial, f"{INTERRUPTED}: what was measured is gone")
        for trial in (trial for trial in differ if trial not in again):
            _say_as_kept(study, held, trial)
        done += [f"{len(again)} trials taken for cut off, as another had finished the same"] if again else []
        done += [f"{len(lost)} trials taken for cut off, as what was measured is gone"] if lost else []
        done += [f"{len(differ)} trials made to say what the cache says"] if differ else []
    fresh = Study.open(study.name, study.url)  # sees the trials as they are now
    try:
        with fresh.lock():
            stale = fresh.repair(watch=watch)
            queued = _queue_lost(fresh)
            dead = dead_workers(fresh.store, watch)
            for worker in dead:
                bury(worker, fresh.store)
    finally:
        fresh.close()
    done += [f"{stale} trials of dead workers failed, and their architectures queued again"] if stale else []
    done += [f"{queued} architectures of trials that were cut off queued again"] if queued else []
    return done + ([f"{len(dead)} rows of dead workers removed"] if dead else [])


def _queue_lost(study: Study) -> int:
    """Queue the architectures again whose trials were cut off and that no other trial has."""
    trials = study._trials()
    others = {id_of(trial) for trial in trials if not was_cut_off(trial)}
    lost = {id_of(trial): trial for trial in trials if was_cut_off(trial) and not checks(trial)}
    found = [trial for key, trial in lost.items() if key not in others]
    for trial in found:
        study.retry(trial)
    return len(found)


def _remove_unreadable(study: Study, held: Inventory) -> list[str]:
    wrong = [key for key in held.evaluations if held.evaluation(key) is None]
    statement = "DELETE FROM nas_evaluations WHERE architecture_id = :key AND protocol_hash = :protocol"
    for key in wrong:
        _change(study, statement, key=key, protocol=study.protocol_hash)
    return [f"{len(wrong)} evaluations removed that could not be read"] if wrong else []


def _unfinish(study: Study, trial: FrozenTrial, reason: str) -> None:
    """Let a finished trial be one that was cut off."""
    _note(study, trial, "reason", reason)
    # Last: a trial that is finished still counts, whatever reason stands beside it.
    statement = "UPDATE trials SET state = 'FAIL' WHERE trial_id = :trial AND state = 'COMPLETE'"
    _change(study, statement, trial=trial._trial_id)


def _say_as_kept(study: Study, held: Inventory, trial: FrozenTrial) -> None:
    """Let a finished trial say what was kept for it."""
    kept = held.evaluation(id_of(trial))
    assert kept is not None
    statement = "UPDATE trial_values SET value = :value WHERE trial_id = :trial AND objective = :objective"
    for objective, value in enumerate((kept.accuracy, kept.latency_ms)):
        _change(study, statement, value=value, trial=trial._trial_id, objective=objective)
    _note(study, trial, "latency_ratio", kept.latency.ratio)


def _note(study: Study, trial: FrozenTrial, key: str, value: object) -> None:
    """Set an attribute of a trial that has ended."""
    with study._storage.engine.begin() as connection:
        connection.execute(sa.delete(_ATTRIBUTES).filter_by(trial_id=trial._trial_id, key=key))
        row = {"trial_id": trial._trial_id, "key": key, "value_json": json.dumps(value)}
        connection.execute(sa.insert(_ATTRIBUTES).values(**row))


# Not as text: "key" has to be quoted for some databases.
_ATTRIBUTES = sa.table("trial_user_attributes", sa.column("trial_id"), sa.column("key"), sa.column("value_json"))


def _change(study: Study, statement: str, **values: Any) -> None:
    with study._storage.engine.begin() as connection:
        connection.execute(sa.text(statement), values)
