"""What a backbone looks like inside: its stages, found by running a copy that has no data."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from nas.placement import layout as layouts
from nas.placement.layout import Layout
from nas.placement.trace import Call, Trace, Value, depends, record
from nas.shadow import without_data


class BackboneError(ValueError):
    """A backbone is unknown, or blocks cannot be placed in it; the message says why."""


SIZES = (224, 256, 288, 384, 192, 160, 128, 96, 64, 32, 448, 512)
"""Heights and widths in pixels that are tried on a backbone that does not say what it wants."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A place where a block can stand: a module, and the map in what it returns."""

    path: str
    """Path of the module in the backbone."""
    layout: Layout
    """Where the map is in the module's output."""
    channels: int
    """Channels of the map."""
    before: bool = False
    """Whether the block stands before the module, on its input."""


class Probe:
    """A backbone's copy on the meta device, and the record of one forward pass of it."""

    def __init__(self, model: nn.Module) -> None:
        self.name = name_of(model)
        self.info = feature_info(model)
        self.shadow = without_data(model).eval().float()  # shapes are the same in every precision
        for module in self.shadow.modules():  # somebody's hooks are not meant for tensors without data
            module._forward_hooks.clear()
            module._forward_pre_hooks.clear()
        self.trace = self._run(model)
        hint = getattr(model, "num_prefix_tokens", 0)
        self.prefix_hint = hint if isinstance(hint, int) else 0

    def _run(self, model: nn.Module) -> Trace:
        errors = []
        for channels, size in itertools.product(_image_channels(model), _image_sizes(model)):
            try:
                return record(self.shadow, torch.empty(2, channels, *size, device="meta"))
            except Exception as error:  # a model may raise anything on a size or a device that it was not made for
                errors.append(f"{channels} x {size[0]} x {size[1]}: {type(error).__name__}: {error}")
        raise BackboneError(f"{self.name} runs on no image that was tried; the first, {errors[0]}")

    @cached_property
    def taps(self) -> tuple[tuple[Call, Layout], ...]:
        """The run that ends each stage, and where the map is in its output.

        Raises:
            BackboneError: If there is none for a stage.
        """
        found: list[tuple[Call, Layout]] = []
        for index, entry in enumerate(self.info):
            tap = (
                self._declared(entry)
                or self._within(entry)
                or self._by_structure(index, entry, found, exact=True)
                or self._by_structure(index, entry, found, exact=False)
            )
            if tap is None:
                wanted = f"{entry['num_chs']} channels at 1/{entry['reduction']} of the image"
                raise BackboneError(f"{self.name}: no module returns stage {index} ({entry['module']!r}, {wanted})")
            found.append(tap)
        return tuple(found)

    def _declared(self, entry: dict[str, Any]) -> tuple[Call, Layout] | None:
        """Return the run of the module that ``feature_info`` names, if it returns what is declared."""
        calls = self.trace.by_path.get(entry["module"], [])
        if not calls and entry["module"]:
            suffix = f".{entry['module']}"
            paths = [path for path in self.trace.by_path if path.endswith(suffix)]
            calls = self.trace.by_path[paths[0]] if len(paths) == 1 else []
        if not calls and isinstance(_submodule(self.shadow, entry["module"]), nn.ModuleList):  # never called itself
            calls = [call for call in self.trace.calls if call.path.rpartition(".")[0] == entry["module"]]
        for call in reversed(calls):
            found = self._map(call, entry)
            if found is not None and self.is_single(call):
                return call, found
        return None

    def _within(self, entry: dict[str, Any]) -> tuple[Call, Layout] | None:
        """Return the last run inside the declared module that returns what is declared."""
        calls = self.trace.by_path.get(entry["module"], [])
        if len(calls) != 1:
            return None
        return self._last([call for call in self.trace.calls if call.inside(calls[0])], entry, exact=True)

    def _by_structure(
        self, index: int, entry: dict[str, Any], before: list[tuple[Call, Layout]], *, exact: bool
    ) -> tuple[Call, Layout] | None:
        """Return the last run that returns what is declared, between the stages before and behind.

        Of several that do not depend on each other the first: where branches meet, it is the one that is added to. A
        module that is called by fewer others around it is preferred, and a norm of tokens belongs to what follows it.
        """
        start = before[-1][0].end if before else 0
        following = [self._declared(other) for other in self.info[index + 1 :]]
        end = next((tap[0].start for tap in following if tap is not None), math.inf)
        calls = [call for call in self.trace.calls if call.parent is not None and start < call.start and call.end < end]
        return self._last(calls, entry, exact=exact)

    def _last(self, calls: list[Call], entry: dict[str, Any], *, exact: bool) -> tuple[Call, Layout] | None:
        """Return the last run that returns a stage's map; see :meth:`_by_structure` for which that is."""
        fitting = []
        for call in calls:
            found = self._map(call, entry, exact=exact) if self.is_single(call) else None
            if found is not None and not isinstance(call.module, nn.LayerNorm):
                fitting.append((call, found))
        depth = min((call.depth for call, _ in fitting), default=0)
        outermost = [(call, found) for call, found in fitting if call.depth == depth]
        for tap in outermost:
            if not any(self._feeds(tap, other) for other in outermost if other is not tap):
                return tap
        return None

    def is_single(self, call: Call) -> bool:
        """Tell whether a module runs once in a pass: only then is a block behind it one block."""
        return len(self.trace.by_path[call.path]) == 1

    def _feeds(self, tap: tuple[Call, Layout], other: tuple[Call, Layout]) -> bool:
        return depends(self.value(other[0], other[1].item), self.value(tap[0], tap[1].item))

    def value(self, call: Call, item: tuple[int, ...]) -> Value:
        """Return the value of one tensor in a run's output."""
        return call.values[[path for path, _ in layouts.leaves(call.output)].index(item)]

    def _map(self, call: Call, entry: dict[str, Any], *, exact: bool = False) -> Layout | None:
        """Find a stage's map in a run's output: one on which the model's result depends."""
        expected = list(_grids(self.trace.image, entry["reduction"]))
        found = layouts.find(call.output, entry["num_chs"], expected, self.prefix_hint)
        if found is None or (exact and found.grid not in expected):
            return None
        value = self.value(call, found.item)
        if not any(depends(result, value, since=call.made) for result in self.trace.result):
            return None
        return self.complete(call, found)

    def complete(self, call: Call, found: Layout) -> Layout:
        """Return a layout with what its shape does not tell: where else the tensor is, and another order of tokens."""
        value = self.value(call, found.item)
        also = tuple(
            path for path, _ in layouts.leaves(call.output) if path != found.item and self.value(call, path) is value
        )
        return dataclasses.replace(found, also=also, strides=self._strides(call) if found.axes == "NLC" else ())

    def _strides(self, call: Call) -> tuple[tuple[int, int], ...]:
        """Return how the tokens of a run are ordered, if the backbone says that they do not stand row by row.

        Backbones that pool tokens with their neighbours (Hiera) have a table of that, block by block, to undo it.
        """
        table = getattr(getattr(self.shadow, "reroll", None), "schedule", None)
        number = re.search(r"\d+", call.path)
        if not isinstance(table, dict) or number is None or int(number[0]) not in table:
            return ()
        return tuple((down, right) for down, right in table[int(number[0])][0])


def config_of(model: nn.Module) -> dict[str, Any]:
    """Return what timm says of a model: its images, first convolution, classifier; nothing of others' models."""
    config: dict[str, Any] = getattr(model, "default_cfg", None) or {}
    return config


def names_in(value: object) -> list[str]:
    """Return the modules that an entry of a config names: none, one or several."""
    if isinstance(value, str):
        return [value] if value else []
    return [str(name) for name in value] if isinstance(value, (tuple, list)) else []


def name_of(model: nn.Module) -> str:
    """Return the timm name of a model, or its class's name."""
    return str(config_of(model).get("architecture") or type(model).__name__)


def feature_info(model: nn.Module) -> list[dict[str, Any]]:
    """Return the stages as timm declares them.

    Raises:
        BackboneError: If the model declares none.
    """
    info = getattr(model, "feature_info", None)
    if not info or not hasattr(model, "default_cfg"):
        raise BackboneError(f"a backbone must be a timm classifier with feature_info, but got {type(model).__name__}")
    return list(info if isinstance(info, list) else info.info)


def _grids(image: torch.Size, reduction: int) -> Iterator[tuple[int, int]]:
    """Yield the heights and widths that a map at 1/reduction of the image may have."""
    for rounded in (math.ceil, math.floor):
        yield rounded(image[2] / reduction), rounded(image[3] / reduction)
    yield image[2] // reduction + 1, image[3] // reduction + 1  # padded stems


def _image_channels(model: nn.Module) -> Iterator[int]:
    """Yield the channels that a model's images may have, the likeliest first."""
    config = config_of(model)
    found = []
    for name in names_in(config.get("first_conv")):
        weight = getattr(_submodule(model, name), "weight", None)
        found += [weight.shape[1]] if isinstance(weight, torch.Tensor) and weight.dim() == 4 else []
    yield from dict.fromkeys([*found[:1], int(config.get("input_size", (3,))[0]), 3, 1])


def _submodule(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def _image_sizes(model: nn.Module) -> Iterator[tuple[int, int]]:
    """Yield the heights and widths that a model's images may have, the likeliest first."""
    found: list[tuple[int, int]] = []
    for module in model.modules():
        size = getattr(module, "img_size", None)
        if isinstance(size, int):
            size = (size, size)
        if isinstance(size, (tuple, list)) and len(size) == 2 and all(isinstance(side, int) for side in size):
            found.append((size[0], size[1]))
            break
    config = config_of(model)
    if config.get("input_size"):
        found.append(tuple(config["input_size"][1:]))
    yield from dict.fromkeys([*found, *((size, size) for size in SIZES)])
