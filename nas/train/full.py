"""Full training of an exported architecture, from config to weights and test accuracy; of the bare backbone, too.

What is trained on, and when the test split is looked at: the training images of the study are trained on and its
validation images watched, so that the curve shows an accuracy from the first epoch and nothing has to be chosen on
test. The weights of the last epoch are tested; or, if asked for, those that were best on val; or val is trained on,
too, and nothing is watched. Each trained network meets the test split once, after its last epoch, when no choice is
left. That holds for one folder: trainings into other folders, with another learning rate say, look again, and nothing
counts their looks. Who keeps the best of several by its test accuracy has chosen on test.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import torch
from safetensors.torch import save
from torch import nn

from nas import data, evaluate, export, files, placement, proxy, trainer
from nas.architecture import Architecture
from nas.data import Splits
from nas.datasets import TIMM_PREFIXES
from nas.export.config import WEIGHTS
from nas.latency import device_words
from nas.protocol import Protocol
from nas.train import keeping, loop, paired, pictures, report
from nas.train.loop import Watcher
from nas.train.parallel import Crew, together
from nas.train.settings import Recipe, Settings, Start, TrainingFailed, counted, folder_of, recipe_of, start_of

FOUND, BARE = "architecture", "bare"
LOCK_SECONDS = 10.0
"""Longest wait for the folder: what loads images for a training that was killed keeps it for some seconds."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that the trainings of one config share."""

    config: Path
    architecture: Architecture
    protocol: Protocol
    settings: Settings
    recipe: Recipe
    weights: placement.Weights | None
    splits: Splits
    folder: Path
    crew: Crew
    watcher: Watcher

    def identity(self) -> dict[str, Any]:
        """Return what decides the curves: a training is only taken up under the same."""
        return {
            "architecture": self.architecture.id,
            "data": self.splits.hash,
            "start": self.weights.words if self.weights is not None else "fresh weights",
            **dataclasses.asdict(self.recipe),
            "select": self.settings.select,
            "processes": self.crew.size,
            "device": self.crew.device.type,
            "software": evaluate.software(),
        }


def train(config: str | Path, settings: Settings, watcher: Watcher | None = None) -> report.Outcome:
    """Train the architecture of a config fully, test it, and write weights and results.

    What was trained is kept: the same call goes on where a killed one stopped, and with more seeds, or with the
    baseline, trains what is missing.

    Args:
        config: A file that ``export`` wrote, or a folder that holds one as ``architecture.json``.
        settings: What is asked for.
        watcher: Is told how it gets on, in the process that writes.

    Raises:
        ValueError: If the config, the data, the weights or the settings cannot be used, or the folder holds a training
            under others.
        TrainingFailed: If a training cannot go on.
    """
    path = Path(config)
    architecture, content = export.read(path)
    protocol = Protocol.from_dict(content["protocol"])
    settings = _as_searched(settings, content)
    if settings.out is None and (path / WEIGHTS).is_symlink():  # whoever made the folder may have meant another file
        raise ValueError(f"{path / WEIGHTS} is a link, and would be written through; remove it, or give --out")
    if settings.baseline and not architecture.placements:
        raise ValueError(f"{path} is the bare backbone itself: there is nothing to compare it with; leave out baseline")
    start = start_of(protocol, settings)
    with together(settings.device) as crew:
        recipe = recipe_of(protocol, settings, start, crew.device.type)
        splits = splits_of(protocol, settings)
        job = Job(
            config=path,
            architecture=architecture,
            protocol=protocol,
            settings=settings,
            recipe=recipe,
            weights=_weights(start, architecture.backbone, protocol),
            splits=splits,
            folder=folder_of(path, settings),
            crew=crew,
            watcher=watcher if watcher is not None and crew.is_first else Watcher(),
        )
        with _alone_in(job.folder, crew):
            crew.agree(lambda: keeping.bind(job.folder, job.identity()))
            return _run(job)


def _as_searched(settings: Settings, content: Mapping[str, Any]) -> Settings:
    """Return the settings with as many images as the search had, unless they say how many."""
    evidence = content["evidence"]
    limit = evidence.get("limit") if isinstance(evidence, dict) else None
    if settings.limit is not None or type(limit) is not int or limit < 1 or settings.other_data:
        return settings
    return dataclasses.replace(settings, limit=limit)


def splits_of(protocol: Protocol, settings: Settings) -> Splits:
    """Load the data of the search, the test split among them.

    Raises:
        ValueError: If they are not to be found, or are others than those that the search had, unless others are asked
            for. Others must have the same number of classes and channels.
    """
    source, folder = protocol.data, None
    if source.partition("/")[0].lower() in TIMM_PREFIXES and "/" in source:
        folder = settings.data  # a timm name stays; its folder may have moved
    elif settings.data is not None:
        source = settings.data
    elif source != "digits" and not Path(source).is_dir():
        raise ValueError(f"the search was made on {source!r}: say with --data where that folder lies")
    splits = data.load(
        source, resolution=protocol.resolution, seed=protocol.split_seed, data_dir=folder, limit=settings.limit
    )
    if splits.hash == protocol.data_hash:
        return splits
    if not settings.other_data:
        limit = "" if settings.limit is None else f" with limit {settings.limit}"
        raise ValueError(
            f"the data {settings.data or source}{limit} have the hash {splits.hash}, but the search was made on "
            f"{protocol.data_hash}; give --data and --limit as the search had them, or --other-data to train on these"
        )
    for one, many, here, found in (
        ("class", "classes", len(splits.classes), protocol.num_classes),
        ("channel", "channels", splits.channels, protocol.channels),
    ):
        if here != found:
            words = counted(found, one, many)
            raise ValueError(f"the architecture was found on {words}, but the data {source} have {here}")
    return splits


def _weights(start: Start, backbone: str, protocol: Protocol) -> placement.Weights | None:
    if start.kind == "fresh":
        return None
    return placement.pretrained(
        backbone,
        num_classes=protocol.num_classes,
        in_channels=protocol.channels,
        model_kwargs=protocol.model_kwargs,
        checkpoint=start.file,
    )


@contextmanager
def _alone_in(folder: Path, crew: Crew) -> Iterator[None]:
    """Keep other trainings out of the folder."""
    lock = filelock.FileLock(str(folder / ".lock"), timeout=LOCK_SECONDS)

    def enter() -> None:
        files.check_folder(folder)
        if (folder / ".lock").is_symlink():  # to lock a file is to empty it
            raise ValueError(f"{folder / '.lock'} is a link, which no training makes; remove it")
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise ValueError(f"another training writes into {folder}; wait for it, or give another --out") from error

    crew.agree(enter)
    try:
        yield
    finally:
        lock.release()


def _run(job: Job) -> report.Outcome:
    """Train and test all that is asked for, seed by seed, and write the results."""
    seeds = job.settings.all_seeds(job.protocol)
    bare = Architecture(backbone=job.architecture.backbone)
    kinds = {FOUND: job.architecture, **({BARE: bare} if job.settings.baseline else {})}
    tested: dict[str, list[report.Tested]] = {kind: [] for kind in kinds}
    for seed in seeds:
        for kind, architecture in kinds.items():
            with _failing_in_words(job):
                tested[kind].append(_train_one(job, kind, architecture, seed))
    difference = None
    if BARE in tested:
        difference = paired.compare([each.correct for each in tested[FOUND]], [each.correct for each in tested[BARE]])
    # A folder of its own keeps all to itself: the weights in the export folder may be those of another training.
    into_export = job.config.is_dir() and job.settings.out is None
    outcome = report.Outcome(
        architecture=job.architecture,
        found=tuple(tested[FOUND]),
        bare=tuple(tested.get(BARE, ())),
        difference=difference,
        folder=job.folder,
        weights=(job.config if into_export else job.folder) / WEIGHTS,
        facts=_facts(job),
    )
    job.crew.agree(lambda: _write(job, outcome, seeds[0]))
    return outcome


def _train_one(job: Job, kind: str, architecture: Architecture, seed: int) -> report.Tested:
    """Train and test a network, unless that is done already."""
    folder = job.folder / f"{kind}-seed{seed}"
    done = folder / "tested.json"
    found: report.Tested | None = job.crew.agree(lambda: report.read_tested(done))
    if found is not None:
        job.watcher.say(f"{kind} with seed {seed}: found in {folder}")
        return found
    protocol = dataclasses.replace(job.protocol, seed=seed)
    model = trainer.build(architecture, protocol, job.crew.device, job.weights)
    trained = loop.fit(
        model,
        job.splits,
        job.recipe,
        seed=seed,
        folder=folder,
        crew=job.crew,
        name=f"{kind} with seed {seed}",
        select=job.settings.select,
        watcher=job.watcher,
    )
    feed = pictures.plain_feed(job.splits.test, job.splits, job.recipe, job.crew)
    with job.crew.turn():
        right = loop.correct(trained.model, feed, job.recipe, job.crew, what="on test")
    last = trained.curve[-1] if trained.curve else {}
    tested = report.Tested(
        kind=kind,
        seed=seed,
        epoch=trained.epoch,
        correct=tuple(right),
        val_accuracy=float(trained.curve[trained.epoch - 1]["eval_top1"]) if "eval_top1" in last else None,
        train_seconds=sum(float(row["train_seconds"]) for row in trained.curve),
    )

    def write() -> None:
        about = {"architecture": architecture.id, "backbone": architecture.backbone, "seed": str(seed)}
        about |= {"epoch": str(trained.epoch), "test_accuracy": repr(tested.accuracy)}
        files.replace(folder / WEIGHTS, _bytes_of(trained.model, about))
        files.replace(done, (tested.to_json() + "\n").encode())  # last: from here on it is not trained again

    job.crew.agree(write)
    job.watcher.say(f"{kind} with seed {seed}: {tested.words()}")
    return tested


def _bytes_of(model: nn.Module, about: dict[str, str]) -> bytes:
    """Return a network's weights as a safetensors file."""
    # Clones, as the format keeps no tensor that shares its memory; in the plain order of memory.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    found: bytes = save(tensors, metadata=about)
    return found


def _write(job: Job, outcome: report.Outcome, seed: int) -> None:
    """Write the results, and put the weights of the first seed where they are expected; none is chosen by its test."""
    files.replace(outcome.weights, (job.folder / f"{FOUND}-seed{seed}" / WEIGHTS).read_bytes())
    content = {**outcome.to_dict(), "config": str(job.config), "recipe": job.identity()}
    content["protocol"] = job.protocol.to_dict()
    files.replace(job.folder / "train.json", (json.dumps(content, indent=2) + "\n").encode())
    files.replace(job.folder / "train.md", outcome.text().encode())


def _facts(job: Job) -> dict[str, str]:
    recipe, splits, settings = job.recipe, job.splits, job.settings
    size = len(splits.train) + (len(splits.val) if recipe.with_val else 0)
    if recipe.with_val:
        watched = "the validation images among them, so that no epoch was chosen"
    elif settings.select == "best":
        watched = f"the epoch was chosen on {counted(len(splits.val), 'validation image')}"
    else:
        watched = (
            f"accuracy on {counted(len(splits.val), 'validation image')} was watched, and nothing was chosen by it"
        )
    same = splits.hash == job.protocol.data_hash
    never = "that the search never saw" if same else "of other data than the search's, which may have seen some of them"
    mixed = f", mixup {recipe.mixup:g} and CutMix {recipe.cutmix:g}" if recipe.mixes else ""
    augmented = f"crops from {recipe.crop:g} of the area, mirrored with {recipe.hflip:g}, erased with {recipe.reprob:g}"
    return {
        "Start": (job.weights.describe() if job.weights is not None else "fresh weights")
        + ("; nothing is frozen, as the backbone was in the search" if job.protocol.freeze_backbone else ""),
        "Training": f"{counted(recipe.epochs, 'epoch')} of {counted(size, 'image')} in batches of "
        f"{min(recipe.batch, size)}; {watched}",
        "Optimiser": f"{recipe.opt}, weight decay {recipe.weight_decay:g}, learning rate {recipe.lr:g} "
        f"({recipe.sched}, {counted(recipe.warmup, 'epoch')} of warm-up)",
        "Augmentation": augmented + (f", {recipe.aa}" if recipe.aa else "") + mixed,
        "Tested": (f"the moving average with decay {recipe.ema:g}" if recipe.ema else "the weights as trained")
        + f", computed in {recipe.amp}",
        "Test split": f"{counted(len(splits.test), 'image')} {never}; each network met them once in this folder, "
        "after its training; looks from other folders are not counted",
        "Device": f"{device_words(job.crew.device)}"
        + (f", {job.crew.size} processes" if not job.crew.is_alone else "")
        + f"; {evaluate.software()}; {time.strftime('%Y-%m-%d')}",
    }


@contextmanager
def _failing_in_words(job: Job) -> Iterator[None]:
    """Turn what memory that does not suffice raises into words."""
    try:
        yield
    except RuntimeError as error:
        if not proxy.is_out_of_memory(error):
            raise
        torch.cuda.empty_cache()
        raise TrainingFailed(
            f"out of memory on {job.crew.device} with batch {job.recipe.batch} at {job.splits.resolution} pixels; "
            "a smaller --batch needs less, with a lower --lr and another --out"
        ) from error
