"""What a database holds, row by row and unread: so that what cannot be read is found, and not stumbled over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState

from nas.evaluation import Evaluation
from nas.store import Store
from nas.study.record import Record
from nas.study.worker import Watch


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """What a study has in its database, at one moment."""

    trials: Sequence[FrozenTrial]
    """All trials of the study, in their order."""
    architectures: Mapping[str, str]
    """JSON of every architecture that the database keeps, by id."""
    evaluations: Mapping[str, str]
    """JSON of what was measured under the study's protocol, by architecture id."""

    @property
    def running(self) -> list[FrozenTrial]:
        """The trials in work."""
        return [trial for trial in self.trials if trial.state == TrialState.RUNNING]

    def evaluation(self, architecture: str) -> Evaluation | None:
        """Return what was measured on an architecture; None if nothing was, or it cannot be read."""
        text = self.evaluations.get(architecture)
        try:
            return None if text is None else Evaluation.from_json(text)
        except ValueError:
            return None


def take(study: Record) -> Inventory:
    """Return what a study has in its database. Take it under the study's lock, or what others do meanwhile is in it."""
    # The trials first: what another worker finishes is kept before its trial says so.
    trials = study._trials()
    with study._storage.engine.connect() as connection:
        architectures = {row.id: row.json for row in connection.execute(_ARCHITECTURES)}
        found = connection.execute(_EVALUATIONS, {"protocol": study.protocol_hash})
        evaluations = {row.architecture_id: row.json for row in found}
    return Inventory(trials=trials, architectures=architectures, evaluations=evaluations)


_ARCHITECTURES = sa.text("SELECT id, json FROM nas_architectures")
_EVALUATIONS = sa.text("SELECT architecture_id, json FROM nas_evaluations WHERE protocol_hash = :protocol")


def dead_workers(store: Store, watch: Watch) -> list[str]:
    """Return the workers that died and left their row in the database, of whatever study they were."""
    return sorted(worker for worker in store.signs() if watch.is_dead(worker))


def stale_trials(held: Inventory, watch: Watch) -> set[int]:
    """Return the numbers of the trials in work whose worker is dead."""
    return {trial.number for trial in held.running if watch.is_dead(trial.user_attrs.get("worker"))}
