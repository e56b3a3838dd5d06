"""A search made ready: its settings checked against data, device and backbone, and its study open."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nas import devices, files
from nas.command import command
from nas.database import patient
from nas.evaluation import EvaluationError
from nas.seeds import FURTHER
from nas.settings import Settings, declared_space, made_for_data, make_protocol
from nas.study import SEARCH, Chooser, Confirmation, Judge, Outcome, Study, confirm, reach, run

if TYPE_CHECKING:
    import torch

    from nas.architecture import Architecture
    from nas.data import Splits
    from nas.devices import Post
    from nas.evaluate import Evaluator, StopRule
    from nas.pauses import Pauses
    from nas.replicate import Replicator
    from nas.seeds import Replicate
    from nas.space import ResolvedSpace, SearchSpace
    from nas.timing import Timer
    from nas.trainer import Trainer

Say = Callable[[str], None]
"""Takes a line for people who look on."""
Stop = Callable[[], bool]
"""Tells whether no further training is to begin."""


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A search whose settings are found to be right, and whose study is open."""

    settings: Settings
    study: Study
    space: ResolvedSpace
    workers: int
    """Processes that are to work on it."""
    evaluator: Evaluator
    replicator: Replicator

    def time_reference(self) -> None:
        """Time the bare backbone before other processes begin; if it cannot be timed, its trial says why."""
        for backbone in self.space.sites:
            with suppress(EvaluationError):
                self.evaluator.time_reference(backbone)

    def run(self, on_trial: Callable[[Study], None] | None, stop: Stop) -> Outcome:
        """Evaluate architectures until the budget is spent, or no further one is to begin."""
        return run(
            self.study,
            self.evaluator,
            space=self.space,
            budget=self.settings.budget,
            sampler=self.settings.sampler,
            seed=self.settings.seed,
            patience=self.settings.patience,
            on_trial=on_trial,
            stop=stop,
        )

    def confirm(
        self,
        on_replicate: Callable[[Architecture, Replicate], None] | None,
        stop: Stop,
        share: tuple[int, int] = (0, 1),
    ) -> Confirmation:
        """Train a share of what is to be trained with further seeds."""
        return confirm(
            self.study,
            self.replicator,
            repeats=self.settings.repeats,
            further=self.settings.confirm,
            on_replicate=on_replicate,
            share=share,
            stop=stop,
        )

    def forget_pauses(self) -> None:
        """Remove what stopped trainings could go on from: a search with a larger budget begins them anew.

        What runs or waits in another search of the study is left, and so is what is trained again.
        """
        pending = [known.id for known in self.study.tally().known if known.pending]
        _pauses(self.settings).clear(besides=[*pending, FURTHER])


def make_ready(settings: Settings, say: Say = lambda _: None, *, worker: int | None = None) -> Ready:
    """Check the settings against data, device and backbone, and open the study.

    Args:
        settings: What is asked for.
        say: Called with lines about what takes long.
        worker: Which of several workers this process is, from 0. Another process has checked everything for it. None
            for the process that does, which is the only one or starts the workers.

    Raises:
        ValueError: If something is wrong with the settings, the data, the space, the backbone or the storage.
        EvaluationError: If a block of the space cannot run at a stage.
    """
    declared = declared_space(settings)
    if worker is None:
        reach(settings.storage_url)
    if settings.folder.exists():  # whoever resumes a search wants to see that it does; on a busy machine this is long
        say(f"going on with {settings.folder}: loading torch, timm and the data")
    from nas.evaluate import Evaluator  # torch and timm, once the cheap mistakes are ruled out
    from nas.replicate import Replicator
    from nas.timing import Timer

    post = devices.posts(settings)[worker or 0]
    splits, trainer, timed = _prepared(settings, declared, post, say)
    (backbone,) = declared.backbones
    resolved = declared.resolve({backbone: trainer.plan(backbone).stages})
    timer = Timer(trainer, timed)
    settings.rungs_of(trainer.protocol.epochs)  # so that a wrong one is found before anything is written
    if worker is None:
        _check_all(resolved, trainer, timer, say)
    files.check_folder(settings.studies)
    trainer = _warmed(trainer, settings, backbone, say)
    # A worker that is started again while the database is away waits for it, as those do that work.
    create = Study.create if worker is None else patient(Study.create)
    study = create(
        settings.study_name,
        settings.storage_url,
        space=resolved,
        protocol=trainer.protocol,
        limits=settings.limits,
        inputs={**settings.inputs, "command": command(settings), SEARCH: settings.search},
    )
    if worker is None:
        files.replace(settings.folder / "split.json", json.dumps(splits.record()).encode())
    pauses = _pauses(settings)
    return Ready(
        settings=settings,
        study=study,
        space=resolved,
        workers=post.workers,
        # a warm start changes nothing in the timing
        evaluator=Evaluator(
            trainer,
            study.store,
            timer,
            settings.limits,
            stop_rule(settings, study, resolved),
            pauses,
            keeps_stopped=settings.stops_by_model,  # with the others it is for good
        ),
        replicator=Replicator(trainer, study.store, pauses=pauses),
    )


def _pauses(settings: Settings) -> Pauses:
    """Return where trainings are kept that were stopped or killed."""
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


def _threads_of_study(settings: Settings) -> tuple[int, int] | None:
    """Return on how many threads of a CPU a study trains and times; None if there is no such study, or on no CPU."""
    from nas.latency import threads_in

    try:
        study = Study.open(settings.study_name, settings.storage_url)
    except ValueError:  # what is wrong with it is told when it is made or resumed
        return None
    try:
        trained, timed = study.protocol.device, study.protocol.latency_device or study.protocol.device
    finally:
        study.close()
    if not trained.startswith("cpu"):
        return None
    return threads_in(trained), threads_in(timed if timed.startswith("cpu") else trained)


def _prepared(settings: Settings, declared: SearchSpace, post: Post, say: Say) -> tuple[Splits, Trainer, torch.device]:
    """Return the data, the trainer under the protocol that follows from all, and the device that is timed.

    A study on a CPU is gone on with on as many threads as it was made with: another number rounds otherwise.
    """
    import torch

    from nas import data, placement, proxy
    from nas.latency import device_words
    from nas.threads import threads_of_torch
    from nas.trainer import Trainer

    (backbone,) = declared.backbones
    placement.check_name(backbone)
    device = post.device
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
        say(weights.describe())
    kept = _threads_of_study(settings) if device.type == "cpu" else None
    if kept is not None and kept[1] != torch.get_num_threads():
        say(f"on {kept[1]} threads, as the study was made")
        torch.set_num_threads(kept[1])
    protocol = make_protocol(
        settings, splits, device, timed=timed, model_kwargs=made_for["model_kwargs"], weights=weights
    )
    threads = None
    if device.type == "cpu" and (kept or post.workers > 1):
        threads = kept[0] if kept else max(1, torch.get_num_threads() // post.workers)
        with threads_of_torch(threads):
            protocol = dataclasses.replace(protocol, device=device_words(device))
    return splits, Trainer(splits.search(), protocol, device, weights, threads=threads, workers=post.beside), timed


def _check_all(resolved: ResolvedSpace, trainer: Trainer, timer: Timer, say: Say) -> None:
    """Run once whatever will be trained or timed, so that it fails now if it fails.

    Raises:
        ValueError: If the backbone cannot be timed as is asked for.
        EvaluationError: If a block cannot run at a stage, or the runtime cannot run the backbone.
    """
    from nas.preflight import preflight

    say(f"trying every block at every stage of {', '.join(resolved.sites)}")
    preflight(resolved, trainer)
    for backbone in resolved.sites:
        timer.check(backbone)


def _warmed(trainer: Trainer, settings: Settings, backbone: str, say: Say) -> Trainer:
    """Return the trainer of the trials: the given one or, if that is asked for, one with a warm backbone."""
    if not settings.warm_start:
        return trainer
    from nas import warm

    epochs = 2 * trainer.protocol.epochs if settings.warm_start is True else settings.warm_start
    rate = settings.usual_rate(trained=settings.is_pretrained)
    folder = Path(settings.studies) / "warm"
    warmed = warm.start(trainer, backbone, folder, epochs=epochs, learning_rate=rate, on_event=say)
    return warmed.under(freeze_backbone=settings.freeze_backbone)
