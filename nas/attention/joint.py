"""Channel and spatial attention in one block, the spatial part by convolutions: CBAM, BAM and GAM.

Shapes: B images, C channels, H rows, W columns; h hidden units; k the kernel size.
Convolutions that a batch normalisation follows directly have no bias: it would cancel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.attention import BLOCKS
from nas.attention.base import BatchNorm, Gate, mean
from nas.attention.widths import hidden_width


class CBAM(Gate):
    """Convolutional block attention module: a gate per channel, then a gate per pixel.

    CBAM: Convolutional Block Attention Module; Sanghyun Woo, Jongchan Park, Joon-Young Lee, In So Kweon;
    arXiv 1807.06521, equations 1 to 3::

        x' = x * sigmoid(MLP(avg x) + MLP(max x))               pools over the pixels; one MLP, C -> h -> C
        y = x' * sigmoid(BN(conv_k([max x'; avg x'])))          pools over the channels

    The equations have neither the MLP's biases nor the batch normalisation; both are in the authors' code, and here.
    Their ImageNet script also sets that normalisation's weight to 0, which is part of their training, not of the block.
    There is no residual: ports that add one have gates in (1, 2).

    Args:
        channels: C.
        reduction: h = max(C // reduction, min(4, C)).
        kernel_size: k, odd.
        init: ``paper`` or ``identity``; the authors' module keeps torch's initialisation.

    Raises:
        ValueError: On a value that the table of blocks does not allow.
    """

    def __init__(self, channels: int, *, reduction: int = 16, kernel_size: int = 7, init: str = "paper") -> None:
        BLOCKS["cbam"].check({"reduction": reduction, "kernel_size": kernel_size}, channels)
        super().__init__(init)
        hidden = hidden_width(channels, reduction)
        self.reduce = nn.Linear(channels, hidden)
        self.expand = nn.Linear(hidden, channels)
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = BatchNorm(1, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        x = self.scale(x, self.channel_gate(x))
        return self.scale(x, self.spatial_gate(x))

    def channel_gate(self, x: Tensor) -> Tensor:
        """Return the gate per channel, (B, C, 1, 1)."""
        # max, not amax, here and below: its gradient goes to one of several equal values, as in the authors' code,
        # and is much cheaper
        pools = torch.stack((mean(x), x.flatten(2).max(2).values))  # (2, B, C)
        logits = self.expand(F.relu(self.reduce(pools))).sum(0)
        return torch.sigmoid(logits)[:, :, None, None]

    def spatial_gate(self, x: Tensor) -> Tensor:
        """Return the gate per pixel, (B, 1, H, W)."""
        planes = torch.cat((x.max(1, keepdim=True).values, mean(x, (1,), keepdim=True)), 1)
        return torch.sigmoid(self.norm(self.conv(planes)))


class BAM(Gate):
    """Bottleneck attention module: a channel and a spatial branch meet in one gate in (1, 2).

    BAM: Bottleneck Attention Module; Jongchan Park, Sanghyun Woo, Joon-Young Lee, In So Kweon; arXiv 1807.06514,
    equations 1 to 4::

        y = x * (1 + sigmoid(Mc + Ms))
        Mc = BN(W2 relu(BN(W1 avg x)))                            (B, C, 1, 1)
        Ms = BN(conv1x1(DC(DC(conv1x1 x))))                       (B, 1, H, W), DC: dilated 3x3

    Every hidden layer is followed by BN and ReLU, which the equations leave out and the authors' code has. That code
    multiplies the branches instead of adding them and has no normalisation at their ends: ``combine="mul"``. It also
    cannot be instantiated as published, and pools only a square crop of maps that are not square. Ports that pad by 1
    whatever the dilation shrink the map.

    Args:
        channels: C.
        reduction: h = max(C // reduction, min(4, C)), in both branches.
        dilation: Of both 3x3 convolutions; also their padding.
        combine: ``add`` for the paper, ``mul`` for the authors' code.
        init: ``paper`` or ``identity`` (``1 + strength * sigmoid(...)``); the authors keep torch's initialisation.

    Raises:
        ValueError: On a value that the table of blocks does not allow.
    """

    def __init__(
        self, channels: int, *, reduction: int = 16, dilation: int = 4, combine: str = "add", init: str = "paper"
    ) -> None:
        BLOCKS["bam"].check({"reduction": reduction, "dilation": dilation, "combine": combine}, channels)
        super().__init__(init)
        self.combine = combine
        self.dilation = dilation
        hidden = hidden_width(channels, reduction)
        self.channel = nn.Sequential(*_unit(channels, hidden, 1), *self._last(hidden, channels))
        self.spatial = nn.Sequential(
            *_unit(channels, hidden, 1),
            *_unit(hidden, hidden, 3, dilation),
            *_unit(hidden, hidden, 3, dilation),
            *self._last(hidden, 1),
        )

    def _last(self, hidden: int, channels: int) -> tuple[nn.Module, ...]:
        if self.combine == "mul":
            return (nn.Conv2d(hidden, channels, 1),)
        return nn.Conv2d(hidden, channels, 1, bias=False), BatchNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        per_channel = self.channel(mean(x, keepdim=True))  # (B, C, 1, 1)
        per_pixel = self.spatial(x)  # (B, 1, H, W)
        logits = per_channel + per_pixel if self.combine == "add" else per_channel * per_pixel
        # not x * (1 + ...), which would keep one more map for the gradient
        return x + x * self.damp(torch.sigmoid(logits)).to(x.dtype)


class GAM(Gate):
    """Global attention mechanism: both gates keep all channels and all pixels.

    Global Attention Mechanism: Retain Information to Enhance Channel-Spatial Interactions; Yichao Liu, Zongru Shao,
    Nico Hoffmann; arXiv 2112.05561, equations 1 and 2::

        x' = x * sigmoid(W2 relu(W1 x + b1) + b2)                 at every pixel
        y = x' * sigmoid(BN(conv_k(relu(BN(conv_k x')))))         C -> h -> C

    The code that circulates leaves out the first sigmoid, which the paper's figure shows: ``gate="none"``; its channel
    factor has no bounds and can be negative. The authors' grouped convolutions for ResNet-50 are not offered. With
    2 k^2 C h weights the block is heavier than most that it is put behind.

    Args:
        channels: C.
        reduction: h = max(C // reduction, min(4, C)), in both gates.
        kernel_size: k, odd.
        gate: ``sigmoid`` for the paper's figure, ``none`` for the circulating code.
        init: ``paper`` or ``identity``; the paper names no initialisation, so torch's is kept.

    Raises:
        ValueError: On a value that the table of blocks does not allow.
    """

    def __init__(
        self, channels: int, *, reduction: int = 4, kernel_size: int = 7, gate: str = "sigmoid", init: str = "paper"
    ) -> None:
        BLOCKS["gam"].check({"reduction": reduction, "kernel_size": kernel_size, "gate": gate}, channels)
        super().__init__(init)
        self.gate = gate
        hidden = hidden_width(channels, reduction)
        # a linear layer at every pixel, written as 1x1 convolutions to leave the axes where they are
        self.channel = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1))
        self.spatial = nn.Sequential(
            *_unit(channels, hidden, kernel_size),
            nn.Conv2d(hidden, channels, kernel_size, padding=kernel_size // 2, bias=False),
            BatchNorm(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        factor = self.channel(x)
        x = self.scale(x, torch.sigmoid(factor) if self.gate == "sigmoid" else factor)
        return self.scale(x, torch.sigmoid(self.spatial(x)))


def _unit(channels: int, out: int, kernel_size: int, dilation: int = 1) -> tuple[nn.Module, ...]:
    """Return convolution, normalisation and ReLU that keep the map's size."""
    padding = dilation * (kernel_size // 2)
    conv = nn.Conv2d(channels, out, kernel_size, padding=padding, dilation=dilation, bias=False)
    return conv, BatchNorm(out), nn.ReLU()
