"""A study's storage as optuna-dashboard is to see it: with more than is stored, and closed to what would do harm."""

from __future__ import annotations

import copy
import threading
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

_CONSTRAINTS = "constraints"
"""System attribute in which optuna-dashboard looks for constraints; Optuna 5 keeps each in one of its own."""
_OF_THE_PAGE = ("dashboard:", "artifacts:")
"""How the attributes begin that hold notes, plots and artifacts, and that may be changed."""


class RefusedError(ValueError):
    """Something was to be changed that must not be changed from a page."""


class Board(optuna.storages.BaseStorage):
    """Reads a storage, lays attributes over what it holds, and refuses to write.

    Laid attributes are seen, but never stored. Where it is editable, notes, plots and artifacts may be stored; trials
    and studies may not be changed in any case, as a search may be at work on them.
    """

    def __init__(self, storage: optuna.storages.BaseStorage, *, editable: bool = False) -> None:
        self._storage = storage
        self._editable = editable
        self._laid: dict[int, dict[str, Any]] = {}
        self._still = threading.local()

    def lay(self, study_id: int, attributes: Mapping[str, Any]) -> None:
        """Show system attributes of a study, before those that are stored; earlier ones are taken away."""
        self._laid[study_id] = dict(attributes)

    def keep(self, study_id: int, attributes: Mapping[str, Any]) -> int:
        """Store those of the system attributes that are not stored yet, and return how many that were.

        Raises:
            RefusedError: If the board is not editable.
        """
        stored = self.stored(study_id)
        changed = {key: value for key, value in attributes.items() if stored.get(key) != value}
        for key, value in changed.items():
            self.set_study_system_attr(study_id, key, value)
        return len(changed)

    def stored(self, study_id: int) -> dict[str, Any]:
        """Return the system attributes of a study that are stored."""
        return self._storage.get_study_system_attrs(study_id)

    # What is read.

    def get_study_id_from_name(self, study_name: str) -> int:
        return self._storage.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._storage.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._storage.get_study_directions(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._storage.get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return {**self.stored(study_id), **self._laid.get(study_id, {})}

    def get_all_studies(self) -> list[FrozenStudy]:
        studies = [copy.copy(study) for study in self._storage.get_all_studies()]
        for study in studies:
            study.system_attrs = {**study.system_attrs, **self._laid.get(study._study_id, {})}
        return sorted(studies, key=lambda study: study._study_id)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return _with_constraints(self._storage.get_trial(trial_id))

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(study_id, trial_number)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        kept: dict[int, list[FrozenTrial]] | None = getattr(self._still, "kept", None)
        if kept is None:
            trials = self._storage.get_all_trials(study_id, deepcopy=deepcopy, states=states)
            return [_with_constraints(trial) for trial in trials]
        if study_id not in kept:
            found = self._storage.get_all_trials(study_id, deepcopy=False)
            kept[study_id] = [_with_constraints(trial) for trial in found]
        trials = [trial for trial in kept[study_id] if states is None or trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    @contextmanager
    def still(self) -> Iterator[None]:
        """Have this thread see the trials of a study as they are when it first looks, while the context lasts."""
        self._still.kept = {}
        try:
            yield
        finally:
            del self._still.kept

    # What is written.

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        if not self._editable or not key.startswith(_OF_THE_PAGE):
            _refuse()
        self._storage.set_study_system_attr(study_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        if not self._editable or not key.startswith(_OF_THE_PAGE):
            _refuse()
        if key not in self._storage.get_trial(trial_id).system_attrs and value == "null":
            return  # the page removes an artifact in both places where it can be; this one has none
        self._storage.set_trial_system_attr(trial_id, key, value)

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        _refuse()

    def delete_study(self, study_id: int) -> None:
        _refuse()

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        _refuse()

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        _refuse()

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        _refuse()

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        _refuse()

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        _refuse()

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        _refuse()


def _refuse() -> NoReturn:
    raise RefusedError("the dashboard may change notes and artifacts only, and these only with --edit")


def _with_constraints(trial: FrozenTrial) -> FrozenTrial:
    """Return the trial with its constraints where the dashboard looks for them; the trial itself stays as it is.

    They are not stored there: Optuna would count them twice.
    """
    found = trial.constraints
    if not found or _CONSTRAINTS in trial.system_attrs:
        return trial
    shown = copy.copy(trial)
    ordered = [found[name] for name in sorted(found)]  # the same in all trials; the database has them in no order
    shown.system_attrs = {**trial.system_attrs, _CONSTRAINTS: ordered}
    return shown
