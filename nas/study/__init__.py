"""The Optuna study: create, resume, propose, keep. The only package that imports Optuna; it does not know torch."""

from nas.study.binding import SEARCH, StudyError, check_name
from nas.study.board import Board, RefusedError
from nas.study.confirmation import Confirmation, attempt, confirm
from nas.study.ends import End
from nas.study.joining import join
from nas.study.judge import Chooser, Judge
from nas.study.ledger import Study
from nas.study.loop import Outcome, RunFailed, run
from nas.study.sampler import SAMPLERS, resolve_sampler
from nas.study.storage import reach, study_names
from nas.study.trials import Rejected, Stopped
from nas.study.waiting import wait_for

__all__ = [
    "SAMPLERS",
    "SEARCH",
    "Board",
    "Chooser",
    "Confirmation",
    "End",
    "Judge",
    "Outcome",
    "RefusedError",
    "Rejected",
    "RunFailed",
    "Stopped",
    "Study",
    "StudyError",
    "attempt",
    "check_name",
    "confirm",
    "join",
    "reach",
    "resolve_sampler",
    "run",
    "study_names",
    "wait_for",
]
