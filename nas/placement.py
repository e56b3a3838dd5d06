"""Put attention blocks into timm backbones, and take them out again. The only file that makes timm models.

A block becomes a child module of the place where it stands, and one stateless forward hook there runs it. So the
backbone keeps its own parameter names, deep copies and pickles run their own blocks, and nothing is wrapped. Where a
stage can hold its block is found by running a copy of the backbone on the meta device, which computes shapes and no
numbers.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import nn

from nas import attention
from nas.architecture import Architecture, Placement, Stage
from nas.shadow import without_data

CHILD_PREFIX = "attention_"
"""Blocks are registered under this prefix and the number of their stage."""


class BackboneError(ValueError):
    """A backbone is unknown, or blocks cannot be placed in it; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Insertion:
    """What :func:`insert` changed at one stage."""

    stage: Stage
    """The stage."""
    placement: Placement
    """The placement, with its effective options."""
    path: str
    """Path of the block's module in the model."""
    parameters: int
    """Parameters that the block added."""


def create(backbone: str, *, num_classes: int, in_channels: int = 3) -> nn.Module:
    """Build a bare backbone with fresh weights.

    Raises:
        BackboneError: If timm does not know the name, with the nearest names, or cannot build it with these arguments.
    """
    check_name(backbone)
    try:
        model: nn.Module = timm.create_model(backbone, num_classes=num_classes, in_chans=in_channels)
    except Exception as error:  # timm's factories raise whatever their arguments meet
        reason = f"{type(error).__name__}: {error}"
        raise BackboneError(f"timm cannot build {backbone} for {in_channels}-channel images: {reason}") from error
    return model


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


def stages(model: nn.Module) -> tuple[Stage, ...]:
    """Return the stages of a timm backbone, numbered as its ``feature_info`` numbers them.

    Raises:
        BackboneError: If the model is not a timm classifier with ``feature_info``, or a stage's output is no NCHW map.
    """
    return _Probe(model).stages()


def map_shapes(model: nn.Module, images: torch.Tensor) -> dict[int, torch.Size]:
    """Run a backbone on a batch and return the shape of the map that each stage puts out.

    Args:
        model: A timm backbone.
        images: (B, C, H, W), on the model's device.

    Raises:
        BackboneError: As :func:`stages`, and if the backbone cannot run on images of that size.
    """
    declared = _feature_info(model)
    training = model.training
    outputs = _record(model.eval(), images, [info["module"] for info in declared])
    model.train(training)
    return {index: outputs[info["module"]][-1].shape for index, info in enumerate(declared)}


def build(architecture: Architecture, *, num_classes: int, in_channels: int = 3) -> nn.Module:
    """Build an architecture with fresh weights: its backbone, and its blocks inserted.

    The backbone's weights are drawn first, so that under one seed every architecture starts from the same backbone.

    Raises:
        BackboneError: As :func:`create` and :func:`stages`.
        ValueError: As :func:`insert`.
    """
    model = create(architecture.backbone, num_classes=num_classes, in_channels=in_channels)
    insert(model, architecture)
    return model


def insert(model: nn.Module, architecture: Architecture) -> tuple[Insertion, ...]:
    """Insert the blocks of an architecture into its backbone, in place.

    The blocks follow the model's device, type, memory format and training mode. The backbone's own parameters keep
    their names.

    Args:
        model: The bare backbone, as timm made it.
        architecture: What to insert; its backbone must be the model's.

    Returns:
        What was changed, stage by stage.

    Raises:
        BackboneError: If blocks cannot be placed in the model.
        ValueError: If the model has blocks already, is another backbone, or a placement is impossible in it.
    """
    made = (getattr(model, "default_cfg", None) or {}).get("architecture")
    wanted = architecture.backbone.removeprefix("timm/").split(".")[0]
    if made is not None and made != wanted:
        raise ValueError(f"the architecture is for {wanted}, but the model is {made}")
    if next(_inserted(model), None) is not None:
        raise ValueError("the model has blocks already; nas.placement.remove(model) takes them out")
    if not architecture.placements:
        return ()
    probe = _Probe(model)
    canonical = architecture.canonical(probe.stages())
    reference = next(model.parameters())
    last = any(_is_channels_last(parameter) for parameter in model.parameters())
    changed = []
    for placement in canonical.placements:
        stage = probe.stages()[placement.stage]
        block = attention.build(placement.block, stage.channels, init=placement.init, **placement.options)
        block.to(device=reference.device, dtype=reference.dtype).train(model.training)
        if last:
            block.to(memory_format=torch.channels_last)
        host, store = probe.host(stage)
        name = f"{CHILD_PREFIX}{placement.stage}"
        path = ".".join(part for part in (store, name) if part)
        model.get_submodule(f"{host}.{store}" if store else host).add_module(name, block)
        model.get_submodule(host).register_forward_hook(functools.partial(_run_block, path))
        parameters = sum(parameter.numel() for parameter in block.parameters())
        changed.append(Insertion(stage=stage, placement=placement, path=f"{host}.{path}", parameters=parameters))
    return tuple(changed)


def _is_channels_last(weight: torch.Tensor) -> bool:
    # a 1x1 kernel is contiguous in both senses
    return weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()


def remove(model: nn.Module) -> int:
    """Take all inserted blocks out again, in place, and return how many there were."""
    found = list(_inserted(model))
    for host, key, path in found:
        del host._forward_hooks[key]
        parent, _, name = path.rpartition(".")
        delattr(host.get_submodule(parent), name)
    return len(found)


def _run_block(path: str, host: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
    """Forward hook. It keeps no reference to the block, so that a copied model runs the copied block."""
    result: torch.Tensor = host.get_submodule(path)(output)
    return result


def _inserted(model: nn.Module) -> Iterator[tuple[nn.Module, int, str]]:
    """Yield host, hook key and path below the host of every inserted block."""
    for module in model.modules():
        for key, hook in module._forward_hooks.items():
            if isinstance(hook, functools.partial) and hook.func is _run_block:
                yield module, key, hook.args[0]


class _Probe:
    """A backbone's copy on the meta device, which finds where each stage can hold a block."""

    def __init__(self, model: nn.Module) -> None:
        declared = _feature_info(model)
        self._shadow = without_data(model).eval()
        self._image = _meta_image(model)
        self._outputs = _record(self._shadow, self._image, [info["module"] for info in declared])
        self._stages = tuple(
            Stage(index=index, name=info["module"], channels=info["num_chs"], reduction=info["reduction"])
            for index, info in enumerate(declared)
        )
        for stage in self._stages:
            try:
                _check_map(stage, self._outputs[stage.name])
            except BackboneError as error:
                hint = "choose a backbone of convolutions, such as resnet18"
                raise BackboneError(f"{name_of(model)}: {error}; {hint}") from error

    def stages(self) -> tuple[Stage, ...]:
        """Return the stages; their position is their index."""
        return self._stages

    def host(self, stage: Stage) -> tuple[str, str]:
        """Return the path of the module whose output the block replaces, and the path below it that keeps the block.

        timm's gradient checkpointing runs the children of a plain Sequential and not the Sequential itself, so there
        the block goes to the last child. Some stages (RegStage, DenseBlock) run all their children in turn and would
        run an added block once more, so there it is kept in the last child too.
        """
        path, module = stage.name, self._shadow.get_submodule(stage.name)
        while type(module).forward is nn.Sequential.forward and module._modules:
            name = list(module._modules)[-1]
            path, module = f"{path}.{name}", module.get_submodule(name)
        if not _runs_children(self._shadow, self._image, module):
            return path, ""
        name = list(module._modules)[-1]
        outputs = _record(self._shadow, self._image, [path, f"{path}.{name}"])
        if outputs[path][-1] is outputs[f"{path}.{name}"][-1]:
            return f"{path}.{name}", ""
        return path, name


def name_of(model: nn.Module) -> str:
    """Return the timm name of a model, or its class's name."""
    config: dict[str, Any] = getattr(model, "default_cfg", None) or {}
    return str(config.get("architecture") or type(model).__name__)


def _feature_info(model: nn.Module) -> list[dict[str, Any]]:
    info = getattr(model, "feature_info", None)
    if info is None or not hasattr(model, "default_cfg"):
        raise BackboneError(f"a backbone must be a timm classifier with feature_info, but got {type(model).__name__}")
    entries: list[dict[str, Any]] = list(info if isinstance(info, list) else info.info)
    known = dict(model.named_modules())
    for index, entry in enumerate(entries):
        if entry["module"] not in known:
            raise BackboneError(
                f"{name_of(model)}: stage {index} should be {entry['module']!r}, which the classifier does not have; "
                "choose another backbone, such as resnet18"
            )
    return entries


def _meta_image(model: nn.Module) -> torch.Tensor:
    config: dict[str, Any] = model.default_cfg  # type: ignore[assignment]
    channels, height, width = config["input_size"]
    first = config.get("first_conv")
    first = first[0] if isinstance(first, (tuple, list)) and first else first  # parallel branches read the same image
    if isinstance(first, str) and first:
        stem = model.get_submodule(first)
        if isinstance(stem, nn.Conv2d):
            channels = stem.in_channels
    return torch.empty(2, channels, height, width, device="meta")


def _record(shadow: nn.Module, image: torch.Tensor, paths: Sequence[str]) -> dict[str, list[Any]]:
    """Run the shadow once and return what each module put out, call by call."""
    outputs: dict[str, list[Any]] = {path: [] for path in paths}
    handles = [
        shadow.get_submodule(path).register_forward_hook(
            lambda _module, _inputs, output, path=path: outputs[path].append(output)
        )
        for path in outputs
    ]
    try:
        with torch.no_grad():
            shadow(image)
    except Exception as error:  # a model may raise anything on a device that computes no numbers
        size = " x ".join(str(number) for number in image.shape)
        raise BackboneError(
            f"{type(shadow).__name__} does not run on {size}: {type(error).__name__}: {error}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def _check_map(stage: Stage, outputs: list[Any]) -> None:
    where = f"stage {stage.index} ({stage.name})"
    if len(outputs) != 1:
        raise BackboneError(f"{where} must run once in a forward pass, but ran {len(outputs)} times")
    output = outputs[0]
    if not isinstance(output, torch.Tensor):
        raise BackboneError(f"{where} must return one map, but returned {type(output).__name__}")
    if output.ndim != 4 or output.shape[1] != stage.channels:
        shape = tuple(output.shape)
        raise BackboneError(f"{where} must return an NCHW map of {stage.channels} channels, but returned {shape}")


class _ChildRan(Exception):  # noqa: N818 - a signal, not an error
    pass


class _Spy(nn.Module):
    def forward(self, *_inputs: Any) -> None:
        raise _ChildRan


def _runs_children(shadow: nn.Module, image: torch.Tensor, module: nn.Module) -> bool:
    """Tell whether a module would run a child that is added to it."""
    if not module._modules:
        return False
    module.add_module("spy", _Spy())
    try:
        with torch.no_grad():
            shadow(image)
    except _ChildRan:
        return True
    except Exception as error:
        name = type(shadow).__name__
        raise BackboneError(f"{name} cannot be probed: {type(error).__name__}: {error}") from error
    finally:
        del module._modules["spy"]
    return False
