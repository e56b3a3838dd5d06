"""Gates per channel from how the channels vary together: SOCA.

Shapes: B images, C channels, H rows, W columns, N = H * W pixels; h hidden units; S = min(C, N).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import statically_known_true

from nas.attention import BLOCKS
from nas.attention.base import Gate, mean
from nas.attention.widths import hidden_width

_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", lambda: False)


class SOCA(Gate):
    """Second-order channel attention: the gates come from the root of the channels' covariance.

    Second-Order Attention Network for Single Image Super-Resolution; Tao Dai, Jianrui Cai, Yongbing Zhang,
    Shu-Tao Xia, Lei Zhang; CVPR 2019. With Z the map (C, N) less its mean over the pixels::

        y = x * sigmoid(W2 relu(W1 m + b1) + b2)                  W1 (h, C), W2 (C, h)
        m = mean of the rows of R,  R ~ (Z Z^T / N)^(1/2)         (C,), (C, C)

    R is what some coupled Newton-Schulz steps leave, from the covariance over its trace t::

        A = Z Z^T / (N t),  Y_0 = A,  Z_0 = I,  T_k = (3 I - Z_k Y_k) / 2
        Y_k+1 = Y_k T_k,  Z_k+1 = T_k Z_k,  R = sqrt(t) Y_K

    All of these are polynomials in A, hence commute: M_k = Z_k Y_k follows M_k+1 = M_k T_k^2 by itself, and the mean
    of the rows of R needs only the products of T_0 ... T_K-1 with one vector. Where there are fewer pixels than
    channels, the same polynomial in the (N, N) matrix of the pixels, Z^T Z / (N t), does. Neither changes the result.

    The authors' code centres by a product with an (N, N) matrix, so that its memory grows with N^2; it looks only at
    the middle of maps over 1000 pixels wide, and returns NaN on maps that are constant, as all 1x1 maps are, since it
    divides by t = 0. Here t is at least 1e-12. All up to m has at least single precision, also under autocast.

    Args:
        channels: C.
        reduction: h = max(C // reduction, min(4, C)); 16 as in the authors' options, whose class has 8.
        iterations: K, Newton-Schulz steps.
        init: ``paper`` or ``identity``; the authors' module keeps torch's initialisation.

    Raises:
        ValueError: On a value that the table of blocks does not allow.
    """

    def __init__(self, channels: int, *, reduction: int = 16, iterations: int = 5, init: str = "paper") -> None:
        BLOCKS["soca"].check({"reduction": reduction, "iterations": iterations}, channels)
        super().__init__(init)
        self.iterations = iterations
        hidden = hidden_width(channels, reduction)
        self.reduce = nn.Linear(channels, hidden)
        self.expand = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        with _without_autocast(x):
            pooled = self.root_mean(x.to(torch.promote_types(x.dtype, torch.float32)))
        gate = torch.sigmoid(self.expand(F.relu(self.reduce(pooled.to(x.dtype)))))
        return self.scale(x, gate[:, :, None, None])

    def root_mean(self, x: Tensor) -> Tensor:
        """Return the mean of the rows of the covariance's root, (B, C)."""
        channels, pixels = x.shape[1], x.shape[2] * x.shape[3]
        flat = x.flatten(2)
        centred = flat - mean(flat, (2,), keepdim=True)  # (B, C, N)
        across = centred.transpose(1, 2)
        if _known_fewer(pixels, channels):
            matrix, trace = _normalised(torch.bmm(across, centred), pixels)
            vector = centred.mean(1).unsqueeze(2)  # Z^T 1 / C
            vector = torch.bmm(centred, _roots(matrix, vector, self.iterations))  # (B, C, 1)
            return vector.squeeze(2) / (pixels * trace.sqrt())
        matrix, trace = _normalised(torch.bmm(centred, across), pixels)
        vector = _roots(matrix, matrix.mean(2, keepdim=True), self.iterations)
        return vector.squeeze(2) * trace.sqrt()


def _normalised(product: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
    """Return the products (B, S, S) divided by N and their trace, and the trace (B, 1); Z Z^T and Z^T Z share it."""
    covariance = product / pixels
    trace = covariance.diagonal(dim1=1, dim2=2).sum(1, keepdim=True).clamp_min(1e-12)
    return covariance / trace.unsqueeze(2), trace


def _roots(matrix: Tensor, vector: Tensor, iterations: int) -> Tensor:
    """Return T_0 ... T_K-1 times the vector (B, S, 1), from M_0 = matrix (B, S, S)."""
    for step in range(1, iterations):
        vector = torch.baddbmm(vector, matrix, vector, beta=1.5, alpha=-0.5)
        if step < iterations - 1:  # M (M^2 - 6 M + 9 I) / 4
            inner = torch.baddbmm(matrix, matrix, matrix, beta=-6)
            matrix = torch.baddbmm(matrix, matrix, inner, beta=2.25, alpha=0.25)
    if iterations == 1:
        return torch.baddbmm(vector, matrix, vector, beta=1.5, alpha=-0.5)
    # the last M meets nothing but the vector: three products with that, in place of two of matrices
    first = torch.bmm(matrix, vector)
    second = torch.baddbmm(first, matrix, first, beta=-6)
    last = torch.baddbmm(first, matrix, second, beta=2.25, alpha=0.25)
    return 1.5 * vector - 0.5 * last


def _known_fewer(pixels: int, channels: int) -> bool:
    """Return whether there are fewer pixels than channels; False where an export leaves that open.

    Compiled code may depend on the answer, as it is compiled again for other sizes; exported code may not. Dynamo does
    not know ``statically_known_true`` in every torch, and torch 2.6 not whether it exports.
    """
    if torch.compiler.is_dynamo_compiling():
        return not _exporting() and pixels < channels
    return statically_known_true(pixels < channels)


def _without_autocast(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """Return a context without autocast, for a block of code that keeps its precision; an idle one where there is none.

    Tensors without data have no autocast, and an export that need not switch it off is simpler without the switch.
    """
    if x.is_meta or not torch.is_autocast_enabled(x.device.type):
        return contextlib.nullcontext()
    return torch.autocast(x.device.type, enabled=False)
