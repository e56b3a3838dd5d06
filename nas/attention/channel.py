"""Gates per channel, from the spatial mean: SE and ECA.

Shapes: B images, C channels, H rows, W columns; h hidden units.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.attention import BLOCKS
from nas.attention.base import Gate, mean
from nas.attention.widths import eca_kernel, hidden_width


class SE(Gate):
    """Squeeze-and-excitation: ``y = x * sigmoid(W2 relu(W1 s + b1) + b2)`` with s the mean over the pixels.

    Squeeze-and-Excitation Networks; Jie Hu, Li Shen, Samuel Albanie, Gang Sun, Enhua Wu; arXiv 1709.01507, equations
    2 to 4. W1 is (h, C), W2 is (C, h). Both layers have biases, as in the authors' Caffe models; the journal version
    and many ports leave them out. Ports without a floor on h silently lose the gate's input where C < reduction.

    Args:
        channels: C.
        reduction: h = max(C // reduction, min(4, C)).
        init: ``paper`` or ``identity``; the paper names no initialisation, so torch's is kept.

    Raises:
        ValueError: On a value that the table of blocks does not allow.
    """

    def __init__(self, channels: int, *, reduction: int = 16, init: str = "paper") -> None:
        BLOCKS["se"].check({"reduction": reduction}, channels)
        super().__init__(init)
        hidden = hidden_width(channels, reduction)
        self.reduce = nn.Linear(channels, hidden)
        self.expand = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.expand(F.relu(self.reduce(mean(x)))))  # (B, C)
        return self.scale(x, gate[:, :, None, None])


class ECA(Gate):
    """Efficient channel attention: ``y = x * sigmoid(conv1d_k(s))``, along the channel axis, with s the spatial mean.

    ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks; Qilong Wang, Banggu Wu, Pengfei Zhu,
    Peihua Li, Wangmeng Zuo, Qinghua Hu; arXiv 1910.03151. No bias, zeros beyond the first and last channel. The
    adaptive k is the paper's; the authors' module takes a fixed k = 3, and some ports add a bias.

    Args:
        channels: C.
        kernel_size: k, odd and at most C; None for the odd number nearest to (log2(C) + 1) / 2.
        init: ``paper`` or ``identity``; the paper names no initialisation, so torch's is kept.

    Raises:
        ValueError: On a value that the table of blocks does not allow.
    """

    def __init__(self, channels: int, *, kernel_size: int | None = None, init: str = "paper") -> None:
        BLOCKS["eca"].check({"kernel_size": kernel_size}, channels)
        super().__init__(init)
        size = eca_kernel(channels) if kernel_size is None else kernel_size
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        size = self.conv.weight.shape[2]
        neighbours = F.pad(mean(x), (size // 2, size // 2)).unfold(1, size, 1)  # (B, C, k)
        # a product of matrices: the gradients of a convolution this small would take longer than all the rest
        gate = torch.sigmoid(F.linear(neighbours, self.conv.weight[0])).squeeze(2)  # (B, C)
        return self.scale(x, gate[:, :, None, None])
