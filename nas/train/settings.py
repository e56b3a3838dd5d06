"""What a full training is asked for, and the recipe that follows from it and from the protocol of the search."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.protocol import PRECISIONS, Protocol
from nas.seeds import MOST_SEEDS, full_seeds

EPOCHS_FACTOR = 10
"""Epochs of a full training over those of the proxy, where nothing else is asked for."""
CROP = 0.6
"""Least share of an image's area that a random crop keeps, where the protocol shifts its images.

timm's own 0.08 is meant for photographs of 224 pixels; of 32 it leaves 9 x 9.
"""
ERASED = 0.25
"""Probability of random erasing where the protocol cuts squares out."""
SCHEDULES = ("cosine", "tanh", "poly", "step")
AMP = ("auto", *PRECISIONS, "float16")
SELECT = ("last", "best")


class TrainingFailed(Exception):  # noqa: N818 - as RunFailed: it is the training that failed
    """A training cannot go on; the message names the epoch, or what would have to be smaller."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a full training is asked for; None stands for what follows from the protocol of the search."""

    epochs: int | None = None
    """Passes over the training images; by default :data:`EPOCHS_FACTOR` times the proxy's."""
    batch: int | None = None
    """Images in one step, over all processes; by default as in the search."""
    opt: str | None = None
    """One of timm's optimisers; by default as in the search."""
    lr: float | None = None
    """Peak learning rate; by default as in the search, or what suits another optimiser, start or freezing."""
    block_lr_factor: float | None = None
    """Learning rate of the blocks over that of the rest; by default as in the search."""
    layer_decay: float | None = None
    """Factor on the learning rate from each layer to the one before it; None for none."""
    weight_decay: float | None = None
    """By default as in the search."""
    sched: str = "cosine"
    """One of :data:`SCHEDULES`."""
    warmup: int | None = None
    """Epochs in which the learning rate rises; by default a tenth of all, 5 at most."""
    clip_grad: float | None = None
    """Largest norm of the gradient; None for no bound."""
    smoothing: float | None = None
    """Label smoothing; by default as in the search."""
    crop: float | None = None
    """Least share of an image's area that a random crop keeps, 1 for no crops; by default :data:`CROP` or 1."""
    hflip: float | None = None
    """Probability of mirroring; by default 0.5 if the search mirrored, else 0."""
    color_jitter: float = 0.0
    """Largest change of brightness, contrast and saturation, as a share."""
    aa: str | None = None
    """timm's words for automatic augmentation, such as ``rand-m9-mstd0.5-inc1``."""
    reprob: float | None = None
    """Probability of random erasing; by default :data:`ERASED` if the search cut out, else 0."""
    mixup: float = 0.0
    """Alpha of mixup, 0 for none."""
    cutmix: float = 0.0
    """Alpha of CutMix, 0 for none."""
    ema: float = 0.0
    """Decay of the moving average of the weights, which is then what is tested; 0 for none."""
    amp: str = "auto"
    """One of :data:`AMP`; ``auto`` is the precision of the search on a GPU and float32 elsewhere."""
    workers: int | None = None
    """Processes that load images; by default 4 beside a GPU, else none."""
    seed: int | None = None
    """First seed; by default one that no search uses."""
    seeds: int = 1
    """Trainings, with successive seeds."""
    baseline: bool = False
    """Whether the bare backbone is trained alike, and compared."""
    select: str = "last"
    """Whether the weights of the last epoch are tested, or those of the epoch that is best on val."""
    with_val: bool = False
    """Whether the validation images are trained on, too."""
    data: str | None = None
    """Where the data lie, if that does not follow from their name."""
    limit: int | None = None
    """Largest number of images, as the search had it."""
    other_data: bool = False
    """Whether the data may be others than those of the search."""
    pretrained: bool = False
    """Start from timm's weights."""
    checkpoint: str | None = None
    """Start from the weights in this file."""
    fresh: bool = False
    """Start from fresh weights."""
    device: str = "auto"
    """``auto``, ``cuda``, ``cuda:1``, ``mps`` or ``cpu``."""
    out: str | None = None
    """Folder to write, weights too; by default beside the config, or in its folder, which then gets the weights."""

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch", 2), ("warmup", 0), ("workers", 0), ("seeds", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, but got {value}")
        if self.warmup is not None and self.epochs is not None and self.warmup >= self.epochs:
            raise ValueError(f"warmup must be below the {counted(self.epochs, 'epoch')}, but got {self.warmup}")
        if self.seeds > MOST_SEEDS or (self.seed or 0) + self.seeds > 2**32:
            raise ValueError(f"seeds must be {MOST_SEEDS} at most and below 2**32, but got {self.seeds} of them")
        for name in ("lr", "block_lr_factor", "clip_grad"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, but got {value}")
        for name in ("weight_decay", "color_jitter", "mixup", "cutmix"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, but got {value}")
        self._check_shares()
        if sum((self.pretrained, self.checkpoint is not None, self.fresh)) > 1:
            raise ValueError("give one of pretrained, checkpoint and fresh: a training starts from one of them")
        if self.with_val and self.select == "best":
            raise ValueError("the best epoch on val cannot be chosen (select) if val is trained on (with_val)")

    def _check_shares(self) -> None:
        for name in ("crop", "hflip", "reprob", "layer_decay"):
            value, above = getattr(self, name), name in ("crop", "layer_decay")
            if value is not None and not (0 <= value <= 1 and (value > 0 or not above)):
                raise ValueError(f"{name} must be {'above' if above else 'at least'} 0 and at most 1, but got {value}")
        for name in ("smoothing", "ema"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, but got {value}")
        for name, choices in (("sched", SCHEDULES), ("amp", AMP), ("select", SELECT)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, but got {getattr(self, name)!r}")

    def all_seeds(self, protocol: Protocol) -> list[int]:
        """Return the seed of each training: by default none that the search used."""
        if self.seed is None:
            return full_seeds(protocol, self.seeds)
        return [self.seed + k for k in range(self.seeds)]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All numbers of a training besides its seed: settings without gaps. Units as in :class:`Settings`."""

    epochs: int
    batch: int
    opt: str
    lr: float
    block_lr_factor: float
    layer_decay: float | None
    weight_decay: float
    sched: str
    warmup: int
    clip_grad: float | None
    smoothing: float
    crop: float
    hflip: float
    color_jitter: float
    aa: str | None
    reprob: float
    mixup: float
    cutmix: float
    ema: float
    amp: str
    workers: int
    with_val: bool

    @property
    def mixes(self) -> bool:
        """Whether images are mixed, which makes their labels soft."""
        return self.mixup > 0 or self.cutmix > 0


@dataclass(frozen=True, kw_only=True)
class Start:
    """The weights from which a training starts."""

    kind: str
    """``fresh``, ``timm`` or ``file``."""
    file: str | None = None
    """The file, for that kind."""
    as_found: bool = True
    """Whether the trainings of the search started there, too, or their warm start did."""


def start_of(protocol: Protocol, settings: Settings) -> Start:
    """Return where a training starts: as asked for, else where the search, or its warm start, began.

    Raises:
        ValueError: If that was a file, which has to be named.
    """
    origin = protocol.weights
    if protocol.warm_epochs:
        origin = origin.partition(", from ")[2]
    kind = "fresh" if not origin else "timm" if origin.startswith("timm's ") else "file"
    if settings.fresh:
        return Start(kind="fresh", as_found=kind == "fresh")
    if settings.pretrained:
        return Start(kind="timm", as_found=kind == "timm")
    if settings.checkpoint is not None:
        return Start(kind="file", file=settings.checkpoint, as_found=kind == "file")
    if kind == "file":
        raise ValueError(f"the search started from {origin}: say with --checkpoint where it lies, or give --fresh")
    return Start(kind=kind)


def recipe_of(protocol: Protocol, settings: Settings, start: Start, device_type: str) -> Recipe:
    """Return the recipe: what is asked for, and where that is silent what the search did.

    Args:
        protocol: That of the search.
        settings: What is asked for.
        start: Where the training starts.
        device_type: ``cuda``, ``mps`` or ``cpu``.

    Raises:
        ValueError: If a learning rate is needed that the search cannot tell, or the device lacks the precision.
    """
    kinds = protocol.augmentations
    epochs = settings.epochs or EPOCHS_FACTOR * protocol.epochs
    amp = settings.amp
    if amp == "auto":
        amp = protocol.precision if device_type == "cuda" else "float32"
    if amp == "float16" and device_type != "cuda":
        raise ValueError(f"amp float16 needs cuda, but the device is {device_type}; bfloat16 runs there")
    warmup = _given(settings.warmup, min(5, epochs // 10))
    if warmup >= epochs:
        raise ValueError(f"warmup must be below the {counted(epochs, 'epoch')}, but got {warmup}")
    kept = {field.name for field in dataclasses.fields(Recipe)} & {f.name for f in dataclasses.fields(Settings)}
    found: dict[str, Any] = {name: getattr(settings, name) for name in kept}
    found |= {"epochs": epochs, "amp": amp, "warmup": warmup}
    found |= {"opt": settings.opt or protocol.optimizer, "lr": _rate(protocol, settings, start)}
    found |= {
        "batch": _given(settings.batch, protocol.batch_size),
        "block_lr_factor": _given(settings.block_lr_factor, protocol.block_lr_factor),
        "weight_decay": _given(settings.weight_decay, protocol.weight_decay),
        "smoothing": _given(settings.smoothing, protocol.label_smoothing),
        "crop": _given(settings.crop, CROP if "shift" in kinds else 1.0),
        "hflip": _given(settings.hflip, 0.5 if "flip" in kinds else 0.0),
        "reprob": _given(settings.reprob, ERASED if "cutout" in kinds else 0.0),
        "workers": _given(settings.workers, 4 if device_type == "cuda" else 0),
    }
    recipe = Recipe(**found)
    if recipe.mixes and recipe.batch % 2:
        raise ValueError(f"mixup and cutmix mix pairs: batch must be even, but got {recipe.batch}")
    return recipe


def _rate(protocol: Protocol, settings: Settings, start: Start) -> float:
    """Return the peak learning rate."""
    if settings.lr is not None:
        return settings.lr
    opt = settings.opt or protocol.optimizer
    for_blocks_only = protocol.freeze_backbone and not protocol.warm_epochs  # here the whole network is trained
    if opt == protocol.optimizer and start.as_found and not for_blocks_only:
        # Trials that begin at a warm start take a lower rate than the training that this one is like.
        return protocol.warm_learning_rate or protocol.learning_rate
    from nas.settings import RATES  # a heavy module, which the flags do not need

    if opt not in RATES:
        raise ValueError(f"no learning rate is known to suit {opt}: give lr")
    return RATES[opt] * (1 if start.kind == "fresh" else 0.1)


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun, such as ``1 epoch`` or ``2 epochs``."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value


def folder_of(config: Path, settings: Settings) -> Path:
    """Return where a training writes: the folder asked for, else ``train`` in an export folder or beside a file."""
    if settings.out is not None:
        if not settings.out:
            raise ValueError("the folder to write (out) needs a name; . is this one")
        return Path(settings.out)
    return config / "train" if config.is_dir() else config.with_name(f"{config.stem}-train")
