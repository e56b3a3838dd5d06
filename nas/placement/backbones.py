"""timm's backbones by name, with fresh weights or with those of a checkpoint. The only file that makes timm models."""

from __future__ import annotations

import difflib
import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import load_state_dict
from torch import Tensor, nn

from nas.packed import check_unpacked
from nas.placement.probe import BackboneError, config_of, names_in
from nas.shadow import without_data

RESERVED = (
    *("num_classes", "in_chans", "pretrained", "features_only", "checkpoint_path", "pretrained_cfg", "scriptable"),
    *("pretrained_cfg_overlay", "cache_dir"),
)
"""Arguments of timm's factories that this program sets itself, or whose models would be no classifiers."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Trained weights for a backbone."""

    words: str
    """Where they come from: timm's tag, or a file's name and the hash of its content."""
    tensors: Mapping[str, Tensor]
    """The tensors by their names in the backbone, without a classifier for other classes."""
    total: int
    """Tensors that the backbone has, its classifier included."""

    def describe(self) -> str:
        """Return in one line how much of the backbone they cover."""
        rest = self.total - len(self.tensors)
        fresh = f"; the classifier's {rest} start fresh" if rest else ""
        return f"{self.words}: {len(self.tensors)} of {self.total} tensors of the backbone{fresh}"

    def load(self, model: nn.Module) -> None:
        """Load them into a backbone, in place; it may have blocks, unless they replace attention of its own.

        Raises:
            BackboneError: If the model has no place for one of them.
        """
        known = model.state_dict()
        for name, tensor in self.tensors.items():
            if name not in known or known[name].shape != tensor.shape:
                raise BackboneError(f"{self.words} has {name}, for which {type(model).__name__} has no place")
        model.load_state_dict(dict(self.tensors), strict=False)


def create(
    backbone: str,
    *,
    num_classes: int | None,
    in_channels: int = 3,
    model_kwargs: Mapping[str, Any] | None = None,
    device: str | torch.device = "cpu",
) -> nn.Module:
    """Build a bare backbone with fresh weights.

    Args:
        backbone: timm name.
        num_classes: Classes of the head; None for timm's own number.
        in_channels: Channels of the images.
        model_kwargs: Further arguments of timm's factory, such as ``drop_path_rate`` or ``img_size``.
        device: Where its tensors are; on ``meta`` they have shapes and no data.

    Raises:
        BackboneError: If timm does not know the name, with the nearest names, or cannot build it with these arguments.
    """
    check_name(backbone)
    given = dict(model_kwargs or {})
    for name in RESERVED:
        if name in given:
            raise BackboneError(f"the model argument {name} follows from the data and the flags and cannot be given")
    classes = {} if num_classes is None else {"num_classes": num_classes}
    try:
        return _made(backbone, torch.device(device), {"in_chans": in_channels, **classes, **given})
    except Exception as error:  # timm's factories raise whatever their arguments meet
        reason = f"{type(error).__name__}: {error}"
        words = "".join(f", {name}={value!r}" for name, value in given.items())
        raise BackboneError(
            f"timm cannot build {backbone} for {in_channels}-channel images{words}: {reason}"
        ) from error


def _made(backbone: str, device: torch.device, arguments: dict[str, Any]) -> nn.Module:
    try:
        with torch.device(device):
            model: nn.Module = timm.create_model(backbone, **arguments)
    except RuntimeError:
        if device.type != "meta":
            raise
        # Transformers of older timms look at numbers while they are made; there numbers have no value.
        return without_data(_made(backbone, torch.device("cpu"), arguments))
    return model


def fit_kwargs(
    backbone: str,
    *,
    num_classes: int,
    in_channels: int,
    resolution: int,
    model_kwargs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the arguments with which a backbone runs on square images of some size.

    Where it does not run on them as timm makes it, it is made for them, with timm's ``img_size``.

    Args:
        backbone: timm name.
        num_classes: Classes of the head.
        in_channels: Channels of the images.
        resolution: Height and width of the images, in pixels.
        model_kwargs: The arguments that are given.

    Raises:
        BackboneError: As :func:`create`, and if it does not run on such images either way.
    """
    given = dict(model_kwargs or {})
    sized = {**given, "img_size": resolution}
    reason = _reason_not_to_run(backbone, num_classes, in_channels, resolution, given)
    if reason is None:
        return given
    if "img_size" not in given:
        try:
            if _reason_not_to_run(backbone, num_classes, in_channels, resolution, sized) is None:
                return sized
        except BackboneError:
            pass  # it takes no such argument: the first reason stands
    raise BackboneError(f"{backbone} does not run on images of {in_channels} x {resolution} x {resolution}: {reason}")


def _reason_not_to_run(
    backbone: str, num_classes: int, in_channels: int, resolution: int, model_kwargs: Mapping[str, Any]
) -> str | None:
    """Return why a backbone does not run on images of a size, or None if it does; found without computing."""
    model = create(backbone, num_classes=num_classes, in_channels=in_channels, model_kwargs=model_kwargs, device="meta")
    try:
        with torch.no_grad():
            model.eval()(torch.empty(2, in_channels, resolution, resolution, device="meta"))
    except Exception as error:  # a model may raise anything on a size that it was not made for
        lines = str(error).splitlines()
        return f"{type(error).__name__}: {lines[0] if lines else ''}"
    return None


def check_name(backbone: str) -> None:
    """Raise unless timm knows the backbone.

    Raises:
        BackboneError: With the nearest names that timm knows.
    """
    name = backbone.removeprefix("timm/").split(".")[0]
    if timm.is_model(name) and (name == backbone or backbone in timm.list_models(f"{name}.*", pretrained=True)):
        return
    known = timm.list_models() if not timm.is_model(name) else [name, *timm.list_models(f"{name}.*", pretrained=True)]
    close = (
        difflib.get_close_matches(backbone, known, n=3, cutoff=0.5) or [name for name in known if backbone in name][:3]
    )
    hint = f"; the nearest: {', '.join(close)}" if close else "; timm.list_models() lists what there is"
    raise BackboneError(f"timm knows no backbone {backbone!r}{hint}")


def pretrained(
    backbone: str,
    *,
    num_classes: int,
    in_channels: int = 3,
    model_kwargs: Mapping[str, Any] | None = None,
    checkpoint: str | Path | None = None,
) -> Weights:
    """Return trained weights for a backbone: timm's own, or those of a file.

    timm does the loading, with all that it knows of the architecture: older names of tensors, position embeddings for
    other image sizes, first convolutions for other channels, another classifier. A file is only read, never executed.

    Args:
        backbone: timm name; with a tag, the weights of that tag.
        num_classes: Classes of the head. Where the weights are for others, the classifier is left out of them.
        in_channels: Channels of the images.
        model_kwargs: As for :func:`create`.
        checkpoint: A file (.safetensors, or .pth with nothing but tensors) instead of timm's weights.

    Raises:
        BackboneError: If there are no such weights, or they do not cover the backbone.
    """
    bare = create(backbone, num_classes=num_classes, in_channels=in_channels, model_kwargs=model_kwargs)
    # With the classes that the weights are for: with others timm does not mind what is missing.
    arguments: dict[str, Any] = {**(model_kwargs or {}), "in_chans": in_channels}
    words = f"timm's {backbone}"
    if checkpoint is not None:
        path = Path(checkpoint)
        found = _read(path)
        made_for = _made_for(config_of(bare), found)
        words = f"{path.name} ({_hash(path)})"
        # The tensors, not the file: some versions of timm read files with leave to execute what is in them.
        overlay = {"state_dict": dict(found), **made_for}
        arguments |= {"num_classes": made_for["num_classes"], "pretrained_cfg_overlay": overlay}
    try:
        loaded: nn.Module = timm.create_model(backbone, pretrained=True, **arguments)
    except Exception as error:  # no network, no such tag, tensors of other names or shapes: timm raises many kinds
        raise BackboneError(f"{words} does not load into {backbone}: {' '.join(str(error).split())[:400]}") from error
    expected, given = bare.state_dict(), loaded.state_dict()
    kept = {name: tensor for name, tensor in given.items() if name in expected and expected[name].shape == tensor.shape}
    heads = tuple(f"{name}." for name in names_in(config_of(bare).get("classifier")))
    lost = [name for name in expected if name not in kept and not (heads and name.startswith(heads))]
    if lost:
        raise BackboneError(f"{words} does not cover {backbone}: {len(lost)} tensors are missing, such as {lost[0]}")
    return Weights(words=words, tensors=kept, total=len(expected))


def classifiers(model: nn.Module) -> list[nn.Module]:
    """Return the layers of a backbone that depend on the classes; some have one for each distillation."""
    names = names_in(config_of(model).get("classifier"))
    known = dict(model.named_modules())
    return [known[name] for name in names if name in known]


def _read(path: Path) -> Mapping[str, Tensor]:
    """Read a checkpoint without executing anything in it."""
    if not path.is_file():
        raise BackboneError(f"there is no checkpoint {str(path)[:200]}")
    try:
        check_unpacked(path)
    except ValueError as error:
        raise BackboneError(str(error)) from error
    try:
        found: Mapping[str, Tensor] = load_state_dict(str(path), weights_only=True)
    except Exception as error:  # the readers raise what their formats meet
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
            raise BackboneError(
                f"{path} holds more than tensors, and reading it could run code; save the model's state_dict() instead"
            ) from error
        raise BackboneError(f"{path} is no checkpoint of torch or safetensors: {type(error).__name__}") from error
    return found


def _made_for(config: Mapping[str, Any], found: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return for how many classes and image channels a file's tensors were made, in the terms of timm's configs."""
    known: dict[str, Any] = {"num_classes": 0}
    for name in names_in(config.get("classifier")):
        weight = found.get(f"{name}.weight")
        if isinstance(weight, Tensor):
            known["num_classes"] = weight.shape[0]
    for name in names_in(config.get("first_conv")):
        weight = found.get(f"{name}.weight")
        if isinstance(weight, Tensor) and weight.dim() == 4:
            known["input_size"] = (weight.shape[1], *config.get("input_size", (3, 224, 224))[1:])
    return known


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for part in iter(lambda: file.read(1 << 20), b""):
            digest.update(part)
    return f"sha256 {digest.hexdigest()[:12]}"
