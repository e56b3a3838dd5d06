"""The whole search as one function: settings in, a study with its files out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nas import export, files, report, space
from nas.answer import recommend
from nas.protocol import Protocol
from nas.store import sqlite_path
from nas.study import Outcome, RunFailed, Study, check_name, resolve_sampler, run

T = TypeVar("T")

if TYPE_CHECKING:
    import torch

    from nas.data import Splits
    from nas.placement import Weights


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a search is asked for. None stands for a default that depends on the data or the device."""

    budget: int = 50
    """Finished distinct architectures that the study shall have."""
    space: str = "default"
    """Name of a space of ``search_spaces``, or the path of a Python file with ``SPACE`` in it (which is executed)."""
    backbone: str | None = None
    """timm name of a backbone, instead of the space's own."""
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of timm's factory, such as ``drop_path_rate``."""
    pretrained: bool = False
    """Whether the backbone starts from timm's weights."""
    checkpoint: str | None = None
    """File with the weights from which the backbone starts."""
    freeze_backbone: bool = False
    """Whether only blocks and classifier are trained; needs trained weights."""
    block_lr_factor: float = 1.0
    """Learning rate of the blocks over that of the rest."""
    positions: tuple[str, ...] | None = None
    """Where blocks may stand, instead of the space's own positions."""
    init: str | None = None
    """``identity`` or ``paper``: how blocks start. None: identity on trained weights, else the space's own."""
    data: str = "digits"
    """``digits``, an image folder, or a timm dataset name such as ``torch/cifar10``."""
    data_dir: str | None = None
    """Folder where timm's datasets lie."""
    download: bool = False
    """Whether timm may download the data set."""
    limit: int | None = None
    """Largest number of images to use, drawn stratified by class."""
    resolution: int | None = None
    """Height and width of the images in pixels."""
    epochs: int | None = None
    """Epochs of the proxy training."""
    batch_size: int = 64
    """Images in one training step."""
    optimizer: str = "sgd"
    """``sgd`` or ``adamw``."""
    learning_rate: float | None = None
    """Peak learning rate; by default a tenth on trained weights."""
    weight_decay: float = 5e-4
    """Weight decay."""
    label_smoothing: float = 0.1
    """Label smoothing of the training loss."""
    augmentation: str | None = None
    """``none``, ``shift`` or ``shift+flip``."""
    precision: str | None = None
    """``float32`` or ``bfloat16``, in training and timing."""
    latency_batch_size: int = 1
    """Images in one timed forward pass."""
    latency_seconds: float = 2.0
    """Longest sampling of one latency, in seconds."""
    device: str = "auto"
    """``auto``, ``cuda``, ``cuda:1``, ``mps`` or ``cpu``."""
    sampler: str = "auto"
    """``auto``, ``gp``, ``tpe``, ``nsga2`` or ``random``."""
    seed: int = 0
    """Seed of the split, the weights, the training and the proposals."""
    study: str | None = None
    """Name of the study; the same name resumes it."""
    studies: str = "studies"
    """Folder where studies land."""
    storage: str | None = None
    """Database URL."""

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise ValueError(f"the budget must be at least 1 trial, but got {self.budget}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"the seed must be at least 0 and below 2**32, but got {self.seed}")
        resolve_sampler(self.sampler, known=0)
        if self.positions is not None and not self.positions:
            raise ValueError("positions must name at least one position, or be left out")
        if self.pretrained and self.checkpoint is not None:
            raise ValueError("weights come from timm (pretrained) or from a file (checkpoint), not from both")
        if self.freeze_backbone and not self.is_pretrained:
            raise ValueError(
                "only a backbone with trained weights can be frozen: give --pretrained or --checkpoint too"
            )
        check_name(self.study_name)
        sqlite_path(self.storage_url)

    @property
    def is_pretrained(self) -> bool:
        """Whether the backbone starts from trained weights."""
        return self.pretrained or self.checkpoint is not None

    @property
    def study_name(self) -> str:
        """The study's name: the one given, or one made of space, data and backbone."""
        if self.study is not None:
            return self.study
        parts = [Path(self.space).stem, Path(self.data).name or "data", *([self.backbone] if self.backbone else [])]
        text = "-".join(parts)
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")
        if len(name) <= 80 and text.isascii():
            return name or "study"
        # What was cut off or left out must not make two names one.
        return f"{name[:80].strip('-._') or 'study'}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"

    @property
    def storage_url(self) -> str:
        """The database: the one given, or ``studies.db`` in the folder of studies."""
        return self.storage or f"sqlite:///{Path(self.studies) / 'studies.db'}"

    @property
    def folder(self) -> Path:
        """Where the study's files land."""
        return Path(self.studies) / self.study_name


@dataclass(frozen=True, kw_only=True)
class Result:
    """A search that ended."""

    study: Study
    """The study, open."""
    outcome: Outcome
    """How the run ended."""


def search(
    settings: Settings,
    *,
    on_weights: Callable[[str], None] | None = None,
    on_start: Callable[[Study], None] | None = None,
    on_trial: Callable[[Study], None] | None = None,
) -> Result:
    """Search, and keep the study's files up to date: front.csv, pareto.html, best.json, split.json.

    Everything that can be wrong with the settings is found before anything is written and before anything is trained.

    Args:
        settings: What is asked for.
        on_weights: Called with what trained weights were loaded and how much of the backbone they cover.
        on_start: Called once, before the first trial.
        on_trial: Called after every finished or failed trial, when the files are written.

    Raises:
        ValueError: If something is wrong with the settings, the data, the space, the backbone or the storage.
        EvaluationError: If a block of the space cannot run at a stage.
        nas.study.RunFailed: If three trials in a row failed for the same reason.
    """
    declared = _declared(settings)
    (backbone,) = declared.backbones
    from nas import data, placement, proxy  # torch and timm, once the cheap mistakes are ruled out
    from nas.evaluate import Evaluator
    from nas.preflight import preflight
    from nas.trainer import Trainer

    placement.check_name(backbone)
    device = proxy.select_device(settings.device)
    splits = data.load(
        settings.data,
        resolution=settings.resolution,
        seed=settings.seed,
        data_dir=settings.data_dir,
        download=settings.download,
        limit=settings.limit,
    )
    made_for = _made_for(settings, backbone, splits)
    weights = None
    if settings.is_pretrained:
        weights = placement.pretrained(backbone, checkpoint=settings.checkpoint, **made_for)
        if on_weights is not None:
            on_weights(weights.describe())
    protocol = make_protocol(settings, splits, device, model_kwargs=made_for["model_kwargs"], weights=weights)
    trainer = Trainer(splits.search(), protocol, device, weights)
    resolved = declared.resolve({backbone: trainer.plan(backbone).stages})
    preflight(resolved, trainer)
    files.check_folder(settings.studies)
    study = Study.create(settings.study_name, settings.storage_url, space=resolved, protocol=protocol)
    evaluator = Evaluator(trainer, study.store)
    files.replace(settings.folder / "split.json", json.dumps(splits.record()).encode())

    def after_trial(study: Study) -> None:
        write_files(study, settings.folder)
        if on_trial is not None:
            on_trial(study)

    write_files(study, settings.folder)
    if on_start is not None:
        on_start(study)
    try:
        outcome = run(
            study,
            evaluator,
            space=resolved,
            budget=settings.budget,
            sampler=settings.sampler,
            seed=settings.seed,
            on_trial=after_trial,
        )
    except ValueError as error:  # the settings were checked: whatever is wrong now is not theirs
        raise RunFailed(f"{type(error).__name__}: {error}") from error
    write_files(study, settings.folder)
    return Result(study=study, outcome=outcome)


def _declared(settings: Settings) -> space.SearchSpace:
    """Return the space that is asked for, with the settings' own backbone and init in place of its."""
    declared = space.load(settings.space)
    if settings.backbone is not None:
        declared = dataclasses.replace(declared, backbones=(settings.backbone,))
    init = settings.init or ("identity" if settings.is_pretrained else declared.init)
    declared = dataclasses.replace(declared, init=init, positions=settings.positions or declared.positions)
    if len(declared.backbones) > 1:  # the front and the answer compare with one bare backbone
        raise ValueError(
            f"a search takes one backbone, but the space has {', '.join(declared.backbones)}; run one each"
        )
    return declared


def _made_for(settings: Settings, backbone: str, splits: Splits) -> dict[str, Any]:
    """Return the arguments with which the backbone suits the data."""
    from nas import placement

    fixed = {"num_classes": len(splits.classes), "in_channels": splits.channels}
    fitted = placement.fit_kwargs(backbone, resolution=splits.resolution, model_kwargs=settings.model_kwargs, **fixed)
    return {**fixed, "model_kwargs": fitted}


def make_protocol(
    settings: Settings,
    splits: Splits,
    device: torch.device,
    *,
    model_kwargs: Mapping[str, Any] | None = None,
    weights: Weights | None = None,
) -> Protocol:
    """Return the protocol of a search: the settings, and where they are silent what suits the data and the device."""
    from nas import evaluate
    from nas.latency import device_words

    embedded = settings.data == "digits"
    rates = {"sgd": 0.1, "adamw": 0.003}
    rate = rates.get(settings.optimizer, 0.1) * (0.1 if weights is not None else 1)
    return Protocol(
        data=Path(settings.data).name if Path(settings.data).exists() else settings.data,
        data_hash=splits.hash,
        split_seed=settings.seed,
        num_classes=len(splits.classes),
        channels=splits.channels,
        resolution=splits.resolution,
        epochs=_given(settings.epochs, 3 if embedded else 5),
        batch_size=settings.batch_size,
        optimizer=settings.optimizer,
        learning_rate=_given(settings.learning_rate, rate),
        weight_decay=settings.weight_decay,
        label_smoothing=settings.label_smoothing,
        augmentation=_given(settings.augmentation, "shift" if embedded else "shift+flip"),
        precision=_given(settings.precision, "bfloat16" if _has_bfloat16(device) else "float32"),
        channels_last=device.type in ("cpu", "cuda"),  # quicker on both for nearly every convolutional backbone
        seed=settings.seed,
        device=device_words(device),
        latency_batch_size=settings.latency_batch_size,
        latency_seconds=settings.latency_seconds,
        software=evaluate.software(),
        model_kwargs=model_kwargs or {},
        weights=weights.words if weights is not None else "",
        freeze_backbone=settings.freeze_backbone,
        block_lr_factor=settings.block_lr_factor,
    )


def _given(value: T | None, default: T) -> T:
    return default if value is None else value


def _has_bfloat16(device: torch.device) -> bool:
    """Tell whether a device computes in bfloat16 itself. Older GPUs emulate it, and a CPU is rarely quicker with it."""
    import torch

    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def write_files(study: Study, folder: Path) -> None:
    """Write the study's front, plot and best config, each whole or not at all."""
    rows = study.rows()
    report.write_front_csv(rows, folder / "front.csv")
    report.write_pareto(rows, folder / "pareto.html", title=study.name, facts=facts(study))
    if rows:
        export.write(export.config(study, recommend(rows).row), folder / "best.json")


def _weights_words(protocol: Protocol) -> str:
    frozen = "; the backbone is frozen" if protocol.freeze_backbone else ""
    return f"{protocol.weights}; learning rate of blocks x {protocol.block_lr_factor:g}{frozen}"


def facts(study: Study) -> dict[str, str]:
    """Return what a reader of the study's figures must know about how they were made, in words."""
    protocol = study.protocol
    return {
        "Study": study.name,
        "Backbones": ", ".join(study.space["backbones"])
        + "".join(f", {name}={value}" for name, value in protocol.model_kwargs.items()),
        **({"Weights": _weights_words(protocol)} if protocol.weights else {}),
        "Data": f"{protocol.data}, {protocol.num_classes} classes, {protocol.channels}x{protocol.resolution}"
        f"x{protocol.resolution}; accuracy is on the validation split, which the search selects on",
        "Proxy": f"{protocol.epochs} epochs, batch {protocol.batch_size}, {protocol.optimizer} at "
        f"{protocol.learning_rate:g}, {protocol.augmentation}, {protocol.precision}, seed {protocol.seed}",
        "Latency": f"batch {protocol.latency_batch_size} on {protocol.device}",
        "Trials": f"{study.finished()} finished, {len(study.failures())} failed",
    }
