"""Backbones with fresh weights, and architectures with one block at every place. Imported by the tests beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch import nn

from nas import placement
from nas.architecture import NONE, POSITIONS, Architecture, Placement, Stage
from nas.attention import BLOCKS
from nas.placement import Insertion

CLASSES = 7


def bare(backbone: str = "test_resnet", *, in_channels: int = 3, device: str = "cpu", **arguments: Any) -> nn.Module:
    """A backbone in evaluation mode; the same weights every time."""
    torch.manual_seed(0)
    made = placement.create(
        backbone, num_classes=CLASSES, in_channels=in_channels, model_kwargs=arguments, device=device
    )
    for name, weight in made.named_parameters():
        if device == "cpu" and name.endswith("weight") and not weight.any():
            nn.init.ones_(weight)  # timm lets branches begin with nothing: then a block in them could do anything
    made.asked = (backbone, tuple(arguments.items()))
    return made.eval()


@cache
def plan(backbone: str, arguments: tuple[tuple[str, Any], ...]) -> placement.Plan:
    """Where blocks can stand in a backbone, found once for all tests."""
    return placement.plan_of(
        placement.create(backbone, num_classes=CLASSES, model_kwargs=dict(arguments), device="meta")
    )


def stages(backbone: str, arguments: tuple[tuple[str, Any], ...]) -> tuple[Stage, ...]:
    return plan(backbone, arguments).stages


def everywhere(
    model: nn.Module, block: str, *, positions: Sequence[str] = POSITIONS, init: str = "identity"
) -> Architecture:
    """The block at each of the positions of every stage that has them and is wide enough for the block."""
    placements = tuple(
        Placement(stage=stage.index, block=block, position=position, init="paper" if block == NONE else init)
        for stage in stages(*model.asked)
        for position in positions
        if fits(block, stage, position)
    )
    return Architecture(backbone=placement.name_of(model), placements=placements)


def fits(block: str, stage: Stage, position: str) -> bool:
    widths = stage.widths(position)
    return bool(widths) and (block == NONE or all(BLOCKS[block].possible(width) is None for width in widths))


def spread(model: nn.Module, *, init: str = "paper") -> Architecture:
    """Another block at every stage, and another position, as far as the stages have them."""
    chosen = []
    for number, stage in enumerate(stages(*model.asked)):
        block = ("se", "cbam", "simam", "gc", "eca")[number % 5]
        if stage.positions:
            position = stage.positions[number % len(stage.positions)]
            chosen.append(Placement(stage=stage.index, block=block, position=position, init=init))
    return Architecture(backbone=placement.name_of(model), placements=tuple(chosen))


def put(model: nn.Module, block: str, *positions: str, init: str = "paper") -> tuple[Insertion, ...]:
    """Insert the block everywhere."""
    wanted = everywhere(model, block, positions=positions or POSITIONS, init=init)
    return placement.insert(model, wanted, plan=plan(*model.asked))


def listen(model: nn.Module, changed: Sequence[Insertion]) -> list[tuple[str, torch.Size]]:
    """Return a list that grows with the path and the input's shape of every block that runs."""
    calls: list[tuple[str, torch.Size]] = []
    for insertion in changed:
        if insertion.placement.block != NONE:
            model.get_submodule(insertion.path).register_forward_hook(
                lambda _module, inputs, _output, path=insertion.path: calls.append((path, inputs[0].shape))
            )
    return calls


def sites(model: nn.Module, position: str) -> Iterator[tuple[int, str]]:
    """Yield stage and path of every place that a position means."""
    for (stage, at), points in plan(*model.asked).points.items():
        if at == position:
            yield from ((stage, point.path) for point in points)


def total(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
