"""Work on a study that a search has made, on this machine or another: all that it takes is read from the study."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from nas.command import commands_of
from nas.ready import Ready, Say, Stop, stop_rule
from nas.reopen import Place, reopen
from nas.run import quick_collections
from nas.settings import OF_SEARCH, Settings
from nas.study import Outcome, RunFailed, Study, StudyError


def work(
    study: Study,
    place: Place,
    folder: Path,
    *,
    budget: int | None = None,
    on_event: Say = lambda _: None,
    on_start: Callable[[], None] = lambda: None,
    on_trial: Callable[[Study], None] = lambda _: None,
    stop: Stop = lambda: False,
) -> Outcome:
    """Evaluate architectures of a study, as the processes of its search do, until its budget is spent.

    Any number of processes may do so, on any number of machines with the same kind of device. What the search does
    after its trials, to train some again and to draw the pages, is left to it.

    Args:
        study: The study.
        place: Where its things are here.
        folder: That of the study's files on this machine. It need not be shared: a training that was stopped elsewhere
            begins anew where its file is not, and a warm start is made again.
        budget: Whole trainings that the study shall have spent; None for what its search asked for.
        on_event: Called with a line about a warm start.
        on_start: Called once, before the first trial.
        on_trial: Called after every trial of this process.
        stop: Looked at before each trial: once it is true, none is started any more.

    Raises:
        ValueError: If the study does not say how it is searched, if data or weights are not to be had, or if they, the
            device or the libraries are others.
        EvaluationError: If a warm start has to be made again, and that fails.
        nas.study.RunFailed: As :func:`nas.study.run`; or if something goes wrong that is not about these arguments.
    """
    settings = asked(study, folder)
    settings = dataclasses.replace(settings, budget=budget or settings.budget)
    found = reopen(
        study,
        place,
        folder,
        stop_rule=partial(stop_rule, settings, study),
        keeps_stopped=settings.stops_by_model,
        on_event=on_event,
    )
    ready = Ready(
        settings=settings,
        study=study,
        space=found.space,
        workers=1,
        evaluator=found.evaluator,
        replicator=found.replicator,
    )
    on_start()
    try:
        with quick_collections():
            outcome = ready.run(on_trial, stop)
    except ValueError as error:  # the study was found to be right: whatever is wrong now is not its fault
        raise RunFailed(f"{type(error).__name__}: {error}") from error
    if not outcome.interrupted and not study.store.signs():  # or somebody may go on with what lies there
        ready.forget_pauses()
    return outcome


def asked(study: Study, folder: Path) -> Settings:
    """Return what the last search of a study was asked for, of all that the study is not bound to.

    Raises:
        StudyError: If the study was made before that was kept.
    """
    if study.search is None:
        usual = f"sqlite:///{folder.parent / 'studies.db'}"
        commands = commands_of(study, str(folder.parent), is_elsewhere=study.url != usual)
        again = f"{commands.begun} {commands.flags}" if commands.begun else "search, with the settings it was made with"
        raise StudyError(f"study {study.name!r} does not say how it is searched; run its search again once: {again}")
    known = {name: study.search[name] for name in OF_SEARCH if name in study.search}
    named: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in known.items()}
    return Settings(study=study.name, studies=str(folder.parent), storage=study.url, **named)


def ending(outcome: Outcome, budget: int) -> str:
    """Return in words why a run ended."""
    if outcome.interrupted:
        return f"stopped before the budget of {budget} is spent; the same command goes on"
    if outcome.exhausted:
        return "every architecture of the space was tried"
    if outcome.stalled:
        return "the front has not moved beyond noise for as long as the patience allows"
    if outcome.too_costly:
        return "too many architectures in a row were beyond the limits"
    return f"the budget of {budget} is spent"
