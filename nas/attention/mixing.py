"""Blocks that replace the map by a weighted sum of several transformed maps: SK and S2MLP.

Shapes: B images, C channels, H rows, W columns; M branches; G groups; d or h hidden units of the weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.attention import BLOCKS
from nas.attention.base import BatchNorm, Block, mean
from nas.attention.widths import SK_FLOOR, SK_GROUPS, hidden_width, largest_group

DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1))
"""Where the four quarters of the first part of S2MLP move, in rows and columns; the second part swaps the axes."""


class SK(Block):
    """Selective kernel convolution: branches of growing receptive field, summed with weights that sum to 1.

    Selective Kernel Networks; Xiang Li, Wenhai Wang, Xiaolin Hu, Jian Yang; arXiv 1903.06586, section 3.1::

        U_m = relu(BN(conv_m x)),   m = 1 ... M                   3x3, dilation m, G groups
        z = relu(BN(Wz mean(U_1 + ... + U_M)))                    over the pixels; Wz is (d, C)
        y = a_1 U_1 + ... + a_M U_M,   a = softmax_M(A z)         A is (M, C, d): weights for each channel

    No layer has a bias, as in the authors' Caffe models. The paper counts the dilated 3x3 kernels as 5x5, 7x7 and so
    on, and writes the default as SK[2, 32, 16]. In its network this unit takes the place of a 3x3 convolution: y is no
    multiple of x. Ports use dense kernels of 1, 3, 5 and 7 pixels, with some twenty times the weights; others drop
    batch normalisation and ReLU behind Wz, or the least width of 32. The normalisation of z sees one value per image:
    a single image in training mode takes its running statistics.

    Args:
        channels: C.
        branches: M.
        groups: G with C % G == 0, in every branch; None for the largest up to 32.
        reduction: d = max(C // reduction, min(32, C)).
        init: ``paper`` or ``identity``, here ``x + strength * (y - x)``; behind a batch normalisation the scale of the
            first weights hardly matters, and torch's is kept.

    Raises:
        ValueError: On a value that the table of blocks does not allow.
    """

    def __init__(
        self,
        channels: int,
        *,
        branches: int = 2,
        groups: int | None = None,
        reduction: int = 16,
        init: str = "paper",
    ) -> None:
        BLOCKS["sk"].check({"branches": branches, "groups": groups, "reduction": reduction}, channels)
        super().__init__(init)
        self.groups = largest_group(channels, multiple=1, limit=SK_GROUPS) if groups is None else groups
        hidden = hidden_width(channels, reduction, SK_FLOOR)
        self.branches = nn.ModuleList(_branch(channels, self.groups, dilation) for dilation in range(1, branches + 1))
        self.reduce = nn.Linear(channels, hidden, bias=False)
        self.norm = BatchNorm(hidden)
        self.select = nn.Linear(hidden, branches * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        maps = [branch(x) for branch in self.branches]
        weights = self.weights(maps).to(maps[0].dtype).unbind(1)
        if len(maps) == 2:  # the weights sum to 1; this is one pass less than two products
            return self.blend(x, torch.lerp(maps[1], maps[0], weights[0]))
        y = maps[0] * weights[0]
        for part, weight in zip(maps[1:], weights[1:], strict=True):
            y = torch.addcmul(y, part, weight)
        return self.blend(x, y)

    def weights(self, maps: list[Tensor]) -> Tensor:
        """Return the weights of the branches, (B, M, C, 1, 1), which sum to 1 over the branches."""
        total = maps[0]
        for part in maps[1:]:
            total = total + part
        z = F.relu(self.norm(self.reduce(mean(total))[:, :, None, None])).flatten(1)  # (B, d)
        logits = torch.unflatten(self.select(z), 1, (len(maps), -1))
        return logits.softmax(1)[:, :, :, None, None]


class S2MLP(Block):
    """Spatial-shift MLP with split attention: quarters of the channels move by one pixel, three parts are weighed.

    S^2-MLPv2: Improved Spatial-Shift MLP Architecture for Vision; Tan Yu, Xu Li, Yunfeng Cai, Mingming Sun, Ping Li;
    arXiv 2108.01072. With n = LN(x), over the channels of each pixel, and We: C -> 3C, Wp: C -> C, at every pixel::

        [p1; p2; p3] = We n + be                                  three parts of C channels
        p1: quarters of the channels move down, up, right, left   by one pixel; p2: right, left, down, up
        a = softmax over the parts(A2 gelu(A1 sum(p1 + p2 + p3))) (3, C), sum over the pixels; no biases
        y = x + Wp (a1 p1 + a2 p2 + a3 p3) + bp

    At the border that a quarter leaves, its pixels keep their values. The quarters end at C // 4, C // 2 and 3 C // 4.
    The second half of the paper's block, an MLP on the channels of each pixel, is left to the network around this one.
    The sum has no 1 / (H W), so that a grows sharper with the map.

    The authors published no code. What circulates shifts in place while it reads, which smears the first row (or
    column) over the whole map wherever the shift goes down (or right); one copy also fixes 512 channels inside. That
    component stands alone, without normalisation and residual: ``residual="none"``, whose output is laid out channels
    last, as the whole block works on pixels.

    Args:
        channels: C, at least 4.
        reduction: h = max(C // reduction, min(4, C)), the width between A1 and A2.
        residual: ``pre_norm`` for the paper's block; ``none`` for ``y = Wp (...) + bp`` with n = x.
        init: ``paper`` or ``identity``; without a residual ``x + strength * (y - x)``. The paper names no
            initialisation, so torch's is kept.

    Raises:
        ValueError: On a value that the table of blocks does not allow.
    """

    norm: nn.LayerNorm | None

    def __init__(self, channels: int, *, reduction: int = 1, residual: str = "pre_norm", init: str = "paper") -> None:
        BLOCKS["s2mlp"].check({"reduction": reduction, "residual": residual}, channels)
        super().__init__(init)
        hidden = hidden_width(channels, reduction)
        ends = (channels // 4, channels // 2, 3 * channels // 4, channels)
        self.quarters = tuple(end - start for start, end in zip((0, *ends[:-1]), ends, strict=True))
        self.norm = nn.LayerNorm(channels) if residual == "pre_norm" else None
        self.expand = nn.Linear(channels, 3 * channels)
        self.squeeze = nn.Linear(channels, hidden, bias=False)
        self.weigh = nn.Linear(hidden, 3 * channels, bias=False)
        self.project = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.permute(0, 2, 3, 1)  # (B, H, W, C)
        if self.norm is None:
            return self.blend(x, self.mix(pixels).permute(0, 3, 1, 2))
        return x + self.damp(self.mix(self.norm(pixels)).permute(0, 3, 1, 2)).to(x.dtype)

    def mix(self, pixels: Tensor) -> Tensor:
        """Return the component without normalisation and residual, from and to (B, H, W, C)."""
        # one split, for its gradient is one concatenation, where that of every slice is a map full of zeros
        *moving, third = self.expand(pixels).split((*self.quarters, *self.quarters, sum(self.quarters)), 3)
        pairs = list(zip(moving[:4], moving[4:], DIRECTIONS, strict=True))
        first = torch.cat([_shifted(part, rows, columns) for part, _, (rows, columns) in pairs], 3)
        second = torch.cat([_shifted(part, columns, rows) for _, part, (rows, columns) in pairs], 3)
        total = first.sum((1, 2)) + second.sum((1, 2)) + third.sum((1, 2))  # (B, C)
        logits = torch.unflatten(self.weigh(F.gelu(self.squeeze(total))), 1, (3, -1))
        a1, a2, a3 = logits.softmax(1).to(third.dtype)[:, :, None, None].unbind(1)  # (B, 1, 1, C) each
        mixed: Tensor = self.project(first * a1 + second * a2 + third * a3)
        return mixed


def _branch(channels: int, groups: int, dilation: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, groups=groups, bias=False)
    return nn.Sequential(conv, BatchNorm(channels), nn.ReLU(inplace=True))


def _shifted(pixels: Tensor, rows: int, columns: int) -> Tensor:
    """Return (B, H, W, C) moved down or right by 1, up or left by -1; the border that it leaves keeps its values."""
    axis = 1 if rows else 2
    last = pixels.shape[axis] - 1
    # not F.pad(mode="replicate"): compiled, its gradient fails on maps that are laid out channels last
    if rows + columns > 0:
        return torch.cat((pixels.narrow(axis, 0, 1), pixels.narrow(axis, 0, last)), axis)
    return torch.cat((pixels.narrow(axis, 1, last), pixels.narrow(axis, last, 1)), axis)
