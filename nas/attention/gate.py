"""What all blocks share: how a gate meets the map, and a batch normalisation that survives a single value."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.attention.options import nearest
from nas.attention.spec import INITS


class Gate(nn.Module):
    """Base of the blocks: multiplies a map by gates, fully or to a learnable degree.

    With ``init="identity"`` one scalar parameter, ``strength``, starts at 0 and pulls every gate towards 1:
    ``1 + strength * (gate - 1)``. At 0 the gate is exactly 1, and so the output exactly the input; at 1 the block is
    the paper's. The scalar acts on the gates, most of which are small, rather than on the map. While it is exactly 0 it
    is the only parameter with a gradient; its first step opens the others. With ``init="paper"`` there is none.

    Raises:
        ValueError: If ``init`` is neither ``paper`` nor ``identity``.
    """

    strength: nn.Parameter | None

    def __init__(self, init: str) -> None:
        super().__init__()
        if init not in INITS:
            raise ValueError(f"init must be one of {', '.join(INITS)}, but got {init!r}{nearest(init, INITS)}")
        # 0-dimensional, so that it never promotes a half-precision gate to its own type
        self.register_parameter("strength", nn.Parameter(torch.zeros(())) if init == "identity" else None)

    def damp(self, term: Tensor) -> Tensor:
        """Return what an additive term contributes: nothing at strength 0, all of it at strength 1."""
        return term if self.strength is None else self.strength * term

    def open(self, gate: Tensor) -> Tensor:
        """Return the effective multiplicative gate: 1 at strength 0, ``gate`` at strength 1."""
        return gate if self.strength is None else 1 + self.strength * (gate - 1)

    def scale(self, x: Tensor, gate: Tensor) -> Tensor:
        """Return ``x`` times the effective gate, in the type of ``x``: autocast computes some gates in float32."""
        return x * self.open(gate).to(x.dtype)


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation of maps that also trains where each channel has a single value: one 1x1 map.

    A single value has no variance: normalised by itself it would always become the bias, and torch refuses it. Such a
    batch is normalised by the running statistics instead, and leaves them as they are.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)
