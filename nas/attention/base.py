"""What all blocks share: how they start, how a gate meets the map, means, and a batch normalisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.attention.options import nearest
from nas.attention.spec import INITS


class Block(nn.Module):
    """Base of the blocks: a module that keeps the shape of a map and, on demand, starts as the identity.

    With ``init="identity"`` one scalar parameter, ``strength``, starts at 0 and decides how much of the block there is:
    at 0 its output is exactly its input, at 1 it is the paper's. While it is exactly 0 it is the only parameter with a
    gradient; its first step opens the others. With ``init="paper"`` there is none.

    Blocks whose published start is already an exact identity, mostly by a factor gamma that starts at 0, need no second
    such factor, which would leave both without a gradient: they pass ``adds_strength=False``.

    Args:
        init: ``paper`` or ``identity``.
        adds_strength: Whether the identity takes a parameter of its own.

    Raises:
        ValueError: If ``init`` is neither ``paper`` nor ``identity``.
    """

    strength: nn.Parameter | None

    def __init__(self, init: str, *, adds_strength: bool = True) -> None:
        super().__init__()
        if init not in INITS:
            raise ValueError(f"init must be one of {', '.join(INITS)}, but got {init!r}{nearest(init, INITS)}")
        added = init == "identity" and adds_strength
        # 0-dimensional, so that it never promotes a half-precision map to its own type
        self.register_parameter("strength", nn.Parameter(torch.zeros(())) if added else None)

    def damp(self, term: Tensor) -> Tensor:
        """Return what an additive term contributes: nothing at strength 0, all of it at strength 1."""
        return term if self.strength is None else self.strength * term

    def blend(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the way from ``x`` to ``y``, for blocks that replace the map: ``x`` at strength 0, ``y`` at 1."""
        y = y.to(x.dtype)
        return y if self.strength is None else torch.lerp(x, y, self.strength.to(x.dtype))


class Gate(Block):
    """Base of the blocks that multiply a map by gates. The strength pulls every gate towards 1.

    It acts on the gates, most of which are small, rather than on the map.
    """

    def open(self, gate: Tensor) -> Tensor:
        """Return the effective multiplicative gate: 1 at strength 0, ``gate`` at strength 1."""
        # not 1 + strength * (gate - 1): a pass less, and a tensor less to keep, where the gate is as large as the map
        return gate if self.strength is None else self.strength * gate + (1 - self.strength)

    def scale(self, x: Tensor, gate: Tensor) -> Tensor:
        """Return ``x`` times the effective gate, in the type of ``x``: autocast computes some gates in float32."""
        return x * self.open(gate).to(x.dtype)


def wide(x: Tensor) -> Tensor:
    """Return float16 as float32: squares, and factors for values without variance, leave its range."""
    return x.float() if x.dtype == torch.float16 else x


def mean(x: Tensor, dims: tuple[int, ...] = (2, 3), *, keepdim: bool = False) -> Tensor:
    """Return the mean over axes, by default over the pixels, as a sum.

    The gradient of a sum is one value repeated by a view; torch writes that of its ``mean`` out, a pass over the map.
    """
    count = 1
    for dim in dims:
        count = count * x.shape[dim]
    # named, or autocast would choose float32; a sum may leave the range of float16
    dtype = torch.float32 if x.dtype == torch.float16 else x.dtype
    return (x.sum(dims, keepdim=keepdim, dtype=dtype) / count).to(x.dtype)


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation of maps that also trains where each channel has a single value: one 1x1 map.

    A single value has no variance: normalised by itself it would always become the bias, and torch refuses it. Such a
    batch is normalised by the running statistics instead, and leaves them as they are.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)
