"""Fixtures for the tests of attention blocks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn


@pytest.fixture
def randomise() -> Callable[..., nn.Module]:
    """A function that gives a block random weights and running statistics, so that no term is hidden by a 0 or a 1."""

    def fill(block: nn.Module, *, seed: int = 0, strength: float | None = None) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, tensor in block.state_dict().items():
                if name.endswith("running_var"):
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
                elif tensor.is_floating_point():
                    tensor.copy_(0.7 * torch.randn(tensor.shape, generator=generator))
            if strength is not None:
                block.get_parameter("strength").fill_(strength)
        return block

    return fill
