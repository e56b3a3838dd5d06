"""All that placing blocks in one backbone needs to know, found once: its stages, their points, and who hosts them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from nas.architecture import Stage
from nas.placement import sites
from nas.placement.hosts import Host, hosts
from nas.placement.probe import Point, Probe
from nas.placement.reach import reaches

CLASS_TOKEN = "the head reads only the tokens before the map, which pass a block by"
"""Why no block can stand behind the last blocks of a transformer with a class token."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Where blocks can stand in a backbone."""

    stages: tuple[Stage, ...]
    """The stages, numbered as ``feature_info`` numbers them."""
    points: Mapping[tuple[int, str], tuple[Point, ...]]
    """The points that a stage and a position mean."""
    hosts: Mapping[str, Host]
    """For the path of each point that is no slot, the module that runs the block and the one that keeps it."""
    backbone: str
    """Name of the backbone that was probed."""
    image: tuple[int, ...]
    """(C, H, W) of the images with which it was probed."""


def plan_of(model: nn.Module) -> Plan:
    """Probe a backbone.

    Raises:
        BackboneError: If the model is not a timm classifier with ``feature_info``, or a stage cannot be found in it.
    """
    probe = Probe(model)
    after = [
        Point(path=call.path, layout=found, channels=entry["num_chs"])
        for entry, (call, found) in zip(probe.info, probe.taps, strict=True)
    ]
    slots = sites.slots(probe)
    inside = tuple(f"{slot.path}." for stage in slots for slot in stage)
    # A residual inside of an attention module is a part of it and none of the stage.
    branches = [[point for point in stage if not point.path.startswith(inside)] for stage in sites.branches(probe)]
    dead = _dead(probe, [*after, *(point for stage in branches for point in stage)])
    stages = []
    points: dict[tuple[int, str], tuple[Point, ...]] = {}
    for index, (entry, point) in enumerate(zip(probe.info, after, strict=True)):
        living = tuple(branch for branch in branches[index] if branch not in dead)
        points[index, "after_stage"] = () if point in dead else (point,)
        points[index, "in_residual"] = living
        points[index, "replace"] = tuple(slots[index])
        stages.append(
            Stage(
                index=index,
                name=point.path,
                channels=point.channels,
                reduction=entry["reduction"],
                layout=point.layout.axes,
                branches=tuple(branch.channels for branch in living),
                slots=tuple(slot.channels for slot in slots[index]),
                refusal=CLASS_TOKEN if point in dead else "",
            )
        )
    hosted = [point for (_, position), found in points.items() if position != "replace" for point in found]
    return Plan(
        stages=tuple(stages),
        points=points,
        hosts=hosts(probe, hosted),
        backbone=probe.name,
        image=tuple(probe.trace.image[1:]),
    )


def _dead(probe: Probe, points: list[Point]) -> set[Point]:
    """Return the points whose map does not reach the result: among the last ones, from the back to the first alive."""
    dead = set()
    suspects = [point for point in points if point.layout.prefix]
    ends = {point: probe.trace.by_path[point.path][-1].end for point in suspects}
    for end in sorted(set(ends.values()), reverse=True):
        group = [point for point in suspects if ends[point] == end]
        found = {point for point in group if not reaches(probe, point)}
        dead |= found
        if len(found) < len(group):
            break
    return dead
