"""The whole search as one function: settings in, a study with its files out."""

from __future__ import annotations

import dataclasses
import gc
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from nas import export, files, ray_crew, report
from nas.command import command
from nas.evaluation import EvaluationError
from nas.settings import Settings, declared_space, made_for_data, make_protocol
from nas.study import SEARCH, Chooser, Confirmation, Judge, Outcome, RunFailed, Study, confirm, run
from nas.workers import crew

T = TypeVar("T")

if TYPE_CHECKING:
    import torch

    from nas.architecture import Architecture
    from nas.data import Splits
    from nas.evaluate import Evaluator, StopRule
    from nas.pauses import Pauses
    from nas.replicate import Replicator
    from nas.seeds import Replicate
    from nas.space import ResolvedSpace, SearchSpace
    from nas.timing import Timer
    from nas.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class Result:
    """A search that ended."""

    study: Study
    """The study, open."""
    outcome: Outcome
    """How the run ended."""
    confirmation: Confirmation
    """What further seeds have shown."""


def search(
    settings: Settings,
    *,
    on_weights: Callable[[str], None] | None = None,
    on_start: Callable[[Study], None] | None = None,
    on_trial: Callable[[Study], None] | None = None,
    on_replicate: Callable[[Architecture, Replicate], None] | None = None,
) -> Result:
    """Search, and write the study's files: front.csv, report.html, pareto.html, best.json, split.json.

    They are written again after a trial, unless that would take more than :data:`nas.files.SHARE` of the time; and at
    the end, be it Ctrl-C.

    Everything that can be wrong with the settings is found before anything is written and before anything is trained;
    only that a study was begun from another warm start is found when that is there.

    Args:
        settings: What is asked for.
        on_weights: Called with what trained weights were loaded or made, and how much of the backbone they cover.
        on_start: Called once, before the first trial.
        on_trial: Called after every finished or failed trial of this process.
        on_replicate: Called after every training of this process with a further seed.

    Raises:
        ValueError: If something is wrong with the settings, the data, the space, the backbone or the storage.
        EvaluationError: If a block of the space cannot run at a stage.
        nas.study.RunFailed: If trials failed for the same reason, one after the other; see :func:`nas.study.run`.
    """
    cluster = ray_crew.Cluster(settings) if settings.ray is not None else None
    ready = _ready(settings, on_weights)
    study, workers = ready.study, settings.workers_per_device
    keep_up = kept_up(study, settings.folder)

    def after_trial(study: Study) -> None:
        keep_up()
        if on_trial is not None:
            on_trial(study)

    def after_replicate(architecture: Architecture, replicate: Replicate) -> None:
        keep_up()
        if on_replicate is not None:
            on_replicate(architecture, replicate)

    keep_up(now=True)
    if on_start is not None:
        on_start(study)
    try:
        ready.time_reference()
        with quick_collections(), crew(_help, settings, workers - 1):
            if cluster is not None:
                cluster.work(study, after_trial)
            outcome = ready.run(after_trial)  # of what a cluster has done: how it ended
            if workers > 1:
                ready.confirm(after_replicate, share=(0, workers))
        confirmation = ready.confirm(after_replicate)
    except BaseException as error:
        with suppress(Exception):  # what went wrong is told, not what went wrong because of it
            keep_up(now=True)
        if isinstance(error, ValueError):  # the settings were checked: whatever is wrong now is not theirs
            raise RunFailed(f"{type(error).__name__}: {error}") from error
        raise
    write_files(study, settings.folder)  # here, what goes wrong is told: nothing is left that it could end
    return Result(study=study, outcome=outcome, confirmation=confirmation)


def _help(settings: Settings, number: int, tell_ready: Callable[[], None]) -> None:
    """Work on a study as one of several processes, and take a share of what is trained again."""
    ready = _ready(settings, is_checked=True)
    try:
        tell_ready()
        with quick_collections():
            ready.run()
        ready.confirm(share=(number, settings.workers_per_device))
    finally:
        ready.study.close()


@dataclass(frozen=True, kw_only=True)
class _Ready:
    """A search whose settings are found to be right, and whose study is open."""

    settings: Settings
    study: Study
    space: ResolvedSpace
    evaluator: Evaluator
    replicator: Replicator

    def time_reference(self) -> None:
        """Time the bare backbone before other processes begin; if it cannot be timed, its trial says why."""
        for backbone in self.space.sites:
            with suppress(EvaluationError):
                self.evaluator.time_reference(backbone)

    def run(self, on_trial: Callable[[Study], None] | None = None) -> Outcome:
        """Evaluate architectures until the budget is spent."""
        outcome = run(
            self.study,
            self.evaluator,
            space=self.space,
            budget=self.settings.budget,
            sampler=self.settings.sampler,
            seed=self.settings.seed,
            patience=self.settings.patience,
            on_trial=on_trial,
        )
        _pauses(self.settings).clear()  # a search that goes on with a larger budget begins them anew
        return outcome

    def confirm(
        self, on_replicate: Callable[[Architecture, Replicate], None] | None = None, share: tuple[int, int] = (0, 1)
    ) -> Confirmation:
        """Train a share of what is to be trained with further seeds."""
        return confirm(
            self.study,
            self.replicator,
            repeats=self.settings.repeats,
            further=self.settings.confirm,
            on_replicate=on_replicate,
            share=share,
        )


def _ready(settings: Settings, on_weights: Callable[[str], None] | None = None, *, is_checked: bool = False) -> _Ready:
    """Check the settings against data, device and backbone, unless another process has, and open the study."""
    declared = declared_space(settings)
    from nas.evaluate import Evaluator  # torch and timm, once the cheap mistakes are ruled out
    from nas.replicate import Replicator
    from nas.timing import Timer

    splits, trainer, timed = _prepared(settings, declared, on_weights)
    (backbone,) = declared.backbones
    resolved = declared.resolve({backbone: trainer.plan(backbone).stages})
    timer = Timer(trainer, timed)
    settings.rungs_of(trainer.protocol.epochs)  # so that a wrong one is found before anything is written
    if not is_checked:
        _check_all(resolved, trainer, timer)
    files.check_folder(settings.studies)
    trainer = _warmed(trainer, settings, backbone, on_weights)
    study = Study.create(
        settings.study_name,
        settings.storage_url,
        space=resolved,
        protocol=trainer.protocol,
        limits=settings.limits,
        inputs={**settings.inputs, "command": command(settings), SEARCH: settings.search},
    )
    files.replace(settings.folder / "split.json", json.dumps(splits.record()).encode())
    return _Ready(
        settings=settings,
        study=study,
        space=resolved,
        # a warm start changes nothing in the timing
        evaluator=Evaluator(
            trainer,
            study.store,
            timer,
            settings.limits,
            stop_rule(settings, study, resolved),
            _pauses(settings) if settings.stops_by_model else None,  # with the others it is for good
        ),
        replicator=Replicator(trainer, study.store),
    )


def _pauses(settings: Settings) -> Pauses:
    """Return where trainings are kept that were stopped."""
    from nas.pauses import Pauses

    return Pauses(settings.folder / "stopped")


def stop_rule(settings: Settings, study: Study, resolved: ResolvedSpace) -> StopRule | None:
    """Return what stops trainings, and note in the study that it does; None for nothing."""
    rungs = settings.rungs_of(study.protocol.epochs)
    if rungs is None:
        return None
    spared = {control.architecture.id for control in resolved.controls()}
    if settings.stops_by_model:
        study.note_rungs(f"after epoch {rungs.epochs[0]}, where another training promises more")
        return Chooser(study, resolved, rungs, seed=settings.seed, spared=spared)
    study.note_rungs(rungs.words)
    return Judge(study, rungs, spared)


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


def _prepared(
    settings: Settings, declared: SearchSpace, on_weights: Callable[[str], None] | None
) -> tuple[Splits, Trainer, torch.device]:
    """Return the data, the trainer under the protocol that follows from all, and the device that is timed."""
    import torch

    from nas import data, placement, proxy
    from nas.latency import device_words
    from nas.threads import threads_of_torch
    from nas.trainer import Trainer

    (backbone,) = declared.backbones
    placement.check_name(backbone)
    device = proxy.select_device(settings.device)
    timed = device if settings.latency_device is None else proxy.select_device(settings.latency_device)
    splits = data.load(
        settings.data,
        resolution=settings.resolution,
        seed=settings.seed,
        data_dir=settings.data_dir,
        download=settings.download,
        limit=settings.limit,
    )
    made_for = made_for_data(settings, backbone, splits)
    weights = None
    if settings.is_pretrained:
        weights = placement.pretrained(backbone, checkpoint=settings.checkpoint, **made_for)
        if on_weights is not None:
            on_weights(weights.describe())
    protocol = make_protocol(
        settings, splits, device, timed=timed, model_kwargs=made_for["model_kwargs"], weights=weights
    )
    threads = None
    if device.type == "cpu" and settings.workers_per_device > 1:
        threads = max(1, torch.get_num_threads() // settings.workers_per_device)
        with threads_of_torch(threads):  # another number of threads rounds otherwise
            protocol = dataclasses.replace(protocol, device=device_words(device))
    workers = settings.workers_per_device
    return splits, Trainer(splits.search(), protocol, device, weights, threads=threads, workers=workers), timed


def _check_all(resolved: ResolvedSpace, trainer: Trainer, timer: Timer) -> None:
    """Run once whatever will be trained or timed, so that it fails now if it fails.

    Raises:
        ValueError: If the backbone cannot be timed as is asked for.
        EvaluationError: If a block cannot run at a stage, or the runtime cannot run the backbone.
    """
    from nas.preflight import preflight

    preflight(resolved, trainer)
    for backbone in resolved.sites:
        timer.check(backbone)


def _warmed(trainer: Trainer, settings: Settings, backbone: str, on_weights: Callable[[str], None] | None) -> Trainer:
    """Return the trainer of the trials: the given one or, if that is asked for, one with a warm backbone."""
    if not settings.warm_start:
        return trainer
    from nas import warm

    epochs = 2 * trainer.protocol.epochs if settings.warm_start is True else settings.warm_start
    rate = settings.usual_rate(trained=settings.is_pretrained)
    folder = Path(settings.studies) / "warm"
    warmed = warm.start(trainer, backbone, folder, epochs=epochs, learning_rate=rate, on_event=on_weights)
    return warmed.under(freeze_backbone=settings.freeze_backbone)


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
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            warnings.warn(f"the pages could not be written: {type(error).__name__}: {error}", stacklevel=2)

    return files.Sparing(write)
