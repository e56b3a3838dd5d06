"""Optuna's tables, read without what is known already: all workers do that before every trial, one after the other."""

from __future__ import annotations

from collections.abc import Container
from datetime import datetime
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState

_TRIALS = sa.table(
    "trials",
    sa.column("trial_id", sa.Integer),
    sa.column("study_id", sa.Integer),
    sa.column("state", sa.String),
    sa.column("datetime_start", sa.DateTime),
)


class SparingStorage(optuna.storages.RDBStorage):
    """Reads a trial that is in work once, and again when it has ended.

    Optuna keeps those that have ended and reads all others again each time, 0.4 ms each: of many workers, that is what
    takes longest under the study's lock. A trial that was begun in one transaction does not change until it ends, but
    for what its end needs. One that had been queued does, so that it is read again.
    """

    def __init__(self, url: str, **named: Any) -> None:
        """Open a database, as Optuna's own class does."""
        super().__init__(url, **named)
        self._begun: dict[int, datetime | None] = {}
        """When the trials in work that were read began, by id: SQLite gives an id again if a study is deleted."""

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        """Return the trials that are asked for, but for those that who asks has, and that have not changed."""
        if states is not None or not included_trial_ids:  # not by Optuna's cache, or for the first time
            return super()._get_trials(study_id, states, included_trial_ids, trial_id_greater_than)
        asked = (_TRIALS.c.trial_id > trial_id_greater_than) | _TRIALS.c.trial_id.in_(sorted(included_trial_ids))
        query = sa.select(_TRIALS.c.trial_id, _TRIALS.c.state, _TRIALS.c.datetime_start)
        with self.engine.connect() as connection:
            rows = connection.execute(query.where(_TRIALS.c.study_id == study_id, asked)).all()
        unchanged = {
            number
            for number, state, begun in rows
            if state == TrialState.RUNNING.name
            and number in included_trial_ids
            and self._begun.get(number, "") == begun
        }
        last = max(trial_id_greater_than, *(number for number, _, _ in rows), *included_trial_ids)
        changed = (included_trial_ids | {number for number, _, _ in rows}) - unchanged
        found = super()._get_trials(study_id, None, changed, last)
        begun = {number: moment for number, _, moment in rows}  # as it stands there: Optuna gives it in local time
        for trial in found:
            self._begun.pop(trial._trial_id, None)
            queued = "fixed_params" in trial.system_attrs
            if trial.state == TrialState.RUNNING and "worker" in trial.user_attrs and not queued:
                self._begun[trial._trial_id] = begun.get(trial._trial_id)
        return found
