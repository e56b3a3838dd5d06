"""Formulas of the blocks with one gate for each channel."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from formulas.plain import batch_norm, opened

CASES = [
    ("se", {}),
    ("se", {"reduction": 1}),
    ("eca", {}),
    ("eca", {"kernel_size": 5}),
    ("nam", {}),
    ("nam", {"weights": "detached"}),
    ("nam", {"layout": "sequential"}),
    ("nam", {"layout": "sequential", "weights": "detached"}),
    ("gc", {}),
    ("gc", {"reduction": 1}),
    ("gc", {"fusion": "scale"}),
    ("soca", {}),
    ("soca", {"reduction": 1, "iterations": 1}),
    ("soca", {"iterations": 2}),
    ("soca", {"iterations": 3}),
]


def se(m, x, s):
    mean = F.adaptive_avg_pool2d(x, 1).flatten(1)
    gate = torch.sigmoid(m.expand(F.relu(m.reduce(mean))))
    return x * opened(gate, s)[:, :, None, None]


def eca(m, x, s):
    mean = F.adaptive_avg_pool2d(x, 1).flatten(2).transpose(1, 2)  # (B, 1, C)
    gate = torch.sigmoid(F.conv1d(mean, m.conv.weight, padding=m.conv.weight.shape[2] // 2))
    return x * opened(gate, s).transpose(1, 2).unsqueeze(3)


def between(tables, height, width):
    """Return tables (K, h, w) at the centres of height x width pixels, linear between its own, constant beyond them."""
    for axis, size in ((1, height), (2, width)):
        known = tables.shape[axis]
        places = ((torch.arange(size, dtype=tables.dtype) + 0.5) * known / size - 0.5).clamp(0, known - 1)
        hats = (1 - (places[:, None] - torch.arange(known)).abs()).clamp_min(0).to(tables)  # (size, known)
        tables = torch.tensordot(tables, hats, ([axis], [1])).movedim(-1, axis)
    return tables


def nam(m, x, s):
    share = m.norm.weight.abs() / m.norm.weight.abs().sum()
    share = share.detach() if m.weights == "detached" else share
    x = x * opened(torch.sigmoid(share[:, None, None] * batch_norm(m.norm, x)), s)
    if m.pixels is None:
        return x
    scale, shift = between(m.pixels, *x.shape[2:])
    share = scale.abs() / scale.abs().sum()
    share = share.detach() if m.weights == "detached" else share
    deviation = torch.sqrt(x.var(1, correction=0, keepdim=True) + 1e-5)
    standardised = (x - x.mean(1, keepdim=True)) / deviation
    return x * opened(torch.sigmoid(share * (scale * standardised + shift)), s)


def gc(m, x, s):
    logits = F.conv2d(x, m.key.weight[:, :, None, None])
    attention = torch.softmax(logits.flatten(2), 2).view_as(logits)
    context = (x * attention).sum((2, 3))
    change = m.expand(F.relu(m.norm(m.reduce(context))))[:, :, None, None]
    return x + change if m.fusion == "add" else x * opened(torch.sigmoid(change), s)


def soca(m, x, s):
    channels, pixels = x.shape[1], x.shape[2] * x.shape[3]
    centring = torch.eye(pixels, dtype=x.dtype, device=x.device) / pixels - 1 / pixels**2
    flat = x.flatten(2)
    covariance = flat @ centring @ flat.transpose(1, 2)
    trace = torch.einsum("bii->b", covariance)[:, None, None]
    unit = torch.eye(channels, dtype=x.dtype, device=x.device).expand(len(x), -1, -1)
    y, z = covariance / trace, unit
    for _ in range(m.iterations):
        step = (3 * unit - z @ y) / 2
        y, z = y @ step, step @ z
    mean = (y * torch.sqrt(trace)).mean(1)
    gate = torch.sigmoid(m.expand(F.relu(m.reduce(mean))))
    return x * opened(gate, s)[:, :, None, None]
