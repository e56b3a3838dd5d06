"""The whole search as one function: settings in, a study with its files out."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas import export, files, ray_crew, report
from nas.database_errors import words_for
from nas.ready import Ready, Say, Stop, make_ready
from nas.settings import Settings
from nas.study import Confirmation, Outcome, RunFailed, Study
from nas.workers import Line, supervise

if TYPE_CHECKING:
    from nas.architecture import Architecture
    from nas.seeds import Replicate


@dataclass(frozen=True, kw_only=True)
class Result:
    """A search that ended."""

    study: Study
    """The study, open."""
    outcome: Outcome
    """How the run ended."""
    confirmation: Confirmation
    """What further seeds have shown."""

    @property
    def interrupted(self) -> bool:
        """Whether it was asked to stop before it was done."""
        return self.outcome.interrupted or self.confirmation.interrupted


def search(
    settings: Settings,
    *,
    on_event: Say = lambda _: None,
    on_start: Callable[[Study], None] = lambda _: None,
    on_trial: Callable[[Study], None] = lambda _: None,
    on_replicate: Callable[[Architecture, Replicate], None] = lambda *_: None,
    stop: Stop = lambda: False,
) -> Result:
    """Search, and write the study's files: front.csv, report.html, pareto.html, best.json, split.json.

    They are written again after a trial, unless that would take more than :data:`nas.files.SHARE` of the time; and at
    the end, be it Ctrl-C.

    Everything that can be wrong with the settings is found before anything is written and before anything is trained;
    only that a study was begun from another warm start is found when that is there.

    With several workers this process checks all that, times the bare backbone, and watches over the others.

    Args:
        settings: What is asked for.
        on_event: Called with a line for people: on trained weights, on what takes long, on a worker that died.
        on_start: Called once, before the first trial.
        on_trial: Called after trials that finished or failed.
        on_replicate: Called after every training with a further seed.
        stop: Looked at before each training: once it is true, none is started any more, and what was found is returned.

    Raises:
        ValueError: If something is wrong with the settings, the data, the space, the backbone or the storage.
        EvaluationError: If a block of the space cannot run at a stage.
        nas.study.RunFailed: If trials failed for the same reason, one after the other; see :func:`nas.study.run`. If
            one worker after the other died; see :func:`nas.workers.supervise`.
    """
    cluster = ray_crew.Cluster(settings) if settings.ray is not None else None
    ready = make_ready(settings, on_event)
    study = ready.study
    keep_up = kept_up(study, settings.folder)

    def after_trial(study: Study) -> None:
        keep_up()
        on_trial(study)

    def after_replicate(architecture: Architecture, replicate: Replicate) -> None:
        keep_up()
        on_replicate(architecture, replicate)

    keep_up(now=True)
    on_start(study)
    try:
        ready.time_reference()
        with quick_collections():
            if cluster is not None:
                outcome = cluster.work(study, after_trial, on_event, stop)
            elif ready.workers > 1:
                outcome = _watch(ready, after_trial, after_replicate, on_event, stop)
            else:
                outcome = ready.run(after_trial, stop)
        confirmation = ready.confirm(after_replicate, stop)
    except BaseException as error:
        with suppress(Exception):  # what went wrong is told, not what went wrong because of it
            keep_up(now=True)
        if (told := words_for(error, settings.storage_url)) is not None:
            raise RunFailed(told) from error
        if isinstance(error, ValueError):  # the settings were checked: whatever is wrong now is not theirs
            raise RunFailed(f"{type(error).__name__}: {error}") from error
        raise
    on_trial(study)  # what others have ended last is seen, too
    if not outcome.interrupted:
        ready.forget_pauses()
    write_files(study, settings.folder)  # here, what goes wrong is told: nothing is left that it could end
    return Result(study=study, outcome=outcome, confirmation=confirmation)


def _watch(
    ready: Ready,
    on_trial: Callable[[Study], None],
    on_replicate: Callable[[Architecture, Replicate], None],
    say: Say,
    stop: Stop,
) -> Outcome:
    """Have workers search, and train again; return how the trials ended."""

    def on_news(news: list[Any]) -> None:
        again = [each for each in news if each is not None]
        for architecture, replicate in again:
            on_replicate(architecture, replicate)
        if len(again) < len(news):
            on_trial(ready.study)

    say(f"starting {ready.workers} workers")
    duties = [_Duty(settings=ready.settings, worker=number) for number in range(ready.workers)]
    try:
        outcomes: list[Outcome] = supervise(_work, duties, on_news=on_news, say=say, stop=stop)
    finally:
        with suppress(Exception), ready.study.lock():
            ready.study.repair()  # those that had to be killed could not
    # Of those that were to stop, the last ones may have reached the budget with what they had in hand.
    ends = [each for each in outcomes if not each.interrupted]
    return ends[-1] if ends else Outcome(finished=ready.study.finished(), interrupted=True)


@dataclass(frozen=True, kw_only=True)
class _Duty:
    """What one of several workers is to do."""

    settings: Settings
    worker: int
    """Its number, from 0."""


def _work(duty: _Duty, line: Line) -> Outcome:
    """Search as one of several workers, and take a share of what is trained again. Tells None for a trial."""
    ready = make_ready(duty.settings, worker=duty.worker)
    try:
        line.ready()
        with quick_collections():
            outcome = ready.run(lambda _: line.tell(None), line.stop)
        ready.confirm(lambda *replicate: line.tell(replicate), line.stop, share=(duty.worker, ready.workers))
        return outcome
    finally:
        ready.study.close()


@contextmanager
def quick_collections() -> Iterator[None]:
    """Keep what is there already out of the garbage collector's sight while the context lasts.

    torch, timm and Optuna are a million objects that live for ever. To walk through them takes 0.3 s, which every
    timing pays, as it collects before it begins.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def write_files(study: Study, folder: Path) -> None:
    """Write the study's front, pages and best config, each whole or not at all."""
    story = report.tell(study, folder)
    report.write_front_csv(story.rows, folder / "front.csv")
    if story.answer is not None:
        export.write(export.config(study, story.answer.row), folder / "best.json")
    report.write_pareto(
        story.rows,
        folder / "pareto.html",
        title=study.name,
        facts=story.facts,
        spent=story.spent,
        gained=story.gained,
    )
    report.write_report(story, folder / "report.html")


def kept_up(study: Study, folder: Path) -> files.Sparing:
    """Return what writes the study's files while it is searched: what cannot be drawn must not end the search."""

    def write() -> None:
        try:
            write_files(study, folder)
        except (ArithmeticError, LookupError, OSError, TypeError, ValueError) as error:
            warnings.warn(f"the pages could not be written: {type(error).__name__}: {error}", stacklevel=2)

    return files.Sparing(write)
