"""Formulas of the blocks in nas/attention/tables/spatial.py."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from formulas.plain import opened

CASES = [("sge", {}), ("sge", {"groups": 2}), ("simam", {}), ("simam", {"lambda_": 0.1})]


def sge(m, x, s):
    b, c, h, w = x.shape
    grouped = x.reshape(b * m.groups, c // m.groups, h, w)
    similarity = (grouped * F.adaptive_avg_pool2d(grouped, 1)).sum(1).reshape(b, m.groups, h * w)
    centred = similarity - similarity.mean(2, keepdim=True)
    normal = (centred / (similarity.std(2, keepdim=True) + 1e-5)).reshape(b, m.groups, h, w)
    gate = opened(torch.sigmoid(m.weight * normal + m.bias), s)
    return (grouped * gate.reshape(b * m.groups, 1, h, w)).reshape(b, c, h, w)


def simam(m, x, s):
    squared = (x - x.mean((2, 3), keepdim=True)).pow(2)
    variance = squared.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3] - 1)
    return x * opened(torch.sigmoid(squared / (4 * (variance + m.lambda_)) + 0.5), s)
