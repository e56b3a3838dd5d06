"""Gates per channel from a batch normalisation's own scale, and from attention-pooled context: NAM and GC.

Shapes: B images, C channels, H rows, W columns, N = H * W pixels; h hidden units.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.attention import BLOCKS
from nas.attention.base import BatchNorm, Gate, wide
from nas.attention.widths import hidden_width

_SIDE = 7
"""Rows and columns of NAM's tables of pixels, the size of the smallest maps in a ResNet."""


class NAM(Gate):
    """Normalisation-based attention: a channel counts for as much as its scale in a batch normalisation.

    NAM: Normalization-based Attention Module; Yichao Liu, Zongru Shao, Yueyang Teng, Nico Hoffmann; arXiv 2111.12419::

        x' = x * sigmoid(w_c (gamma_c n + beta_c))                w_c = |gamma_c| / sum |gamma|
        y = x' * sigmoid(v_p (lambda_p n' + mu_p))                v_p = |lambda_p| / sum |lambda|

    with n the batch normalisation of x, and n' that of x' in which pixels take the place of channels. The paper's
    ratio has no absolute values, the authors' code has. There the ratio passes no gradient: ``weights="detached"``. One
    of their revisions has a ReLU before the sigmoid, so that no gate falls below a half. All w_c are near 1 / C, hence
    all gates near 0.5; the paper's penalty on gamma belongs to its training and is not part of the block.

    The second gate is off in the authors' code, and its normalisation, whose H * W scales hold for a single size of
    map, is no longer in their repository. Here each pixel is standardised over the channels of its own image, without
    a memory of earlier batches, and lambda and mu are tables of 7 x 7, interpolated to the size of the map.

    Args:
        channels: C.
        layout: ``channel`` for the first gate alone, ``sequential`` for both.
        weights: ``learned`` where w and v pass gradients, as the paper has it, ``detached`` for the authors' code. The
            outputs are the same.
        init: ``paper`` or ``identity``; gamma = lambda = 1 and beta = mu = 0 at the start.

    Raises:
        ValueError: On a value that the table of blocks does not allow.
    """

    pixels: nn.Parameter | None

    def __init__(
        self, channels: int, *, layout: str = "channel", weights: str = "learned", init: str = "paper"
    ) -> None:
        BLOCKS["nam"].check({"layout": layout, "weights": weights}, channels)
        super().__init__(init)
        self.weights = weights
        self.norm = BatchNorm(channels)
        both = layout == "sequential"
        start = torch.stack((torch.ones(_SIDE, _SIDE), torch.zeros(_SIDE, _SIDE)))
        self.register_parameter("pixels", nn.Parameter(start) if both else None)

    def forward(self, x: Tensor) -> Tensor:
        x = self.scale(x, self.channel_gate(x))
        return x if self.pixels is None else self.scale(x, self.spatial_gate(x, self.pixels))

    def channel_gate(self, x: Tensor) -> Tensor:
        """Return the first gate, (B, C, H, W)."""
        # w is constant over the map: in the normalisation's own weights it takes no further pass over it
        share = self.share(self.norm.weight)
        return torch.sigmoid(_batch_norm(self.norm, x, share * self.norm.weight, share * self.norm.bias))

    def spatial_gate(self, x: Tensor, pixels: Tensor) -> Tensor:
        """Return the second gate, (B, C, H, W), from lambda and mu, (2, 7, 7)."""
        size = (x.shape[2], x.shape[3])
        scale, shift = F.interpolate(pixels.unsqueeze(0), size, mode="bilinear").chunk(2, 1)  # (1, 1, H, W) each
        share = self.share(scale)
        values = wide(x)
        centred = values - values.mean(1, keepdim=True)
        variance = (centred * centred).mean(1, keepdim=True)
        factor = share * scale * torch.rsqrt(variance + self.norm.eps)  # (B, 1, H, W)
        return torch.sigmoid(centred * factor.to(values.dtype) + (share * shift).to(values.dtype))

    def share(self, scales: Tensor) -> Tensor:
        """Return the size of each scale as a part of the sum of all; 0 if all are 0."""
        sizes = scales.abs()
        if self.weights == "detached":
            sizes = sizes.detach()
        return sizes / sizes.sum().clamp_min(torch.finfo(sizes.dtype).eps)


class GlobalContext(Gate):
    """Global context block: one context vector per image, pooled by attention, meets every pixel.

    GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond; Yue Cao, Jiarui Xu, Stephen Lin, Fangyun Wei,
    Han Hu; arXiv 1904.11492::

        c = sum over pixels p of x_p softmax_p(k . x_p)           (B, C), k (C,)
        d = W2 relu(LN(W1 c + b1)) + b2                           W1 (h, C), W2 (C, h), LN over the h units
        y = x + d,  or  y = x * sigmoid(d)                        at every pixel

    The sum is the paper's; its ablation prefers it to the product, which is the default of timm's ``gc``. In the
    authors' code W2 and b2 start at 0 with either, so that the sum starts as the identity and the product at gates of
    0.5; timm leaves b2 as it is in the sum, and both in the product. The logits have no bias: under the softmax it
    would change nothing.

    Args:
        channels: C, at least 2: the normalisation of a lone hidden unit is constant.
        reduction: h = max(C // reduction, min(4, C)).
        fusion: ``add`` for the sum, ``scale`` for the product.
        init: ``paper`` or ``identity``, which differ only with ``scale``. k starts from He's normal distribution.

    Raises:
        ValueError: On a value that the table of blocks does not allow.
    """

    def __init__(self, channels: int, *, reduction: int = 16, fusion: str = "add", init: str = "paper") -> None:
        BLOCKS["gc"].check({"reduction": reduction, "fusion": fusion}, channels)
        super().__init__(init, adds_strength=fusion == "scale")
        self.fusion = fusion
        hidden = hidden_width(channels, reduction)
        self.key = nn.Linear(channels, 1, bias=False)
        self.reduce = nn.Linear(channels, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.expand = nn.Linear(hidden, channels)
        nn.init.kaiming_normal_(self.key.weight, nonlinearity="relu")
        nn.init.zeros_(self.expand.weight)
        nn.init.zeros_(self.expand.bias)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.context(x)
        change: Tensor = self.expand(F.relu(self.norm(self.reduce(pooled))))[:, :, None, None]
        if self.fusion == "scale":
            return self.scale(x, torch.sigmoid(change))
        return x + change.to(x.dtype)

    def context(self, x: Tensor) -> Tensor:
        """Return the attention-weighted mean of the pixels, (B, C)."""
        flat = x.flatten(2)  # (B, C, N)
        # a batch of products: a single matmul, and on the CPU a 1x1 convolution, would first lay the map out anew
        logits = torch.bmm(self.key.weight.expand(x.shape[0], 1, -1), flat)  # (B, 1, N)
        # not a product of matrices, whose gradient is a fifth slower on small maps
        return (flat * logits.softmax(2).to(x.dtype)).sum(2)


def _batch_norm(norm: BatchNorm, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Normalise as the layer would, but with other weights; see :class:`BatchNorm` for a single value per channel.

    The layer keeps running statistics, with a fixed momentum; on several devices each normalises by its own images.
    """
    means, variances, momentum = norm.running_mean, norm.running_var, norm.momentum or 0.0
    if not norm.training or x.numel() == x.shape[1]:
        return F.batch_norm(x, means, variances, weight, bias, eps=norm.eps)
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    return F.batch_norm(x, means, variances, weight, bias, training=True, momentum=momentum, eps=norm.eps)
