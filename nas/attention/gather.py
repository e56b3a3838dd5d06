"""Gates from the means or convolutions over a neighbourhood: gather-excite.

Shapes: B images, C channels, H rows, W columns; e the extent; h hidden units.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.attention import BLOCKS
from nas.attention.base import BatchNorm, Gate, mean
from nas.attention.widths import hidden_width

REDUCTION = 16
"""Channels per hidden unit of the excite operator's bottleneck, from the authors' models."""


class GatherExcite(Gate):
    """Gather-excite: gather what lies around, and gate every value by what was gathered nearest to it.

    Gather-Excite: Exploiting Feature Context in Convolutional Neural Networks; Jie Hu, Li Shen, Samuel Albanie, Gang
    Sun, Andrea Vedaldi; arXiv 1810.12348::

        y = x * sigmoid(interp(f(gather(x))))                     interp: nearest neighbour, to (H, W)

        GE-theta-minus  gather = mean over up to (2 e - 1)^2 pixels, stride e; over all of them if e is global
        GE-theta        gather = log2(e) depthwise 3x3 convolutions, stride 2, BN after each, ReLU between them
        GE-theta-plus   GE-theta, then f = W2 relu(W1 relu(.) + b1) + b2 at every gathered place, W1 (h, C), W2 (C, h)

    f is the identity but in the last. The gathered map has ceil(H / e) rows and ceil(W / e) columns. Here the sigmoid
    stands before the interpolation, which is the same for less. The default, the global mean, has no parameters: its
    gate depends on nothing but its own channel's mean.

    ``excite="mlp"`` behind means is squeeze-and-excitation in a neighbourhood, without the first relu(.). With a global
    extent it would be the block ``se``; a global GE-theta, one depthwise filter as large as the map, would tie the
    network to one size of map. Neither is offered: ``gather`` and ``excite`` act on local extents only.

    timm 1.0.31 raises a TypeError for its ``ge`` with convolutions or an MLP.

    Args:
        channels: C.
        extent: e, a power of two from 2 to 32; 0 for global. Maps may be smaller.
        gather: ``mean`` or ``conv``; only with a local extent.
        excite: ``none`` or ``mlp``, h = max(C // 16, min(4, C)); only with a local extent.
        init: ``paper`` or ``identity``; torch's initialisation is kept, where the authors draw W1 and W2 with a
            standard deviation of 0.01.

    Raises:
        ValueError: On a value that the table of blocks does not allow.
    """

    def __init__(
        self, channels: int, *, extent: int = 0, gather: str = "mean", excite: str = "none", init: str = "paper"
    ) -> None:
        BLOCKS["ge"].check({"extent": extent, "gather": gather, "excite": excite}, channels)
        super().__init__(init)
        self.extent = extent
        layers: list[nn.Module] = []
        steps = extent.bit_length() - 1 if gather == "conv" else 0
        for step in range(steps):
            layers += [nn.ReLU()] if step else []
            layers += [nn.Conv2d(channels, channels, 3, 2, padding=1, groups=channels, bias=False), BatchNorm(channels)]
        if extent and excite == "mlp":
            hidden = hidden_width(channels, REDUCTION)
            layers += [nn.ReLU()] if steps else []
            layers += [nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1)]
        self.convolves = steps > 0
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        extent = self.extent
        if extent == 0:
            return self.scale(x, torch.sigmoid(mean(x, keepdim=True)))
        gathered = x
        if not self.convolves:
            gathered = F.avg_pool2d(x, 2 * extent - 1, extent, padding=extent - 1, count_include_pad=False)
        gate = self.open(torch.sigmoid(self.layers(gathered)))  # (B, C, ceil(H / e), ceil(W / e))
        return x * F.interpolate(gate.to(x.dtype), x.shape[2:], mode="nearest")
