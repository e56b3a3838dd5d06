"""Encodings of the place of a pixel, at any size of the map.

Shapes: C channels, H rows, W columns; d channels of a head; L entries of a learned table.
Learned tables have a fixed length and are interpolated, so that one set of weights fits every size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.attention.widths import POSITION_ENTRIES

TEMPERATURE = 10_000.0
"""Longest wavelength, over 2 pi: that of "Attention Is All You Need"."""


def sincos2d(channels: int, height: int, width: int, like: Tensor) -> Tensor:
    """Return fixed sines and cosines, (C, H, W), in the type and on the device of ``like``.

    Attention Is All You Need, section 3.5, once for each axis: the first half of the channels encodes the row, the
    second half the column, with frequencies 10000^(-4 i / C) for i < C / 4; of each half first the sines.

    Places are counted from 0.

    Args:
        channels: C, a multiple of 4.
        height: H.
        width: W.
        like: Any tensor.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)  # half precision cannot count to the end of a large map
    steps = torch.arange(channels // 4, dtype=dtype, device=like.device)
    frequencies = TEMPERATURE ** (-4 * steps / channels)
    rows, columns = (
        torch.arange(size, dtype=dtype, device=like.device) * frequencies[:, None] for size in (height, width)
    )
    by_row = torch.cat((rows.sin(), rows.cos()))[:, :, None].expand(-1, -1, width)
    by_column = torch.cat((columns.sin(), columns.cos()))[:, None, :].expand(-1, height, -1)
    return torch.cat((by_row, by_column)).to(like.dtype)


class Learned(nn.Module):
    """Learned encoding, factorised: a vector for the row plus a vector for the column.

    As in DETR (arXiv 2005.12872) there is a table for each axis; here their vectors are added, so that any width will
    do, and interpolated linearly from L entries to the size of the map. They start from a normal distribution of
    standard deviation 0.02.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(0.02 * torch.randn(channels, POSITION_ENTRIES))
        self.columns = nn.Parameter(0.02 * torch.randn(channels, POSITION_ENTRIES))

    def forward(self, height: int, width: int) -> Tensor:
        """Return the encoding, (C, H, W)."""
        return stretched(self.rows, height)[:, :, None] + stretched(self.columns, width)[:, None, :]


class Relative(nn.Module):
    """Relative encoding: scores by how many rows and columns a key lies away from the query.

    Bottleneck Transformers for Visual Recognition; Aravind Srinivas, Tsung-Yi Lin, Niki Parmar, Jonathon Shlens, Pieter
    Abbeel, Ashish Vaswani; arXiv 2101.11605, figure 4: q . (k + r_row + r_column), with a vector for each offset along
    either axis, which all heads share. They start from a normal distribution of standard deviation 1 / sqrt(d), as in
    the authors' code. For any size of the map: tables of 2 L - 1 offsets are interpolated to 2 H - 1 and 2 W - 1.

    Args:
        width: d.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(width**-0.5 * torch.randn(width, 2 * POSITION_ENTRIES - 1))
        self.columns = nn.Parameter(width**-0.5 * torch.randn(width, 2 * POSITION_ENTRIES - 1))

    def forward(self, query: Tensor, stride: int) -> tuple[Tensor, Tensor]:
        """Return the scores of every query with every row and with every column of keys.

        Args:
            query: (B, heads, H, W, d).
            stride: Pooling of the keys; a pooled key stands at the middle of its window, or just before.

        Returns:
            (B, heads, H, W, rows of keys) and (B, heads, H, W, columns of keys).
        """
        height, width = query.shape[2:4]
        by_row = torch.einsum("bnhwd,dhj->bnhwj", query, _offsets(self.rows, height, stride))
        by_column = torch.einsum("bnhwd,dwj->bnhwj", query, _offsets(self.columns, width, stride))
        return by_row, by_column


def stretched(table: Tensor, size: int) -> Tensor:
    """Return a table (C, L) interpolated linearly to (C, size)."""
    return F.interpolate(table[None], size=size, mode="linear", align_corners=False)[0]


def _offsets(table: Tensor, size: int, stride: int) -> Tensor:
    """Return the vector of every pair of query and key along an axis, (d, size, keys)."""
    places = torch.arange(size, device=table.device)
    keys = (torch.arange((size + stride - 1) // stride, device=table.device) * stride + (stride - 1) // 2).clamp(
        max=size - 1
    )
    return stretched(table, 2 * size - 1)[:, keys[None, :] - places[:, None] + size - 1]
