"""Gates from the means along rows and columns, without a bottleneck: ELA and strip pooling.

Shapes: B images, C channels, H rows, W columns; k the kernel size of the convolutions along a strip.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.attention import BLOCKS
from nas.attention.base import BatchNorm, Gate, mean
from nas.attention.widths import ELA_NORM_GROUPS, largest_group


class ELA(Gate):
    """Efficient local attention: a gate per channel and row times a gate per channel and column, from 1-D convolutions.

    ELA: Efficient Local Attention for Deep Convolutional Neural Networks; Wei Xu, Yi Wan; arXiv 2403.01123. With the
    row means (C, H) and the column means (C, W), and GN a group normalisation with weight and bias per channel::

        g(z) = sigmoid(GN(conv1d_k(z)))                           along the strip, zeros beyond its ends
        y = x * g(mean over W) * g(mean over H)

    One convolution, without a bias, and one normalisation serve both directions, as in the paper's listing; each
    direction is normalised by its own statistics. The paper's versions::

        ELA-T  kernel_size=5, norm_groups=32
        ELA-B  kernel_size=7                                      the default
        ELA-S  kernel_size=5, group_width=8
        ELA-L  kernel_size=7, group_width=8

    The listing's 16 groups fail on widths that 16 does not divide. On a 1x1 map a group of one channel is normalised
    to 0: the gates depend on the bias alone. timm's ``ela`` is another network: a convolution and a GN of one group for
    each direction, and SiLU before the sigmoid, which cannot fall below 0.43 then.

    Args:
        channels: C.
        kernel_size: k, odd.
        group_width: Channels that the convolution mixes, a divisor of C; 1 for a depthwise one.
        norm_groups: Groups of the normalisation, a divisor of C; None for the largest divisor up to 16.
        init: ``paper`` or ``identity``; the paper names no initialisation, so torch's is kept.

    Raises:
        ValueError: On a value that the table of blocks does not allow.
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int = 7,
        group_width: int = 1,
        norm_groups: int | None = None,
        init: str = "paper",
    ) -> None:
        options = {"kernel_size": kernel_size, "group_width": group_width, "norm_groups": norm_groups}
        BLOCKS["ela"].check(options, channels)
        super().__init__(init)
        groups = channels // group_width
        self.gap = kernel_size // 2
        self.conv = nn.Conv2d(channels, channels, (kernel_size, 1), padding=(self.gap, 0), groups=groups, bias=False)
        normed = largest_group(channels, multiple=1, limit=ELA_NORM_GROUPS) if norm_groups is None else norm_groups
        self.norm = nn.GroupNorm(normed, channels)

    def forward(self, x: Tensor) -> Tensor:
        row_means = F.pad(mean(x, (3,), keepdim=True), (0, 0, 0, self.gap))  # (B, C, H + gap, 1)
        column_means = mean(x, (2,), keepdim=True).transpose(2, 3)  # (B, C, W, 1)
        # one convolution costs less than two, above all its gradient; the zeros between keep the directions apart
        both = self.conv(torch.cat((row_means, column_means), 2))
        rows, _, columns = torch.split(both, [x.shape[2], self.gap, x.shape[3]], 2)
        row_gate, column_gate = self._gate(rows), self._gate(columns).transpose(2, 3)
        return self.scale(self.scale(x, row_gate), column_gate)

    def _gate(self, strip: Tensor) -> Tensor:
        norm = self.norm
        # the operator itself: nn.GroupNorm refuses groups of a single value, which it would normalise to 0
        return torch.sigmoid(torch.group_norm(strip, norm.num_groups, norm.weight, norm.bias, norm.eps))


class Strip(Gate):
    """Strip pooling: a gate per value from the sum of what is seen along its row and along its column.

    Strip Pooling: Rethinking Spatial Pooling for Scene Parsing; Qibin Hou, Li Zhang, Ming-Ming Cheng, Jiashi Feng;
    arXiv 2003.13328, the strip pooling module. With r (C, H) the means over W and c (C, W) those
    over H, and dense 1-D convolutions C -> C of size k along the strips::

        u_ij = relu(BN(conv_k r)_i + BN(conv_k c)_j)              (B, C, H, W)
        y = x * sigmoid(W1 u + b1)                                W1 (C, C) at every pixel

    The equations have neither BN nor ReLU; both are in the authors' code, and here. ``convolution="depthwise"`` is the
    light form that circulates (timm's ``strip``): ``y = x * sigmoid(conv_k r + conv_k c)`` with a filter for each
    channel, and no BN, ReLU, W1 or biases.

    Not the mixed pooling module of the same paper, which many ports name "strip pooling": it replaces the map.

    Args:
        channels: C.
        convolution: ``dense`` for the paper, ``depthwise`` for the light form.
        kernel_size: k, odd.
        init: ``paper`` or ``identity``; the authors' module keeps torch's initialisation.

    Raises:
        ValueError: On a value that the table of blocks does not allow.
    """

    def __init__(self, channels: int, *, convolution: str = "dense", kernel_size: int = 3, init: str = "paper") -> None:
        BLOCKS["strip"].check({"convolution": convolution, "kernel_size": kernel_size}, channels)
        super().__init__(init)
        groups = channels if convolution == "depthwise" else 1
        along = kernel_size // 2
        self.rows = nn.Conv2d(channels, channels, (kernel_size, 1), padding=(along, 0), groups=groups, bias=False)
        self.columns = nn.Conv2d(channels, channels, (1, kernel_size), padding=(0, along), groups=groups, bias=False)
        self.dense = convolution == "dense"
        if self.dense:
            self.row_norm = BatchNorm(channels)
            self.column_norm = BatchNorm(channels)
            self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.rows(mean(x, (3,), keepdim=True))  # (B, C, H, 1)
        columns = self.columns(mean(x, (2,), keepdim=True))  # (B, C, 1, W)
        if self.dense:
            rows, columns = self.row_norm(rows), self.column_norm(columns)
        logits = rows + columns  # (B, C, H, W)
        return self.scale(x, torch.sigmoid(self.mix(F.relu(logits)) if self.dense else logits))
