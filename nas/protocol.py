"""The protocol of an evaluation: everything besides the architecture that could change what is measured."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nas.strict_json import short

OPTIMIZERS = ("sgd", "adamw")
PRECISIONS = ("float32", "bfloat16")
RUNTIMES = ("eager", "compile", "onnxruntime")
AUGMENTATIONS = ("none", "shift", "shift+flip", "shift+flip+cutout")
Scalar = bool | int | float | str | None
ModelValue = Scalar | list[Scalar]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Everything besides the architecture that could change an evaluation; fixed per study.

    Two evaluations may be compared, and one may answer for the other, exactly when their protocols are equal.
    """

    data: str
    """Name of the data set as it was given: ``digits``, a folder's name or a timm dataset name."""
    data_hash: str
    """Hash of the decoded images, labels and split indices."""
    split_seed: int
    """Seed of the train / val / test cut."""
    num_classes: int
    """Number of classes."""
    channels: int
    """Channels of an input image: 1 or 3."""
    resolution: int
    """Height and width of an input image, in pixels."""
    epochs: int
    """Epochs of the proxy training."""
    batch_size: int
    """Images in one training step."""
    optimizer: str = "sgd"
    """``sgd`` (Nesterov momentum 0.9) or ``adamw``."""
    learning_rate: float = 0.1
    """Peak learning rate of the one-cycle schedule."""
    weight_decay: float = 5e-4
    """Weight decay of matrices and convolutions; scales and biases, also those with sides of length 1, have none."""
    label_smoothing: float = 0.1
    """Label smoothing of the training loss."""
    augmentation: str = "shift"
    """``none``, ``shift`` (random crop of the padded image), ``shift+flip`` (and random mirroring) or
    ``shift+flip+cutout`` (and a random square blanked)."""
    calibration_images: int = 512
    """Training images from which batch normalisation's running statistics are re-estimated before each validation."""
    mirror_validation: bool = False
    """Whether validation sums the logits of each image and of its mirror image."""
    average_epochs: int = 1
    """Epochs whose last weights are averaged into those that the training ends with; 1 keeps the very last."""
    compile: bool = False
    """Whether the forward pass of the training is compiled."""
    precision: str = "float32"
    """``float32``, or ``bfloat16`` for autocast."""
    channels_last: bool = False
    """Whether training and timing use the channels-last memory format."""
    seed: int = 0
    """Seed of the weights, the batch order and the augmentation."""
    device: str = "cpu"
    """The device that trains, in words that tell machines apart."""
    latency_batch_size: int = 1
    """Images in one timed forward pass."""
    latency_seconds: float = 2.0
    """Longest sampling of one latency, in seconds: the longer, the narrower its interval."""
    latency_resolution: int | None = None
    """Height and width of the images that are timed, in pixels; None for those that are trained on."""
    latency_device: str = ""
    """The device that is timed, in words; empty for the one that trains."""
    latency_precision: str | None = None
    """``float32`` or ``bfloat16`` for what is timed; None for the precision of the training."""
    latency_runtime: str = "eager"
    """What runs the models that are timed: ``eager``, ``compile`` (torch.compile) or ``onnxruntime``."""
    latency_software: str = ""
    """Version of the runtime that times, where it is not torch."""
    software: str = ""
    """Versions of torch and timm."""
    model_kwargs: Mapping[str, ModelValue] = field(default_factory=dict)
    """Arguments of timm's factory beyond classes and channels, such as ``drop_path_rate``."""
    weights: str = ""
    """Where the backbone's trained weights come from, with a hash if from a file; empty for fresh ones."""
    freeze_backbone: bool = False
    """Whether only the blocks and the classifier are trained."""
    warm_epochs: int = 0
    """Epochs for which the bare backbone was trained, once, to give these weights; 0 if it was not."""
    warm_learning_rate: float = 0.0
    """Peak learning rate of that training; 0 if there was none."""
    block_lr_factor: float = 1.0
    """Learning rate of the blocks over that of the backbone."""

    def __post_init__(self) -> None:
        choices_of = {"optimizer": OPTIMIZERS, "precision": PRECISIONS, "augmentation": AUGMENTATIONS}
        choices_of |= {"latency_runtime": RUNTIMES}
        choices_of |= {"latency_precision": PRECISIONS} if self.latency_precision is not None else {}
        for name, choices in choices_of.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, but got {getattr(self, name)!r}")
        for name in ("num_classes", "channels", "resolution", "epochs", "batch_size", "latency_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, but got {getattr(self, name)}")
        if self.latency_resolution is not None and self.latency_resolution < 1:
            raise ValueError(f"latency_resolution must be at least 1, but got {self.latency_resolution}")
        if self.num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, but got {self.num_classes}")
        if self.batch_size < 2:
            raise ValueError(f"batch_size must be at least 2, as batch normalisation needs, but got {self.batch_size}")
        if not 1 <= self.average_epochs <= self.epochs:
            raise ValueError(f"average_epochs must be 1 to epochs, {self.epochs}, but got {self.average_epochs}")
        if self.mirror_validation and "flip" not in self.augmentations:
            raise ValueError(
                f"mirror_validation takes an augmentation that mirrors, as shift+flip, but got {self.augmentation!r}"
            )
        for name in ("learning_rate", "latency_seconds", "block_lr_factor"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, but got {getattr(self, name)}")
        for name in ("weight_decay", "calibration_images", "warm_epochs", "warm_learning_rate"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, but got {getattr(self, name)}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be at least 0 and below 1, but got {self.label_smoothing}")
        if self.freeze_backbone and not self.weights:
            raise ValueError("a backbone is only frozen with trained weights; fresh ones have to be trained")
        if self.warm_epochs and not self.weights:
            raise ValueError(f"{self.warm_epochs} warm epochs give trained weights, but the protocol names none")
        object.__setattr__(self, "model_kwargs", _checked_kwargs(self.model_kwargs))

    @property
    def augmentations(self) -> tuple[str, ...]:
        """The kinds of the augmentation: some of ``shift``, ``flip`` and ``cutout``."""
        return tuple(kind for kind in self.augmentation.split("+") if kind != "none")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary of JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Protocol:
        """Read back what :meth:`to_dict` wrote.

        Raises:
            ValueError: If a field is unknown or missing, or its value of another kind.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(fields) - known)
        if unknown:
            raise ValueError(f"unknown protocol field {short(unknown[0])}; known: {', '.join(sorted(known))}")
        for name, value in fields.items():
            _check_kind(name, value, str(cls.__dataclass_fields__[name].type))
        try:
            return cls(**fields)
        except TypeError as error:
            raise ValueError(f"not a protocol: {error}") from error

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that two protocols share exactly when they are equal."""
        return _hash(self.to_dict())

    @property
    def latency_hash(self) -> str:
        """Sixteen hexadecimal digits that two protocols share exactly when they time the same networks alike."""
        timed = {name: value for name, value in self.to_dict().items() if name in _TIMED or name.startswith("latency_")}
        timed |= {"latency_resolution": self.latency_resolution or self.resolution}
        timed |= {"latency_device": self.latency_device or self.device}
        return _hash({**timed, "latency_precision": self.latency_precision or self.precision})

    @property
    def training_hash(self) -> str:
        """Sixteen hexadecimal digits that two protocols share exactly when they train the same networks alike."""
        return _hash(self._trained())

    @property
    def family_hash(self) -> str:
        """Sixteen hexadecimal digits that protocols share exactly if their trainings differ in seed and epochs only."""
        return _hash({**self._trained(), "seed": 0, "epochs": 1})

    def _trained(self) -> dict[str, Any]:
        """Return the fields on which a training depends."""
        return {name: value for name, value in self.to_dict().items() if not name.startswith("latency_")}


_TIMED = ("num_classes", "channels", "model_kwargs", "channels_last", "seed", "software")
"""Fields, besides those that begin with ``latency_``, on which a latency depends."""


def _hash(fields: dict[str, Any]) -> str:
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


_KINDS: Mapping[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}


def _check_kind(name: str, value: object, annotation: str) -> None:
    """Raise unless a value is of the kind that a field is annotated with; what is checked elsewhere passes."""
    kinds = annotation.split(" | ")
    if kinds[0] not in _KINDS or (value is None and "None" in kinds):
        return
    if not isinstance(value, _KINDS[kinds[0]]) or (isinstance(value, bool) and kinds[0] != "bool"):
        raise ValueError(f"{name} must be {annotation}, but got {short(value)}")


def _is_json(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, (bool, int, str))


def _checked_kwargs(given: object) -> dict[str, ModelValue]:
    """Return model arguments in one order, or raise on what JSON could not keep."""
    if not isinstance(given, Mapping):
        raise ValueError(f"model_kwargs must map names to values, but got {given!r}")
    for name, value in given.items():
        scalars = value if isinstance(value, (list, tuple)) else (value,)
        if not isinstance(name, str) or not all(map(_is_json, scalars)):
            raise ValueError(f"model_kwargs must be numbers, words or lists of them, but {name!r} is {value!r}")
    return {name: list(value) if isinstance(value, tuple) else value for name, value in sorted(given.items())}
