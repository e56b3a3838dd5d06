"""Copies of models without their data: they have shapes, and compute no numbers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


def without_data(model: nn.Module) -> nn.Module:
    """Copy a model so that all its tensors are on the meta device; no data is copied on the way."""
    memo: dict[int, Any] = {}
    for tensor in tensors(model):
        empty = torch.empty_like(tensor, device="meta", requires_grad=False)
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(empty, requires_grad=False) if is_parameter else empty
    return copy.deepcopy(model, memo)


def tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    """Yield parameters, buffers and tensors that a module keeps as plain attributes."""
    yield from model.parameters()
    yield from model.buffers()
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, torch.Tensor):
                yield value
