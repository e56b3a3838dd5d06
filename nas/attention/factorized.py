"""Channel and spatial attention as a product, sum or concatenation of small gates: Coord, Shuffle and PSA.

Shapes: B images, C channels, H rows, W columns; h hidden units; G groups of 2 D channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.attention import BLOCKS
from nas.attention.base import BatchNorm, Gate, mean
from nas.attention.widths import COORD_FLOOR, hidden_width, largest_group


class Coord(Gate):
    """Coordinate attention: a gate per channel and row times a gate per channel and column.

    Coordinate Attention for Efficient Mobile Network Design; Qibin Hou, Daquan Zhou, Jiashi Feng; arXiv 2103.02907,
    equations 4 to 9, with the row means (C, H) and the column means (C, W) as one sequence of H + W positions::

        [f_rows; f_columns] = hardswish(BN(W1 [mean over W; mean over H]))       (h, H + W)
        y = x * sigmoid(Wh f_rows + bh) * sigmoid(Ww f_columns + bw)

    The authors' code gives W1 a bias as well, which the batch normalisation cancels; it is left out.

    Args:
        channels: C.
        reduction: h = max(C // reduction, min(8, C)).
        init: ``paper`` or ``identity``; the authors' module keeps torch's initialisation.

    Raises:
        ValueError: On a value that the table of blocks does not allow.
    """

    def __init__(self, channels: int, *, reduction: int = 32, init: str = "paper") -> None:
        BLOCKS["coord"].check({"reduction": reduction}, channels)
        super().__init__(init)
        hidden = hidden_width(channels, reduction, COORD_FLOOR)
        self.reduce = nn.Conv2d(channels, hidden, 1, bias=False)
        self.norm = BatchNorm(hidden)
        self.rows = nn.Conv2d(hidden, channels, 1)
        self.columns = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        row_means = mean(x, (3,), keepdim=True)  # (B, C, H, 1)
        column_means = mean(x, (2,), keepdim=True).transpose(2, 3)  # (B, C, W, 1)
        features = F.hardswish(self.norm(self.reduce(torch.cat((row_means, column_means), 2))))
        row_features, column_features = torch.split(features, [x.shape[2], x.shape[3]], 2)
        row_gate = torch.sigmoid(self.rows(row_features))  # (B, C, H, 1)
        column_gate = torch.sigmoid(self.columns(column_features)).transpose(2, 3)  # (B, C, 1, W)
        return self.scale(self.scale(x, row_gate), column_gate)


class Shuffle(Gate):
    """Shuffle attention: half of each group's channels gets a channel gate, half a spatial gate; then a shuffle.

    SA-Net: Shuffle Attention for Deep Convolutional Neural Networks; Qing-Long Zhang, Yu-Bin Yang; arXiv 2102.00240.
    In each group, with halves a and b of D channels and parameters that all groups share::

        a' = a * sigmoid(wc mean(a) + bc);   b' = b * sigmoid(ws norm(b) + bs);   y = channel_shuffle([a'; b'], 2)

    norm is the authors' GroupNorm of D groups over D channels: an affine instance normalisation, eps 1e-5. wc = ws = 0
    and bc = bs = 1 at the start, so that the output is 0.7311 times the shuffled input. As channels change places, a
    softened gate could never be the identity; ``init="identity"`` moves the whole map, ``x + strength * (y - x)``.

    The output is laid out as (B, C, H, W) even for channels_last input, as the shuffle copies the map anyway.

    Args:
        channels: C, even.
        groups: G with C % (2 G) == 0; None for the largest up to 64.
        init: ``paper`` or ``identity``.

    Raises:
        ValueError: On a value that the table of blocks does not allow.
    """

    def __init__(self, channels: int, *, groups: int | None = None, init: str = "paper") -> None:
        BLOCKS["shuffle"].check({"groups": groups}, channels)
        super().__init__(init)
        self.groups = largest_group(channels, multiple=2) if groups is None else groups
        width = channels // (2 * self.groups)
        self.channel_weight = nn.Parameter(torch.zeros(width, 1, 1))
        self.channel_bias = nn.Parameter(torch.ones(width, 1, 1))
        self.spatial_weight = nn.Parameter(torch.zeros(width, 1, 1))
        self.spatial_bias = nn.Parameter(torch.ones(width, 1, 1))
        self.norm_weight = nn.Parameter(torch.ones(width, 1, 1))
        self.norm_bias = nn.Parameter(torch.zeros(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.unflatten(x, 1, (self.groups, 2, -1)).unbind(2)  # (B, G, D, H, W) each
        gated = torch.stack((a * self._channel_gate(a).to(x.dtype), b * self._spatial_gate(b).to(x.dtype)), 2)
        halves = torch.unflatten(gated.flatten(1, 3), 1, (2, -1))  # (B, 2, C / 2, H, W)
        shuffled = halves.transpose(1, 2).flatten(1, 2)  # channel i of the one half beside channel i of the other
        return self.blend(x, shuffled)

    def _channel_gate(self, a: Tensor) -> Tensor:
        return torch.sigmoid(self.channel_weight * mean(a, (3, 4), keepdim=True) + self.channel_bias)

    def _spatial_gate(self, b: Tensor) -> Tensor:
        # both affine maps in one; not F.group_norm, which refuses a single 1x1 map: its normalised value is simply 0
        slope = (self.spatial_weight * self.norm_weight).flatten()
        shift = (self.spatial_weight * self.norm_bias + self.spatial_bias).flatten()
        width = b.shape[2]
        logits = torch.group_norm(b.reshape(-1, width, *b.shape[3:]), width, slope, shift, eps=1e-5)
        return torch.sigmoid(logits).reshape(b.shape)


class PSA(Gate):
    """Polarized self-attention: a gate per channel and a gate per pixel, each from a softmax over the other axis.

    Polarized Self-Attention: Towards High-quality Pixel-wise Regression; Huajun Liu, Fuqiang Liu, Xinyi Fan, Dong
    Huang; arXiv 2107.00782. With 1x1 convolutions Wq: C -> 1, Wz: h -> C, and Wv, Wq', Wv': C -> h::

        gc = sigmoid(LN(Wz (Wv x . softmax over pixels(Wq x))))          (B, C, 1, 1)
        gs = sigmoid(softmax over h(avg(Wq' x)) . (Wv' x))               (B, 1, H, W)
        parallel: y = x * gc + x * gs;      sequential: x' = x * gc, y = x' * gs(x')

    The authors' code takes the softmax after the product, over all pixels, so that what the spatial sigmoid sees is of
    the order of 1 / (H W) and its gate is 0.5 for practical purposes; it also drops LN (parallel) or puts it into a
    narrower bottleneck (sequential). The paper's form is built here. The convolutions have no biases, and queries and
    values start as in that code, from Kaiming's normal initialisation by fan-in. Since Wv and Wv' are linear, they are
    applied after the sum over the pixels and to the query: equal to the equations, but without a (B, h, H, W) map.

    LN over a single channel is constant, so C must be at least 2.

    Args:
        channels: C.
        layout: ``parallel`` or ``sequential``.
        reduction: h = max(C // reduction, min(4, C)).
        init: ``paper`` or ``identity``; in the parallel layout ``1 + strength * (gc + gs - 1)``.

    Raises:
        ValueError: On a value that the table of blocks does not allow.
    """

    def __init__(self, channels: int, *, layout: str = "parallel", reduction: int = 2, init: str = "paper") -> None:
        BLOCKS["psa"].check({"layout": layout, "reduction": reduction}, channels)
        super().__init__(init)
        self.layout = layout
        hidden = hidden_width(channels, reduction)
        self.channel_query = nn.Conv2d(channels, 1, 1, bias=False)
        self.channel_value = nn.Linear(channels, hidden, bias=False)
        self.channel_expand = nn.Linear(hidden, channels, bias=False)
        self.norm = nn.LayerNorm(channels)
        self.spatial_query = nn.Linear(channels, hidden, bias=False)
        self.spatial_value = nn.Linear(channels, hidden, bias=False)
        for layer in (self.channel_query, self.channel_value, self.spatial_query, self.spatial_value):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        if self.layout == "parallel":
            gate = self.open(self.channel_gate(x)) + self.damp(self.spatial_gate(x))
            return x * gate.to(x.dtype)
        x = self.scale(x, self.channel_gate(x))
        return self.scale(x, self.spatial_gate(x))

    def channel_gate(self, x: Tensor) -> Tensor:
        """Return the gate per channel, (B, C, 1, 1)."""
        attention = self.channel_query(x).flatten(2).softmax(2)  # (B, 1, H W)
        pooled = torch.einsum("bcn,bn->bc", x.flatten(2), attention.squeeze(1).to(x.dtype))
        return torch.sigmoid(self.norm(self.channel_expand(self.channel_value(pooled))))[:, :, None, None]

    def spatial_gate(self, x: Tensor) -> Tensor:
        """Return the gate per pixel, (B, 1, H, W)."""
        query = self.spatial_query(mean(x)).softmax(1)  # (B, h)
        direction = query @ self.spatial_value.weight  # (B, C)
        return torch.sigmoid(torch.einsum("bchw,bc->bhw", x, direction.to(x.dtype)))[:, None]
