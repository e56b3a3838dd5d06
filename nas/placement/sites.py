"""Where a block can stand inside the stages: at the ends of residual branches, and in place of built-in attention.

Both are read off the record of one pass, not off names: a residual is closed by an addition of two values that come
from the same input of a module, one of them through at most a projection; an attention module is one that returns its
input times a gate that it has computed from it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from timm.layers import get_attn

from nas.placement import layout as layouts
from nas.placement.probe import Point, Probe
from nas.placement.trace import Addition, Call, Value, depends

_WITHOUT_GATE = tuple(get_attn(name) for name in ("gc", "nl", "bat", "lambda", "bottleneck", "halo"))
"""timm's attention layers that keep the shape and are no gates: they add, or mix pixels."""
_STEPS = 8
"""Operations between the end of a branch and its addition that are looked through: scales, slices, transposes."""


def branches(probe: Probe) -> list[list[Point]]:
    """Return for each stage the ends of its residual branches, in the order of execution."""
    found: list[list[Point]] = [[] for _ in probe.taps]
    taken = set()
    for addition in probe.trace.additions:
        branch = _branch(addition)
        if branch is None:
            continue
        for stage, grids in _stages_at(probe, addition.time):
            point = _end(probe, addition, branch, stage, grids)
            if point is not None:
                if (point.path, point.layout.item) not in taken:
                    taken.add((point.path, point.layout.item))
                    found[stage].append(point)
                break
    return found


def slots(probe: Probe) -> list[list[Point]]:
    """Return for each stage the attention modules that the backbone brings along, in the order of execution."""
    found: list[list[Point]] = [[] for _ in probe.taps]
    attentions: list[Call] = []
    for call in reversed(probe.trace.calls):  # the outer ones first
        if _is_attention(call) and probe.is_single(call) and not any(call.inside(other) for other in attentions):
            attentions.append(call)
    for call in reversed(attentions):
        for stage, grids in _stages_at(probe, call.end):
            point = _point(probe, call, call.values[0], stage, grids)
            if point is not None:
                found[stage].append(point)
                break
    return found


def _stages_at(probe: Probe, time: int) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Yield the stages that a moment may belong to, each with the grids that maps have there.

    A moment belongs to the next stage that ends. Several may end in one run; and before the map is made smaller, it
    still has the size of the stage before.
    """
    ends = sorted({call.end for call, _ in probe.taps if call.end >= time})
    earlier = [found.grid for call, found in probe.taps if call.end < time]
    for index, (call, found) in enumerate(probe.taps):
        if ends and call.end == ends[0]:
            yield index, [found.grid]
    for index, (call, _) in enumerate(probe.taps):
        if ends and call.end == ends[0]:
            yield index, list(dict.fromkeys(reversed(earlier)))


def _branch(addition: Addition) -> Value | None:
    """Return which operand of an addition is the branch of a residual, if it closes one."""
    for shortcut, branch in ((addition.left, addition.right), (addition.right, addition.left)):
        projections = len(shortcut.heavy - branch.heavy)
        if projections > 1 or len(branch.heavy - shortcut.heavy) <= projections:
            continue
        if any(depends(shortcut, given) and depends(branch, given) for given in addition.call.inputs):
            return branch
    return None


def _end(probe: Probe, addition: Addition, branch: Value, stage: int, grids: list[tuple[int, int]]) -> Point | None:
    """Return the last place on a branch where a block can stand."""
    value = branch
    for _ in range(_STEPS):
        makers = [call for call in probe.trace.makers.get(value, []) if call.inside(addition.call)]
        makers = [call for call in makers if call.end <= addition.time and probe.is_single(call)]
        passing = [call for call in makers if any(value is given for given in call.inputs)]
        for call in reversed([call for call in makers if call not in passing]):  # the outermost first
            point = _point(probe, call, value, stage, grids)
            if point is not None:
                return point
        # Before what drops the branch at random and passes it through in evaluation.
        for call in passing:
            point = _point(probe, call, value, stage, grids, before=True)
            if point is not None:
                return point
        if len(value.parents) != 1 or value.number in value.heavy:
            return None
        value = value.parents[0]
    return None


def _point(
    probe: Probe, call: Call, value: Value, stage: int, grids: list[tuple[int, int]], *, before: bool = False
) -> Point | None:
    tap = probe.taps[stage][1]
    for path, tensor in layouts.leaves(call.output):
        if probe.value(call, path) is value:
            fitted = layouts.fit(tensor.shape, None, grids, probe.prefix_hint, axes=tap.axes)
            if fitted is None:
                return None
            found = probe.complete(call, dataclasses.replace(fitted, item=path))
            if before:
                found = dataclasses.replace(found, item=(), also=())
            return Point(path=call.path, layout=found, channels=fitted.channels_of(tensor.shape), before=before)
    return None


def _is_attention(call: Call) -> bool:
    if len(call.values) != 1 or not call.inputs or call.parent is None:
        return False
    given, result = call.inputs[0], call.values[0]
    if given.shape != result.shape or given is result:
        return False
    return isinstance(call.module, _WITHOUT_GATE) or _is_gated(result, given)


def _is_gated(result: Value, given: Value) -> bool:
    """Tell whether a value is an input times gates that weights have computed from it."""
    value = result
    for _ in range(_STEPS):
        if value.product is None:
            return False
        for factor, gate in (value.product, value.product[::-1]):
            scaled = factor is given or factor.product is not None
            if scaled and gate.is_data and depends(gate, given) and gate.heavy - given.heavy:
                value = factor
                break
        else:
            return False
        if value is given:
            return True
    return False
