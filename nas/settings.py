"""What a search is asked for, and the protocol that follows from it, from the data and from the device."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nas import devices, rungs, space
from nas.database import sqlite_path
from nas.limits import Limits
from nas.protocol import Protocol
from nas.rungs import RISK, Rungs
from nas.seeds import MOST_SEEDS
from nas.study import check_name, resolve_sampler

T = TypeVar("T")
_WRITING = ("mnist", "svhn", "omniglot", "digits")

RATES = {"sgd": 0.1, "adamw": 0.003}
"""Peak learning rate for fresh weights, by optimiser."""
OF_SEARCH = ("budget", "sampler", "seed", "rungs", "risk", "patience")
"""What a search is asked for and its study is not bound to: proposals, and when to stop."""

if TYPE_CHECKING:
    import torch

    from nas.data import Splits
    from nas.placement import Weights


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a search is asked for. None stands for a default that depends on the data or the device."""

    budget: int = 50
    """Whole trainings that the study shall spend: one of each architecture, and shares of those that are stopped."""
    space: str | space.SearchSpace = "default"
    """Name of a space of ``search_spaces``, or a file's path: JSON, or Python with ``SPACE`` in it, executed."""
    backbone: str | None = None
    """timm name of a backbone, instead of the space's own."""
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of timm's factory, such as ``drop_path_rate``."""
    pretrained: bool = False
    """Whether the backbone starts from timm's weights."""
    checkpoint: str | None = None
    """File with the weights from which the backbone starts."""
    warm_start: int | bool = False
    """Epochs for which the bare backbone is trained once, for all trials to start from; True for twice the proxy's."""
    freeze_backbone: bool = False
    """Whether only blocks and classifier are trained; needs trained weights."""
    block_lr_factor: float = 1.0
    """Learning rate of the blocks over that of the rest."""
    positions: tuple[str, ...] | None = None
    """Where blocks may stand, instead of the space's own positions."""
    max_blocks: int | None = None
    """At how many stages at most something is placed, instead of the space's own bound."""
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
    """``none``, ``shift``, ``shift+flip`` or ``shift+flip+cutout``."""
    mirror_validation: bool = False
    """Whether validation sums the logits of each image and of its mirror image."""
    average_epochs: int = 1
    """Last epochs whose weights are averaged for the final accuracy."""
    compile: bool = False
    """Whether the training is compiled by torch.compile."""
    precision: str | None = None
    """``float32`` or ``bfloat16`` in training."""
    latency_batch_size: int = 1
    """Images in one timed forward pass."""
    latency_seconds: float = 2.0
    """Longest sampling of one latency, in seconds."""
    latency_resolution: int | None = None
    """Height and width of the images that are timed, in pixels; those that are trained on by default."""
    latency_device: str | None = None
    """The device that is timed, if it is not the one that trains."""
    latency_precision: str | None = None
    """``float32`` or ``bfloat16`` of what is timed; that of the training by default, on its device in torch."""
    max_latency_ms: float | None = None
    """Latency in ms beyond which nothing is trained."""
    max_slowdown: float | None = None
    """Latency beyond the bare backbone's, as a share of it, beyond which nothing is trained."""
    max_params: int | None = None
    """Number of parameters beyond which nothing is trained."""
    runtime: str = "eager"
    """What runs the models that are timed: ``eager``, ``compile`` or ``onnxruntime``."""
    device: str = "auto"
    """``auto``, ``cuda``, ``cuda:1``, ``mps`` or ``cpu``."""
    devices: str | tuple[str, ...] | None = None
    """Several of one kind instead, such as ``0,1`` or ``cuda:0,cuda:1``; ``auto`` for every GPU. Each has a worker."""
    workers: int | None = None
    """Processes that train at once, in all; by default one a device, or what a Ray cluster has room for."""
    workers_per_device: int | None = None
    """The same, for each device."""
    ray: str | None = None
    """Address of a Ray cluster whose workers evaluate instead, or ``auto`` for the one that this machine belongs to."""
    rungs: str | tuple[int, ...] = "auto"
    """Epochs at which trainings are stopped that promise less than others: ``none``, ``auto`` or numbers.

    Our own sampler takes one, and ``auto`` is half of the epochs, if they are at least :data:`nas.rungs.LONG`. With
    the other samplers ``auto`` is none, and ``usual`` is 1, 3, 9 and so on.
    """
    risk: float = RISK
    """With the other samplers: probability of ending above the best that is as fast, below which one is stopped."""
    patience: int | None = None
    """The search ends once so much training as so many architectures take did not move the front beyond noise."""
    sampler: str = "auto"
    """``auto``, ``additive``, ``gp``, ``tpe``, ``nsga2`` or ``random``."""
    seed: int = 0
    """Seed of the split, the weights, the training and the proposals."""
    repeats: int = 7
    """Further seeds with which the bare backbone is trained at the end, to know the noise of the seed."""
    confirm: int = 0
    """Further seeds with which each member of the front is trained at the end."""
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
        for name in ("repeats", "confirm"):
            if not 0 <= getattr(self, name) <= MOST_SEEDS:
                raise ValueError(f"{name} must be between 0 and {MOST_SEEDS} seeds, but got {getattr(self, name)}")
        devices.check(self)
        if not self.studies:
            raise ValueError("the folder of studies needs a name; . is this one")
        resolve_sampler(self.sampler)
        if self.positions is not None and not self.positions:
            raise ValueError("positions must name at least one position, or be left out")
        if self.max_blocks is not None and self.max_blocks < 1:
            raise ValueError(f"max blocks must be at least 1, but got {self.max_blocks}")
        if self.pretrained and self.checkpoint is not None:
            raise ValueError("weights come from timm (pretrained) or from a file (checkpoint), not from both")
        if self.warm_start < 0:
            raise ValueError(f"a warm start takes at least 1 epoch, or 0 for none, but got {self.warm_start}")
        if self.freeze_backbone and not self.is_trained:
            raise ValueError(
                "only a backbone with trained weights can be frozen: give --pretrained, --checkpoint or --warm-start"
            )
        self._check_stopping()
        self._check_protocol()
        assert self.limits is not None  # raises on limits that cannot be meant
        check_name(self.study_name)
        sqlite_path(self.storage_url)

    def _check_protocol(self) -> None:
        """Refuse now what the protocol would refuse once torch and the data are there."""
        shared = {each.name for each in dataclasses.fields(Protocol)} & {each.name for each in dataclasses.fields(self)}
        given = {name: getattr(self, name) for name in shared if getattr(self, name) is not None}
        usual = {"epochs": max(1, self.average_epochs), "resolution": 1, "augmentation": "shift+flip", "weights": "-"}
        fixed = {"data_hash": "", "split_seed": 0, "num_classes": 2, "channels": 1, "latency_runtime": self.runtime}
        Protocol(**{**usual, **given, **fixed})

    def _check_stopping(self) -> None:
        rungs.check_risk(self.risk)
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience must be at least 1 trial, but got {self.patience}")
        rungs.check_asked(self.rungs, once=self.stops_by_model)

    @property
    def stops_by_model(self) -> bool:
        """Whether our own sampler decides what is stopped."""
        return resolve_sampler(self.sampler) == "additive"

    def rungs_of(self, epochs: int) -> Rungs | None:
        """Return the rungs of a training of so many epochs; None for none.

        Raises:
            ValueError: If one lies beyond it.
        """
        return rungs.resolve(self.rungs, epochs, risk=self.risk, once=self.stops_by_model)

    @property
    def limits(self) -> Limits:
        """What an architecture may cost at most."""
        return Limits(latency_ms=self.max_latency_ms, slowdown=self.max_slowdown, parameters=self.max_params)

    @property
    def is_pretrained(self) -> bool:
        """Whether the backbone comes with trained weights."""
        return self.pretrained or self.checkpoint is not None

    @property
    def inputs(self) -> dict[str, Any]:
        """How data and trained weights are asked for, with paths that hold from any folder: what ``verify`` needs."""
        asked = {name: getattr(self, name) for name in ("data", "data_dir", "limit", "resolution", "seed")}
        asked |= {"pretrained": self.pretrained, "checkpoint": self.checkpoint}
        for name in ("data", "data_dir", "checkpoint"):
            if asked[name] is not None and Path(asked[name]).expanduser().exists() and asked[name] != "digits":
                asked[name] = str(Path(asked[name]).expanduser().resolve())
        return asked

    @property
    def search(self) -> dict[str, Any]:
        """How the study is searched, beyond what it is bound to: what further workers need to know besides."""
        return {name: getattr(self, name) for name in OF_SEARCH}

    @property
    def is_trained(self) -> bool:
        """Whether trials start from trained weights, which came along or are trained here."""
        return self.is_pretrained or bool(self.warm_start)

    def usual_rate(self, *, trained: bool) -> float:
        """Return the peak learning rate that is asked for, or else the one that suits fresh or trained weights."""
        if self.learning_rate is not None:
            return self.learning_rate
        return RATES.get(self.optimizer, 0.1) * (0.1 if trained else 1)

    @property
    def study_name(self) -> str:
        """The study's name: the one given, or one made of space, data and backbone."""
        if self.study is not None:
            return self.study
        # One that was declared in Python has no name; two of them shall not share a study.
        digest = hashlib.sha256(repr(self.space).encode()).hexdigest()
        stem = Path(self.space).stem if isinstance(self.space, str) else f"space-{digest[:6]}"
        parts = [stem, Path(self.data).name or "data", *([self.backbone] if self.backbone else [])]
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


def declared_space(settings: Settings) -> space.SearchSpace:
    """Return the space that is asked for, with the settings' own backbone and init in place of its."""
    declared = space.load(settings.space) if isinstance(settings.space, str) else settings.space
    if settings.backbone is not None:
        declared = dataclasses.replace(declared, backbones=(settings.backbone,))
    init = settings.init or ("identity" if settings.is_trained else declared.init)
    declared = dataclasses.replace(declared, init=init, positions=settings.positions or declared.positions)
    if settings.max_blocks is not None:
        declared = dataclasses.replace(declared, max_blocks=settings.max_blocks)
    if len(declared.backbones) > 1:  # the front and the answer compare with one bare backbone
        raise ValueError(
            f"a search takes one backbone, but the space has {', '.join(declared.backbones)}; run one each"
        )
    return declared


def made_for_data(settings: Settings, backbone: str, splits: Splits) -> dict[str, Any]:
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
    timed: torch.device | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    weights: Weights | None = None,
) -> Protocol:
    """Return the protocol of a search: the settings, and where they are silent what suits the data and the device."""
    from nas import evaluate
    from nas.latency import device_words, runtime_software

    embedded = settings.data == "digits"
    precision = _given(settings.precision, "bfloat16" if _has_bfloat16(device) else "float32")
    as_trained = (timed is None or timed == device) and settings.runtime != "onnxruntime"
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
        learning_rate=settings.usual_rate(trained=settings.is_trained),
        weight_decay=settings.weight_decay,
        label_smoothing=settings.label_smoothing,
        augmentation=_given(settings.augmentation, "shift" if is_writing(settings.data) else "shift+flip"),
        mirror_validation=settings.mirror_validation,
        average_epochs=settings.average_epochs,
        compile=settings.compile,
        precision=precision,
        channels_last=device.type in ("cpu", "cuda"),  # quicker on both for nearly every convolutional backbone
        seed=settings.seed,
        device=device_words(device),
        latency_batch_size=settings.latency_batch_size,
        latency_seconds=settings.latency_seconds,
        latency_resolution=_given(settings.latency_resolution, splits.resolution),
        latency_device=device_words(timed or device),
        latency_precision=_given(settings.latency_precision, precision if as_trained else "float32"),
        latency_runtime=settings.runtime,
        latency_software=runtime_software(settings.runtime),
        software=evaluate.software(),
        model_kwargs=model_kwargs or {},
        weights=weights.words if weights is not None else "",
        freeze_backbone=settings.freeze_backbone
        and weights is not None,  # what is to be trained first is not frozen yet
        block_lr_factor=settings.block_lr_factor,
    )


def is_writing(data: str) -> bool:
    """Tell whether a data set, by its name, would mean something else or nothing in the mirror: digits, characters."""
    _, slash, name = data.lower().rstrip("/").rpartition("/")
    return data == "digits" or (bool(slash) and any(word in name for word in _WRITING) and "fashion" not in name)


def _given(value: T | None, default: T) -> T:
    return default if value is None else value


def _has_bfloat16(device: torch.device) -> bool:
    """Tell whether a device computes in bfloat16 itself. Older GPUs emulate it, and a CPU is rarely quicker with it."""
    import torch

    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
