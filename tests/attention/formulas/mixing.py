"""Formulas of the blocks in nas/attention/tables/mixing.py."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from formulas.plain import batch_norm, opened, parts

CASES: list[tuple[str, dict[str, object]]] = [
    ("gam", {}),
    ("gam", {"reduction": 1}),
    ("gam", {"gate": "none", "kernel_size": 3}),
    ("sk", {}),
    ("sk", {"branches": 3, "groups": 2}),
    ("s2mlp", {}),
    ("s2mlp", {"reduction": 2, "residual": "none"}),
]


def gam(m, x, s):
    first, _, second = m.channel
    pixels = x.permute(0, 2, 3, 1)
    hidden = F.relu(F.linear(pixels, first.weight.flatten(1), first.bias))
    factor = F.linear(hidden, second.weight.flatten(1), second.bias).permute(0, 3, 1, 2)
    x = x * opened(torch.sigmoid(factor) if m.gate == "sigmoid" else factor, s)
    (reduce, expand), (first_norm, second_norm) = parts(m.spatial)
    padding = reduce.weight.shape[2] // 2
    hidden = F.relu(batch_norm(first_norm, F.conv2d(x, reduce.weight, padding=padding)))
    logits = batch_norm(second_norm, F.conv2d(hidden, expand.weight, padding=padding))
    return x * opened(torch.sigmoid(logits), s)


def sk(m, x, s):
    maps = []
    for dilation, branch in enumerate(m.branches, 1):
        (conv,), (norm,) = parts(branch)
        grown = F.conv2d(x, conv.weight, padding=dilation, dilation=dilation, groups=m.groups)
        maps.append(F.relu(batch_norm(norm, grown)))
    maps = torch.stack(maps, 1)  # (B, M, C, H, W)
    z = F.relu(batch_norm(m.norm, m.reduce(maps.sum(1).mean((2, 3)))[:, :, None, None])).flatten(1)
    weights = F.linear(z, m.select.weight).unflatten(1, maps.shape[1:3]).softmax(1)
    return x + s * ((weights[..., None, None] * maps).sum(1) - x)


def s2mlp(m, x, s):
    pixels = x.permute(0, 2, 3, 1)  # (B, H, W, C)
    n = pixels if m.norm is None else F.layer_norm(pixels, m.norm.normalized_shape, m.norm.weight, m.norm.bias)
    first, second, third = m.expand(n).chunk(3, 3)
    # the second part is the first with the axes swapped
    second = shift(second.transpose(1, 2)).transpose(1, 2)
    parts = torch.stack((shift(first), second, third), 1)  # (B, 3, H, W, C)
    hidden = F.gelu(F.linear(parts.sum((1, 2, 3)), m.squeeze.weight))
    weights = F.linear(hidden, m.weigh.weight).unflatten(1, (3, -1)).softmax(1)
    mixed = (weights[:, :, None, None] * parts).sum(1)
    y = m.project(mixed).permute(0, 3, 1, 2)
    return x + s * (y - x if m.norm is None else y)


def shift(pixels):
    """Move the quarters of the channels of (B, H, W, C) by a pixel, read from a copy."""
    c = pixels.shape[3]
    moved = pixels.clone()
    moved[:, 1:, :, : c // 4] = pixels[:, :-1, :, : c // 4]
    moved[:, :-1, :, c // 4 : c // 2] = pixels[:, 1:, :, c // 4 : c // 2]
    moved[:, :, 1:, c // 2 : 3 * c // 4] = pixels[:, :, :-1, c // 2 : 3 * c // 4]
    moved[:, :, :-1, 3 * c // 4 :] = pixels[:, :, 1:, 3 * c // 4 :]
    return moved
