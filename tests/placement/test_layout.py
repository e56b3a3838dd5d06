"""Layouts: a block gets (B, C, H, W) with rows as rows, whatever the module returns, and all else passes it by."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from nas.placement.layout import Layout, find, fit

MAP = torch.randn(2, 5, 4, 6)  # B, C, H, W


class Pair(NamedTuple):
    map: Tensor
    other: Tensor


def rows_and_columns(map_: Tensor) -> Tensor:
    """A block that knows where it is: pixel (i, j) of channel c is multiplied by 100 c + 10 i + j + 1."""
    _, channels, height, width = map_.shape
    c, i, j = torch.meshgrid(torch.arange(channels), torch.arange(height), torch.arange(width), indexing="ij")
    return map_ * (100 * c + 10 * i + j + 1)


def as_tokens(map_: Tensor, prefix: int) -> Tensor:
    batch, channels = map_.shape[:2]
    tokens = map_.reshape(batch, channels, -1).permute(0, 2, 1)
    generator = torch.Generator().manual_seed(1)
    return torch.cat([torch.randn(batch, prefix, channels, generator=generator), tokens], 1)


CASES: list[tuple[Layout, Any]] = [
    (Layout(axes="NCHW", grid=(4, 6)), lambda m: m),
    (Layout(axes="NCHW", grid=(9, 9)), lambda m: m),
    (Layout(axes="NHWC", grid=(4, 6)), lambda m: m.permute(0, 2, 3, 1)),
    *((Layout(axes="NLC", grid=(4, 6), prefix=n), lambda m, n=n: as_tokens(m, n)) for n in (0, 1, 5)),
    (Layout(axes="NLC", grid=(2, 3), prefix=1), lambda m: as_tokens(m, 1)),
    (Layout(axes="NLC", grid=(8, 12), prefix=5), lambda m: as_tokens(m, 5)),
    (Layout(axes="NCHW", grid=(4, 6), item=(1,)), lambda m: (MAP + 1, m)),
    (Layout(axes="NHWC", grid=(4, 6), item=(0,)), lambda m: [m.permute(0, 2, 3, 1), MAP]),
    (Layout(axes="NCHW", grid=(4, 6), item=(0,)), lambda m: Pair(m, MAP)),
    (Layout(axes="NLC", grid=(4, 6), prefix=1, item=(1, 0)), lambda m: ("x", [as_tokens(m, 1), None])),
]


@pytest.mark.parametrize(("layout", "pack"), CASES, ids=[str(number) for number in range(len(CASES))])
def test_a_block_sees_rows_as_rows_and_all_else_passes_by(layout: Layout, pack: Any) -> None:
    seen = []

    def block(map_: Tensor) -> Tensor:
        seen.append(map_.clone())
        return rows_and_columns(map_)

    given = pack(MAP)
    kept = pack(MAP.clone())
    same(layout.apply(block, given), pack(rows_and_columns(MAP)))
    same(given, kept)  # nothing is written into what the module returned
    assert len(seen) == 1
    assert torch.equal(seen[0], MAP)
    assert layout.map_shape(pack(MAP)) == MAP.shape


def same(found: Any, expected: Any) -> None:
    """Equal types, and equal tensors in them."""
    assert type(found) is type(expected)
    if isinstance(expected, Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            same(ours, theirs)
    else:
        assert found == expected


def test_the_same_tensor_is_replaced_wherever_it_stands() -> None:
    layout = Layout(axes="NCHW", grid=(4, 6), item=(0,), also=((1, 0),))
    first, (second, third) = layout.apply(rows_and_columns, (MAP, [MAP, MAP]))
    assert first is second
    assert torch.equal(first, rows_and_columns(MAP))
    assert third is MAP


@pytest.mark.parametrize("strides", [((2, 2),), ((2, 3), (2, 1)), ((1, 2), (2, 1), (2, 3))])
@pytest.mark.parametrize("prefix", [0, 2])
def test_tokens_in_the_order_of_splits_come_as_rows(strides: tuple[tuple[int, int], ...], prefix: int) -> None:
    """Each split sorts by the place in a window first: row 5 of 8, split by 2 and by 2, stands at (1, 0, 1)."""
    places = {}
    for row in range(4):
        for column in range(6):
            key, height, width = [], row, column
            for down, right in strides:
                key += [height % down, width % right]
                height, width = height // down, width // right
            places[row, column] = (*key, height, width)
    order = sorted(places, key=lambda place: places[place])

    def pack(map_: Tensor) -> Tensor:
        rows = as_tokens(map_, prefix)
        return torch.cat([rows[:, :prefix], rows[:, [prefix + 6 * row + column for row, column in order]]], 1)

    layout = Layout(axes="NLC", grid=(4, 6), prefix=prefix, strides=strides)
    assert torch.equal(layout.apply(lambda map_: map_, pack(MAP)), pack(MAP))
    assert torch.equal(layout.apply(rows_and_columns, pack(MAP)), pack(rows_and_columns(MAP)))


def test_what_stands_beside_the_map_is_the_same_object() -> None:
    beside = torch.zeros(3)
    result = Layout(axes="NCHW", grid=(4, 6), item=(0,)).apply(rows_and_columns, Pair(MAP, beside))
    assert result.other is beside


@pytest.mark.parametrize(
    ("grid", "tokens", "message"),
    [
        ((4, 4), 15, "15 tokens are no map with the ratio 1:1 of height to width"),
        ((4, 4), 18, "18 tokens are no map with the ratio 1:1"),
        ((4, 6), 16, "16 tokens are no map with the ratio 2:3"),
        ((3, 5), 30, "30 tokens are no map with the ratio 3:5 .*; build it with the image size that it is to be used"),
    ],
)
def test_tokens_that_are_no_map_are_refused(grid: tuple[int, int], tokens: int, message: str) -> None:
    layout = Layout(axes="NLC", grid=grid, prefix=1)
    with pytest.raises(ValueError, match=message):
        layout.apply(rows_and_columns, torch.zeros(1, tokens + 1, 2))


@pytest.mark.parametrize(
    ("shape", "channels", "expected", "found"),
    [
        ((2, 5, 4, 6), 5, [(4, 6)], ("NCHW", (4, 6), 0)),
        ((2, 4, 6, 5), 5, [(4, 6)], ("NHWC", (4, 6), 0)),
        ((2, 5, 4, 5), 5, [(5, 4)], ("NHWC", (5, 4), 0)),  # both could be channels: the grid decides
        ((2, 5, 5, 5), 5, [(5, 5)], ("NCHW", (5, 5), 0)),
        ((2, 5, 7, 7), 5, [(4, 6)], ("NCHW", (7, 7), 0)),  # the channels alone: reductions are not always right
        ((2, 5, 7, 7), None, [(4, 6)], None),
        ((2, 8, 4, 6), 5, [(4, 6)], None),
        ((2, 9, 5), 5, [(3, 3)], ("NLC", (3, 3), 0)),
        ((2, 10, 5), 5, [(3, 3)], ("NLC", (3, 3), 1)),
        ((2, 14, 5), 5, [(3, 3)], ("NLC", (3, 3), 5)),
        ((2, 26, 5), 5, [(3, 3)], None),
        ((2, 8, 5), 5, [(3, 3)], None),
        ((2, 9, 6), 5, [(3, 3)], None),
        ((2, 24, 5), 5, [(4, 6), (6, 4)], ("NLC", (4, 6), 0)),
        ((2, 5), 5, [(1, 1)], None),
        ((2, 5, 1, 4, 6), 5, [(4, 6)], None),
    ],
)
def test_fit(shape: tuple[int, ...], channels: int | None, expected: list[tuple[int, int]], found: Any) -> None:
    layout = fit(torch.Size(shape), channels, expected)
    assert (None if layout is None else (layout.axes, layout.grid, layout.prefix)) == found


def test_the_models_own_number_of_prefix_tokens_comes_first() -> None:
    shape, grids = torch.Size((1, 9, 4)), [(2, 2), (2, 4)]
    assert fit(shape, 4, grids, 1) == Layout(axes="NLC", grid=(2, 2), prefix=5)
    assert fit(shape, 4, grids[::-1], 1) == Layout(axes="NLC", grid=(2, 4), prefix=1)
    assert fit(torch.Size((1, 16, 4)), 4, [(4, 4)], 0) == Layout(axes="NLC", grid=(4, 4), prefix=0)


def test_the_order_of_axes_that_is_meant_decides_where_the_shape_does_not() -> None:
    shape = torch.Size((1, 4, 4, 4))
    assert fit(shape, None, [(4, 4)], axes="NHWC") == Layout(axes="NHWC", grid=(4, 4))
    assert fit(shape, None, [(4, 4)]) == Layout(axes="NCHW", grid=(4, 4))


def test_find_takes_the_first_tensor_that_fits() -> None:
    output = ["text", (torch.zeros(2, 7, 4, 6), None), [MAP, MAP]]
    found = find(output, 5, [(4, 6)])
    assert found == Layout(axes="NCHW", grid=(4, 6), item=(2, 0))
    assert find(output, 6, [(4, 6)]) == Layout(axes="NHWC", grid=(7, 4), item=(1, 0))
    assert find(output, 9, [(4, 6)]) is None
    assert find(None, 5, [(4, 6)]) is None
    assert find({"x": MAP}, 5, [(4, 6)]) is None
