"""How a stage's output holds its map, and how to hand that map to a block as (B, C, H, W).

A layout is what it takes to find the map in whatever a module returns, and to put the block's result back in its
place. It is made of plain values, so that it can be pickled and compiled.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MOST_PREFIX_TOKENS = 16
"""Class and register tokens that may stand before the tokens of the map."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the map is in a module's output, and the order of its axes."""

    axes: str
    """``NCHW``, ``NHWC`` or ``NLC``: batch, channels, height, width, tokens."""
    grid: tuple[int, int]
    """Height and width of the map when the backbone was probed."""
    prefix: int = 0
    """Tokens before those of the map, which pass the block by."""
    item: tuple[int, ...] = ()
    """Where the tensor is in an output that is a list or a tuple, from the outside in."""
    also: tuple[tuple[int, ...], ...] = ()
    """Where else in the output the very same tensor is."""
    strides: tuple[tuple[int, int], ...] = ()
    """Down and right, from the innermost: how a backbone that pools neighbours has split its map to order the tokens.

    Tokens whose places differ in the innermost split stand farthest apart. Without any split they stand row by row.
    """

    def apply(self, block: Callable[[Tensor], Tensor], output: Any) -> Any:
        """Return a module's output with the map replaced by what the block makes of it.

        Tokens do not say how high and wide their map is: it is taken to have the ratio that it had when the backbone
        was probed. A backbone of tokens for images of another ratio has to be built for them, with timm's ``img_size``.

        Raises:
            ValueError: If the tokens do not make up a map of that ratio.
        """
        if not self.item:
            return block(output) if self.axes == "NCHW" else self._run(block, output)
        result = self._run(block, _item(output, self.item))
        for path in (self.item, *self.also):
            output = _replace(output, path, result)
        return output

    def _run(self, block: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
        if self.axes == "NCHW":
            return block(tensor)
        if self.axes == "NHWC":
            return block(tensor.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        tokens = tensor[:, self.prefix :] if self.prefix else tensor
        grid = self._grid_of(tokens.shape[1])
        tokens = self._rows(tokens, grid) if self.strides else tokens
        shape = tokens.shape
        result = block(tokens.transpose(1, 2).reshape(shape[0], shape[2], *grid)).flatten(2).transpose(1, 2)
        result = self._splits(result, grid) if self.strides else result
        return torch.cat((tensor[:, : self.prefix], result), 1) if self.prefix else result

    def _rows(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Bring tokens (B, N, C) from the order of the splits into that of the rows."""
        order, sides = self._order(grid)
        split = tokens.unflatten(1, [side for pair in sides for side in pair])  # type: ignore[no-untyped-call]
        rows: Tensor = split.permute(0, *(1 + axis for axis in order), -1).flatten(1, -2)
        return rows

    def _splits(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Bring tokens (B, N, C) from the order of the rows back into that of the splits."""
        order, sides = self._order(grid)
        flat = [side for pair in sides for side in pair]
        split = tokens.unflatten(1, [flat[axis] for axis in order])  # type: ignore[no-untyped-call]
        back: Tensor = split.permute(0, *(1 + order.index(axis) for axis in range(len(order))), -1).flatten(1, -2)
        return back

    def _order(self, grid: tuple[int, int]) -> tuple[list[int], list[tuple[int, int]]]:
        """Return which axes of the split tokens make up first the rows and then the columns, and their lengths."""
        height, width = grid
        for down, right in self.strides:
            height, width = height // down, width // right
        sides = [*self.strides, (height, width)]
        outer_first = range(len(sides) - 1, -1, -1)
        return [2 * axis for axis in outer_first] + [2 * axis + 1 for axis in outer_first], sides

    def _grid_of(self, tokens: int) -> tuple[int, int]:
        """Return height and width of a map of so many tokens; the ratio is the probed one."""
        height, width = self.grid
        if tokens == height * width:
            return self.grid
        scale = math.gcd(height, width)
        step_h, step_w = height // scale, width // scale
        times = math.isqrt(max(0, tokens // (step_h * step_w)))
        if times * times * step_h * step_w != tokens:
            raise ValueError(
                f"{tokens} tokens are no map with the ratio {step_h}:{step_w} of height to width, with which the "
                "backbone was probed; build it with the image size that it is to be used with"
            )
        return times * step_h, times * step_w

    def channels_of(self, shape: torch.Size) -> int:
        """Return the channels of a tensor of that shape."""
        return int(shape[1] if self.axes == "NCHW" else shape[-1])

    def map_shape(self, output: Any) -> torch.Size:
        """Return the shape (B, C, H, W) of the map in a module's output."""
        shape = _item(output, self.item).shape
        if self.axes == "NCHW":
            return torch.Size(shape)
        if self.axes == "NHWC":
            return torch.Size((shape[0], shape[3], shape[1], shape[2]))
        return torch.Size((shape[0], shape[2], *self._grid_of(shape[1] - self.prefix)))


def find(output: Any, channels: int | None, expected: Sequence[tuple[int, int]], prefix_hint: int = 0) -> Layout | None:
    """Find the map in a module's output: the first tensor that fits.

    Args:
        output: What a module returned: a tensor, or lists and tuples of tensors.
        channels: Channels that the map has; None for any.
        expected: Heights and widths that the map may have, the likeliest first.
        prefix_hint: Tokens that the model says stand before those of the map.

    Returns:
        The layout, or None if there is no such map.
    """
    for path, tensor in leaves(output):
        found = fit(tensor.shape, channels, expected, prefix_hint)
        if found is not None:
            return dataclasses.replace(found, item=path)
    return None


def leaves(output: Any, path: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """Yield the tensors of a module's output, each with where it stands."""
    if isinstance(output, Tensor):
        yield path, output
    elif isinstance(output, (list, tuple)):
        for index, item in enumerate(output):
            yield from leaves(item, (*path, index))


def fit(
    shape: torch.Size,
    channels: int | None,
    expected: Sequence[tuple[int, int]],
    prefix_hint: int = 0,
    *,
    axes: str = "NCHW",
) -> Layout | None:
    """Return the layout of a tensor of some shape; the arguments are those of :func:`find`.

    Args:
        axes: Which order of four axes is meant where the shape leaves it open.
    """
    if len(shape) == 4:
        grids = {"NCHW": (shape[2], shape[3]), "NHWC": (shape[1], shape[2])}
        possible = [
            order
            for order in sorted(grids, key=lambda order: order != axes)
            if channels is None or shape[1 if order == "NCHW" else 3] == channels
        ]
        by_grid = [order for order in possible if grids[order] in expected]
        # where the channels alone decide, the map may have any size: timm's reductions are not always right
        certain = by_grid or ([] if channels is None else possible)
        return Layout(axes=certain[0], grid=grids[certain[0]]) if certain else None
    if len(shape) == 3 and (channels is None or shape[2] == channels):
        for grid in expected:
            for prefix in dict.fromkeys((prefix_hint, *range(MOST_PREFIX_TOKENS + 1))):
                if shape[1] - prefix == grid[0] * grid[1]:
                    return Layout(axes="NLC", grid=grid, prefix=prefix)
    return None


def _item(output: Any, path: tuple[int, ...]) -> Any:
    for index in path:
        output = output[index]
    return output


def _replace(output: Any, path: tuple[int, ...], value: Tensor) -> Any:
    """Return a structure of the same types in which one tensor is another."""
    if not path:
        return value
    items = list(output)
    items[path[0]] = _replace(items[path[0]], path[1:], value)
    if isinstance(output, tuple):
        return type(output)(*items) if hasattr(output, "_fields") else tuple(items)
    return items
