"""Multi-head self-attention over the pixels of a map.

Shapes: B images, C channels, H rows, W columns, N = H * W pixels, M pooled pixels; d = C / heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nas.attention import BLOCKS
from nas.attention.base import Block
from nas.attention.pairs import as_map, as_tokens, attend, pooled_tokens
from nas.attention.position import Learned, Relative, sincos2d
from nas.attention.widths import fitting_heads

SCORES = 2**17
"""Most scores of one head in one image that are stored at a time."""


class MHSA(Block):
    """Multi-head self-attention: every pixel gathers from all pixels, once for each head.

    Attention Is All You Need; Ashish Vaswani, Noam Shazeer, Niki Parmar, Jakob Uszkoreit, Llion Jones, Aidan N. Gomez,
    Lukasz Kaiser, Illia Polosukhin; arXiv 1706.03762, section 3.2.2, without biases, for the pixels of a map::

        head_i = softmax(q_i k_i^T / sqrt(d)) v_i;   f(x) = Wo [head_1; ...];   y = x + f(x)

    ``residual="none"`` leaves x out, for a place that has a residual of its own. The paper normalises layers after the
    addition; that belongs to its network, and is not done here. Without positions the block knows no order of the
    pixels: ``sincos2d`` and ``learned`` encodings are added to the input, ``relative`` ones to the scores. With
    ``kv_stride`` keys and values come from the map after mean pooling (incomplete windows at the border count), at a
    fraction of the cost.

    The scores are never stored where they are many. Relative ones are beyond torch's fused attention: these are taken
    for a few queries at a time, and once more in the backward pass.

    Args:
        channels: C.
        heads: A divisor of C; None for as many as fit, at most 8, of at least 8 channels each.
        position: ``none``, ``sincos2d`` (C % 4 == 0), ``learned`` or ``relative``.
        kv_stride: Pooling of keys and values, in pixels.
        residual: ``add`` for y = x + f(x), ``none`` for y = f(x).
        init: ``paper`` or ``identity``; the paper names no initialisation, so torch's is kept.

    Raises:
        ValueError: On a value that the table of blocks does not allow.
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int | None = None,
        position: str = "none",
        kv_stride: int = 1,
        residual: str = "add",
        init: str = "paper",
    ) -> None:
        options = {"heads": heads, "position": position, "kv_stride": kv_stride, "residual": residual}
        BLOCKS["mhsa"].check(options, channels)
        super().__init__(init)
        self.heads = fitting_heads(channels) if heads is None else heads
        self.position = position
        self.kv_stride = kv_stride
        self.residual = residual
        self.query = nn.Linear(channels, channels, bias=False)
        self.key_value = nn.Linear(channels, 2 * channels, bias=False)
        self.project = nn.Linear(channels, channels, bias=False)
        if position == "learned":
            self.places = Learned(channels)
        elif position == "relative":
            self.offsets = Relative(channels // self.heads)

    def forward(self, x: Tensor) -> Tensor:
        if self.residual == "none":
            return self.blend(x, as_map(self.project(self.gather(x)), x))
        # the strength meets the weights rather than the map
        added = F.linear(self.gather(x), self.damp(self.project.weight))
        return x + as_map(added, x).to(x.dtype)

    def gather(self, x: Tensor) -> Tensor:
        """Return what every pixel gathers in all heads, (B, N, C)."""
        height, width = x.shape[2:]
        if self.position == "sincos2d":
            x = x + sincos2d(x.shape[1], height, width, x)
        elif self.position == "learned":
            x = x + self.places(height, width).to(x.dtype)
        tokens = as_tokens(x)
        source = pooled_tokens(tokens, x, F.avg_pool2d, self.kv_stride)
        # 1 / sqrt(d) meets the weights rather than the map
        query = self._split(F.linear(tokens, (x.shape[1] // self.heads) ** -0.5 * self.query.weight))
        key, value = map(self._split, self.key_value(source).chunk(2, 2))  # (B, heads, M, d)
        if self.position == "relative":
            by_row, by_column = self.offsets(torch.unflatten(query, 2, (height, width)), self.kv_stride)
            gathered = attend_with_places(query, key, value, by_row.flatten(2, 3), by_column.flatten(2, 3))
        else:
            gathered = attend(query, key, value)
        return gathered.transpose(1, 2).flatten(2)

    def _split(self, tokens: Tensor) -> Tensor:
        """Return (B, N, C) as (B, heads, N, d), each head in one piece: the fused attention reads it many times."""
        return torch.unflatten(tokens, 2, (self.heads, -1)).transpose(1, 2).contiguous()


def attend_with_places(query: Tensor, key: Tensor, value: Tensor, by_row: Tensor, by_column: Tensor) -> Tensor:
    """Return softmax(query key^T + scores by row + scores by column) value.

    Args:
        query: (B, heads, N, d).
        key: (B, heads, M, d), M = rows of keys * columns of keys.
        value: (B, heads, M, d).
        by_row: (B, heads, N, rows of keys).
        by_column: (B, heads, N, columns of keys).
    """
    step = max(1, SCORES // key.shape[2])
    parts = zip(torch.split(query, step, 2), torch.split(by_row, step, 2), torch.split(by_column, step, 2), strict=True)
    if step >= query.shape[2] or not torch.is_grad_enabled():
        gathered = [_attend_part(q, r, c, key, value) for q, r, c in parts]
    else:
        gathered = [
            checkpoint(_attend_part, q, r, c, key, value, use_reentrant=False, preserve_rng_state=False)
            for q, r, c in parts
        ]
    return torch.cat(gathered, 2) if len(gathered) > 1 else gathered[0]


def _attend_part(query: Tensor, by_row: Tensor, by_column: Tensor, key: Tensor, value: Tensor) -> Tensor:
    places = (by_row.unsqueeze(4) + by_column.unsqueeze(3)).flatten(3)  # (B, heads, part of N, M)
    return (query @ key.transpose(2, 3) + places).softmax(3).to(value.dtype) @ value
