"""Gates per pixel from the map's own statistics, at almost no parameters: SGE and SimAM.

Shapes: B images, C channels, H rows, W columns, N = H * W pixels; G groups of D = C / G channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas.attention import BLOCKS
from nas.attention.base import Gate, mean, wide
from nas.attention.widths import largest_group


class SGE(Gate):
    """Spatial group-wise enhance: each group of channels is gated by its pixels' similarity to the group's mean.

    Spatial Group-wise Enhance: Improving Semantic Feature Learning in Convolutional Networks; Xiang Li, Xiaolin Hu,
    Jian Yang; arXiv 1905.09646. In each group, with s the spatial mean and p a pixel::

        c_p = <s, x_p>;  t_p = (c_p - mean c) / (std c + 1e-5);  y_p = x_p * sigmoid(w t_p + b)

    The standard deviation is the unbiased one, as in the authors' code, which returns NaN on a 1x1 map; here a lone
    pixel has t = 0. w = 0 and b = 1 at the start; a port that starts b at 0 halves the map instead of scaling by 0.731.

    Args:
        channels: C.
        groups: G, a divisor of C; None for the largest divisor up to 64.
        init: ``paper`` or ``identity``.

    Raises:
        ValueError: On a value that the table of blocks does not allow.
    """

    def __init__(self, channels: int, *, groups: int | None = None, init: str = "paper") -> None:
        BLOCKS["sge"].check({"groups": groups}, channels)
        super().__init__(init)
        self.groups = largest_group(channels, multiple=1) if groups is None else groups
        self.weight = nn.Parameter(torch.zeros(self.groups, 1, 1))
        self.bias = nn.Parameter(torch.ones(self.groups, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        grouped = torch.unflatten(x, 1, (self.groups, -1))  # (B, G, D, H, W)
        similarity = wide((grouped * mean(grouped, (3, 4), keepdim=True)).sum(2))  # (B, G, H, W)
        # adds the negative: the gradient of a difference would negate the whole map before it is summed
        centred = similarity + -mean(similarity, keepdim=True)
        # by the norm: torch's std is several times slower, and a square root has no gradient on constant maps
        norm = torch.linalg.vector_norm(centred, dim=(2, 3), keepdim=True)
        deviation = norm / max(x.shape[2] * x.shape[3] - 1, 1) ** 0.5
        gate = torch.sigmoid(centred * (wide(self.weight) / (deviation + 1e-5)) + self.bias)
        return self.scale(grouped, gate.unsqueeze(2)).flatten(1, 2)


class SimAM(Gate):
    """SimAM: each value is gated by how far it stands out of its channel; no parameters.

    SimAM: A Simple, Parameter-Free Attention Module for Convolutional Neural Networks; Lingxiao Yang, Ru-Yuan Zhang,
    Lida Li, Xiaohua Xie; ICML 2021, equations 5 and 6. Per image and channel, with mean m and unbiased
    variance v::

        y = x * sigmoid((x - m)^2 / (4 (v + lambda)) + 1/2)

    The gate is at least sigmoid(1/2) = 0.6225. The module's default lambda is 1e-4; the authors' ImageNet commands pass
    0.1. Their code divides by N - 1 = 0 on a 1x1 map and returns NaN; here a lone pixel has variance 0.

    Args:
        channels: C; checked, but nothing depends on it.
        lambda_: Added to the variance.
        init: ``paper`` or ``identity``.

    Raises:
        ValueError: On a value that the table of blocks does not allow.
    """

    def __init__(self, channels: int, *, lambda_: float = 1e-4, init: str = "paper") -> None:
        BLOCKS["simam"].check({"lambda_": lambda_}, channels)
        super().__init__(init)
        self.lambda_ = lambda_

    def forward(self, x: Tensor) -> Tensor:
        # adds the negative: the gradient of a difference would negate the whole map before it is summed
        values = wide(x)
        centred = values + -mean(values, keepdim=True)
        energy = centred * centred  # not pow, which autocast would compute in float32
        pixels = x.shape[2] * x.shape[3]
        variance = mean(energy, keepdim=True) * (pixels / max(pixels - 1, 1))
        # divides the small factor, so that the map is only multiplied
        return self.scale(x, torch.sigmoid(energy * (0.25 / (variance + self.lambda_)) + 0.5))
