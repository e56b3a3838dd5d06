"""Formulas of the blocks in which every place may look at many others; every matrix of scores is stored."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from formulas.plain import batch_norm

CASES = [
    ("danet", {}),
    ("danet", {"branch": "position", "reduction": 1}),
    ("danet", {"branch": "channel"}),
    ("danet", {"branch": "channel", "affinity": "dissimilar"}),
    ("danet", {"branch": "channel", "affinity": "mean"}),
    ("ccnet", {"recurrence": 1}),
    ("ccnet", {}),
    ("nonlocal", {}),
    ("nonlocal", {"kv_stride": 1, "scale": "sqrt"}),
    ("mhsa", {}),
    ("mhsa", {"heads": 2, "residual": "none"}),
    ("mhsa", {"heads": 4, "position": "sincos2d", "kv_stride": 2}),
    ("mhsa", {"heads": 2, "position": "learned"}),
    ("mhsa", {"heads": 2, "position": "relative"}),
    ("mhsa", {"heads": 1, "position": "relative", "kv_stride": 2}),
]


def projected(layer, x, parts=1):
    """Return 1x1 convolutions of a map with equal parts of a linear layer's weights."""
    maps = [F.conv2d(x, weight[:, :, None, None]) for weight in layer.weight.chunk(parts)]
    return maps if parts > 1 else maps[0]


def danet(m, x, s):
    y = x
    if m.branch != "channel":
        query, key = (part.flatten(2) for part in projected(m.query_key, x, 2))
        value = projected(m.value, x).flatten(2)
        attention = torch.softmax(torch.einsum("bci,bcj->bij", query, key), 2)
        y = y + m.alpha * torch.einsum("bij,bcj->bci", attention, value).reshape(x.shape)
    if m.branch != "position":
        rows = x.flatten(2)
        energy = torch.einsum("bin,bjn->bij", rows, rows)
        if m.affinity == "dissimilar":
            energy = energy.amax(2, keepdim=True) - energy
        elif m.affinity == "mean":
            energy = energy / (x.shape[2] * x.shape[3])
        y = y + m.beta * torch.einsum("bij,bjn->bin", torch.softmax(energy, 2), rows).reshape(x.shape)
    return y


def ccnet(m, x, s):
    height = x.shape[2]
    for _ in range(m.recurrence):
        query, key = projected(m.query_key, x, 2)
        value = projected(m.value, x)
        itself = torch.eye(height, dtype=torch.bool, device=x.device)
        by_column = torch.einsum("bcij,bckj->bjik", query, key).masked_fill(itself, -math.inf)  # (B, W, H, H)
        by_row = torch.einsum("bcij,bcik->bijk", query, key)  # (B, H, W, W)
        attention = torch.softmax(torch.cat((by_column.permute(0, 2, 1, 3), by_row), 3), 3)
        out_column = torch.einsum("bijk,bckj->bcij", attention[..., :height], value)
        out_row = torch.einsum("bijk,bcik->bcij", attention[..., height:], value)
        x = m.gamma * (out_column + out_row) + x
    return x


def non_local(m, x, s):
    pooled = x if m.kv_stride == 1 else F.max_pool2d(x, m.kv_stride, ceil_mode=True)
    theta = projected(m.query, x).flatten(2)
    phi, g = (part.flatten(2) for part in projected(m.key_value, pooled, 2))
    attention = torch.softmax(m.scale * torch.matmul(theta.transpose(1, 2), phi), 2)
    y = torch.matmul(g, attention.transpose(1, 2)).reshape(len(x), -1, *x.shape[2:])
    return x + batch_norm(m.norm, projected(m.project, y))


def sines(channels, height, width, like):
    """Return sincos2d's encoding by loops over channels and places."""
    quarter = channels // 4
    encoding = [[[0.0] * width for _ in range(height)] for _ in range(channels)]
    for c in range(channels):
        wave = 10_000.0 ** (-(c % quarter) / (channels / 4))
        turn = math.sin if (c // quarter) % 2 == 0 else math.cos
        for i in range(height):
            for j in range(width):
                encoding[c][i][j] = turn((i if c < channels // 2 else j) * wave)
    return torch.tensor(encoding, dtype=like.dtype, device=like.device)


def axis(table, size):
    """Return a table (C, L) interpolated linearly to a size, by its definition."""
    length = table.shape[1]
    columns = []
    for i in range(size):
        place = min(max((i + 0.5) * length / size - 0.5, 0.0), length - 1.0)
        low = min(int(place), length - 2)
        columns.append((low + 1 - place) * table[:, low] + (place - low) * table[:, low + 1])
    return torch.stack(columns, 1)


def relative(table, size, stride):
    """Return the vector for every pair of query and key along an axis, (d, size, keys)."""
    stretched = axis(table, 2 * size - 1)
    keys = [min(start + (stride - 1) // 2, size - 1) for start in range(0, size, stride)]
    offsets = [[key - query + size - 1 for key in keys] for query in range(size)]
    return stretched[:, torch.tensor(offsets, device=table.device)]


def mhsa(m, x, s):
    batch, channels, height, width = x.shape
    if m.position == "sincos2d":
        z = x + sines(channels, height, width, x)
    elif m.position == "learned":
        z = x + axis(m.places.rows, height)[:, :, None] + axis(m.places.columns, width)[:, None, :]
    else:
        z = x
    pooled = z if m.kv_stride == 1 else F.avg_pool2d(z, m.kv_stride, ceil_mode=True)
    query = projected(m.query, z).reshape(batch, m.heads, -1, height, width)
    key, value = (part.unflatten(1, (m.heads, -1)) for part in projected(m.key_value, pooled, 2))
    scores = torch.einsum("bndij,bndkl->bnijkl", query, key)
    if m.position == "relative":
        by_row = relative(m.offsets.rows, height, m.kv_stride)
        by_column = relative(m.offsets.columns, width, m.kv_stride)
        scores = scores + torch.einsum("bndij,dik->bnijk", query, by_row).unsqueeze(5)
        scores = scores + torch.einsum("bndij,djl->bnijl", query, by_column).unsqueeze(4)
    scores = scores / math.sqrt(channels // m.heads)
    attention = torch.softmax(scores.flatten(4), 4).reshape(scores.shape)
    y = projected(m.project, torch.einsum("bnijkl,bndkl->bndij", attention, value).reshape(x.shape))
    if m.residual == "add":
        return x + s * y
    return x + s * (y - x)
