"""Put attention blocks into timm backbones, and take them out again.

Which blocks, built how and in which order, is decided here; :mod:`nas.placement.hosting` lets modules run them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from nas import attention
from nas.architecture import NONE, Architecture, Placement, Stage
from nas.placement.backbones import create
from nas.placement.hosting import HOST_CLASSES, RunsBlocks, Slot, attach, hosted, set_submodule, substitute
from nas.placement.hosts import Host
from nas.placement.plan import Plan, plan_of
from nas.placement.probe import BackboneError, Point, config_of, name_of

CHILD_PREFIX = "attention_"
"""Blocks are registered under this prefix, the number of their stage and, unless they stand after it, the position."""


@dataclass(frozen=True, kw_only=True)
class Insertion:
    """One block that :func:`insert` has put into a model, or one built-in attention that it has taken out."""

    stage: Stage
    """The stage."""
    placement: Placement
    """The placement, with its effective options."""
    path: str
    """Path of the block in the model; of the empty slot where attention was only taken out."""
    channels: int
    """Channels of the map that the block sees."""
    parameters: int
    """Parameters that the block added; negative where more were taken out."""


def insert(model: nn.Module, architecture: Architecture, *, plan: Plan | None = None) -> tuple[Insertion, ...]:
    """Insert the blocks of an architecture into its backbone, in place.

    The blocks follow the model's device, type, memory format and training mode. The backbone's own parameters keep
    their names, except those of attention that is replaced, which are kept aside for :func:`remove`. With
    ``init="identity"`` the output stays the same, bit for bit; at ``replace`` it is that of the backbone without the
    attention that is replaced.

    What rebuilds modules (``SyncBatchNorm.convert_sync_batchnorm``, timm's ``reparameterize_model``) comes first: a
    normalisation that is rebuilt loses the block that it runs.

    Args:
        model: The bare backbone, as timm made it.
        architecture: What to insert; its backbone must be the model's.
        plan: What :func:`plan_of` has found for a model made with the same arguments, to save the time of finding it.

    Returns:
        What was changed, block by block.

    Raises:
        BackboneError: If blocks cannot be placed in the model.
        ValueError: If the model has blocks already, is another backbone, or a placement is impossible in it. The
            model is then as it was.
    """
    made = config_of(model).get("architecture")
    wanted = architecture.backbone.removeprefix("timm/").split(".")[0]
    if made is not None and made != wanted and made != _called_by_timm(wanted):
        raise ValueError(f"the architecture is for {wanted}, but the model is {made}")
    if next(hosted(model), None) is not None or any(isinstance(module, Slot) for module in model.modules()):
        raise ValueError("the model has blocks already; nas.placement.remove(model) takes them out")
    if not architecture.placements:
        return ()
    plan = plan or plan_of(model)
    if plan.backbone != name_of(model):
        raise ValueError(f"the plan is for {plan.backbone}, but the model is {name_of(model)}")
    canonical = architecture.canonical(plan.stages)
    # What is replaced comes first: a branch may end in the module that is replaced.
    placements = sorted(canonical.placements, key=lambda placement: placement.position != "replace")
    try:
        inserter = _Inserter(model, plan)
        changed = [change for placement in placements for change in inserter.insert(placement)]
    except BaseException:
        remove(model)
        raise
    return tuple(sorted(changed, key=lambda change: (change.placement.stage, change.placement.position)))


def _called_by_timm(backbone: str) -> str | None:
    """Return what a model of this name calls itself: timm's vitamin_xlarge_336 calls itself vitamin_xlarge_256."""
    try:
        return config_of(create(backbone, num_classes=None, device="meta")).get("architecture")
    except BackboneError:
        return None


class _Follower:
    """Brings modules to the device, the type and the memory format of a model."""

    def __init__(self, model: nn.Module) -> None:
        self._reference = next(model.parameters())
        self._channels_last = any(_is_channels_last(parameter) for parameter in model.parameters())

    def __call__(self, module: nn.Module) -> nn.Module:
        module.to(device=self._reference.device, dtype=self._reference.dtype)
        return module.to(memory_format=torch.channels_last) if self._channels_last else module


class _Inserter:
    def __init__(self, model: nn.Module, plan: Plan) -> None:
        self._model, self._plan = model, plan
        self._follow = _Follower(model)

    def insert(self, placement: Placement) -> Iterator[Insertion]:
        """Insert one placement, at every point that it means."""
        stage = self._plan.stages[placement.stage]
        for point in self._plan.points[placement.stage, placement.position]:
            block = None if placement.block == NONE else self._block(placement, point.channels)
            path, removed = self._put(block, placement, point)
            added = sum(parameter.numel() for parameter in block.parameters()) if block is not None else 0
            yield Insertion(
                stage=stage, placement=placement, path=path, channels=point.channels, parameters=added - removed
            )

    def _block(self, placement: Placement, channels: int) -> nn.Module:
        block = attention.build(placement.block, channels, init=placement.init, **placement.options)
        return self._follow(block).train(self._model.training)

    def _put(self, block: nn.Module | None, placement: Placement, point: Point) -> tuple[str, int]:
        """Put a block in its place; return its path, and the number of parameters that had to go."""
        name = f"{CHILD_PREFIX}{placement.stage}"
        if placement.position != "after_stage":
            name = f"{name}_{placement.position}"
        if placement.position == "replace":
            removed = sum(parameter.numel() for parameter in self._model.get_submodule(point.path).parameters())
            substitute(self._model, point.path, name, block, point.layout)
            return (f"{point.path}.{name}" if block is not None else point.path), removed
        assert block is not None  # an architecture has none only where it replaces
        is_slot = isinstance(self._model.get_submodule(point.path), Slot)
        host = Host(path=point.path) if is_slot else self._plan.hosts[point.path]
        if point.layout.item:
            name = f"{name}_{'_'.join(str(index) for index in point.layout.item)}"
        path = ".".join(part for part in (host.store, name) if part)
        attach(self._model, host.path, path, block, point.layout, before=point.before)
        return f"{host.path}.{path}", 0


def remove(model: nn.Module) -> int:
    """Take all inserted blocks out again, in place, and return how many places were restored.

    Attention that was replaced comes back as it was, on the model's device, in its type and its memory format.

    Raises:
        ValueError: If a module that runs a block was given another class since, for example by a parametrization.
    """
    for path, module in model.named_modules():
        if isinstance(module, RunsBlocks) and type(module) is not HOST_CLASSES.get(type(module).__bases__[-1]):
            raise ValueError(f"{path} was given another class after its block was inserted; take that off first")
    running = list(hosted(model))
    for host, run in running:
        parent, _, name = ".".join(run.path).rpartition(".")
        delattr(host.get_submodule(parent), name)
    for module in list(model.modules()):
        if isinstance(module, RunsBlocks):
            del module._before, module._after
            module.__class__ = type(module).__bases__[1]
    replaced = [(path, module) for path, module in model.named_modules() if isinstance(module, Slot)]
    follow = _Follower(model)
    for path, slot in replaced:
        set_submodule(model, path, follow(slot.original).train(slot.training))
    return len(running) + len(replaced)


def blocks(model: nn.Module) -> list[nn.Module]:
    """Return the blocks that were inserted into a model."""
    found = [run.block(host) for host, run in hosted(model)]
    return found + [slot.block for slot in model.modules() if isinstance(slot, Slot) and slot.block is not None]


def _is_channels_last(weight: torch.Tensor) -> bool:
    # a 1x1 kernel is contiguous in both senses
    return weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
