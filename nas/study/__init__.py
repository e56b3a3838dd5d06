"""The Optuna study: create, resume, propose, keep. The only package that imports Optuna; it does not know torch."""

from nas.study.ledger import Study, StudyError
from nas.study.loop import Outcome, RunFailed, run
from nas.study.sampler import SAMPLERS
from nas.study.storage import study_names

__all__ = ["SAMPLERS", "Outcome", "RunFailed", "Study", "StudyError", "run", "study_names"]
