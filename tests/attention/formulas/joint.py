"""Formulas of the blocks in nas/attention/tables/joint.py."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from formulas.plain import batch_norm, conv1x1, opened, parts

CASES: list[tuple[str, dict[str, object]]] = [
    ("coord", {}),
    ("coord", {"reduction": 1}),
    ("cbam", {}),
    ("cbam", {"reduction": 1, "kernel_size": 3}),
    ("bam", {}),
    ("bam", {"dilation": 1, "reduction": 1}),
    ("bam", {"combine": "mul"}),
    ("shuffle", {}),
    ("shuffle", {"groups": 1}),
    ("shuffle", {"groups": 2}),
    ("psa", {}),
    ("psa", {"reduction": 1}),
    ("psa", {"layout": "sequential"}),
    ("ela", {}),
    ("ela", {"kernel_size": 5, "group_width": 4, "norm_groups": 2}),
    ("strip", {}),
    ("strip", {"kernel_size": 5}),
    ("strip", {"convolution": "depthwise"}),
    ("ge", {}),
    ("ge", {"extent": 2}),
    ("ge", {"extent": 4, "excite": "mlp"}),
    ("ge", {"extent": 2, "gather": "conv"}),
    ("ge", {"extent": 4, "gather": "conv"}),
    ("ge", {"extent": 4, "gather": "conv", "excite": "mlp"}),
    ("ge", {"extent": 8}),
]


def coord(m, x, s):
    h, w = x.shape[2:]
    rows = F.adaptive_avg_pool2d(x, (None, 1))
    columns = F.adaptive_avg_pool2d(x, (1, None)).transpose(2, 3)
    features = F.hardswish(batch_norm(m.norm, m.reduce(torch.cat((rows, columns), 2))))
    of_rows, of_columns = features.split([h, w], 2)
    row_gate = torch.sigmoid(m.rows(of_rows))
    column_gate = torch.sigmoid(m.columns(of_columns.transpose(2, 3)))
    return x * opened(row_gate, s) * opened(column_gate, s)


def cbam(m, x, s):
    def mlp(pooled):
        return m.expand(F.relu(m.reduce(pooled.flatten(1))))

    logits = mlp(F.adaptive_avg_pool2d(x, 1)) + mlp(F.adaptive_max_pool2d(x, 1))
    x = x * opened(torch.sigmoid(logits), s)[:, :, None, None]
    planes = torch.cat((x.max(1, keepdim=True).values, x.mean(1, keepdim=True)), 1)
    return x * opened(torch.sigmoid(batch_norm(m.norm, m.conv(planes))), s)


def bam(m, x, s):
    (reduce, expand), norms = parts(m.channel)
    hidden = F.relu(batch_norm(norms[0], F.conv2d(F.adaptive_avg_pool2d(x, 1), reduce.weight)))
    per_channel = F.conv2d(hidden, expand.weight, expand.bias)
    (reduce, first, second, last), spatial_norms = parts(m.spatial)
    around = {"padding": m.dilation, "dilation": m.dilation}
    hidden = F.relu(batch_norm(spatial_norms[0], F.conv2d(x, reduce.weight)))
    hidden = F.relu(batch_norm(spatial_norms[1], F.conv2d(hidden, first.weight, **around)))
    hidden = F.relu(batch_norm(spatial_norms[2], F.conv2d(hidden, second.weight, **around)))
    per_pixel = F.conv2d(hidden, last.weight, last.bias)
    if m.combine == "add":
        per_channel, per_pixel = batch_norm(norms[1], per_channel), batch_norm(spatial_norms[3], per_pixel)
    attention = torch.sigmoid(per_channel + per_pixel if m.combine == "add" else per_channel * per_pixel)
    return x + x * (attention if isinstance(s, float) else s * attention)


def shuffle(m, x, s):
    b, c, h, w = x.shape
    width = c // (2 * m.groups)
    one, other = x.reshape(b * m.groups, 2 * width, h, w).chunk(2, 1)
    one = one * torch.sigmoid(m.channel_weight * F.adaptive_avg_pool2d(one, 1) + m.channel_bias)
    normal = F.group_norm(other, width, m.norm_weight.flatten(), m.norm_bias.flatten(), eps=1e-5)
    other = other * torch.sigmoid(m.spatial_weight * normal + m.spatial_bias)
    y = F.channel_shuffle(torch.cat((one, other), 1).reshape(b, c, h, w), 2)
    return y if isinstance(s, float) else x + s * (y - x)


def psa_channel(m, x):
    attention = m.channel_query(x).flatten(2).softmax(2)  # (B, 1, N)
    values = conv1x1(m.channel_value, x).flatten(2)  # (B, h, N)
    pooled = (values @ attention.transpose(1, 2)).squeeze(2)
    z = m.channel_expand(pooled)
    return torch.sigmoid(F.layer_norm(z, (z.shape[1],), m.norm.weight, m.norm.bias, eps=1e-5))[:, :, None, None]


def psa_spatial(m, x):
    query = F.adaptive_avg_pool2d(conv1x1(m.spatial_query, x), 1).flatten(1).softmax(1).unsqueeze(1)  # (B, 1, h)
    values = conv1x1(m.spatial_value, x).flatten(2)  # (B, h, N)
    return torch.sigmoid((query @ values).unflatten(2, x.shape[2:]))


def psa(m, x, s):
    if m.layout == "sequential":
        x = x * opened(psa_channel(m, x), s)
        return x * opened(psa_spatial(m, x), s)
    if isinstance(s, float):
        return x * psa_channel(m, x) + x * psa_spatial(m, x)
    return x * opened(psa_channel(m, x) + psa_spatial(m, x), s)


def ela(m, x, s):
    def gate(means):
        strip = F.conv1d(means, m.conv.weight.squeeze(3), padding=m.conv.padding[0], groups=m.conv.groups)
        groups = strip.unflatten(1, (m.norm.num_groups, -1))
        centred = groups - groups.mean((2, 3), keepdim=True)
        normal = (centred / torch.sqrt(groups.var((2, 3), correction=0, keepdim=True) + 1e-5)).flatten(1, 2)
        return torch.sigmoid(m.norm.weight[:, None] * normal + m.norm.bias[:, None])

    row_gate = gate(F.adaptive_avg_pool2d(x, (None, 1)).squeeze(3)).unsqueeze(3)
    column_gate = gate(F.adaptive_avg_pool2d(x, (1, None)).squeeze(2)).unsqueeze(2)
    return x * opened(row_gate, s) * opened(column_gate, s)


def strip(m, x, s):
    rows = m.rows(F.adaptive_avg_pool2d(x, (None, 1)))
    columns = m.columns(F.adaptive_avg_pool2d(x, (1, None)))
    if not m.dense:
        return x * opened(torch.sigmoid(rows.expand_as(x) + columns.expand_as(x)), s)
    rows, columns = batch_norm(m.row_norm, rows).expand_as(x), batch_norm(m.column_norm, columns).expand_as(x)
    return x * opened(torch.sigmoid(m.mix(F.relu(rows + columns))), s)


def ge(m, x, s):
    if m.extent == 0:
        return x * opened(torch.sigmoid(F.adaptive_avg_pool2d(x, 1)), s)
    convs, norms = parts(m.layers)
    if m.convolves:
        gathered = x
        for step in range(m.extent.bit_length() - 1):  # log2 of the extent
            gathered = F.relu(gathered) if step else gathered
            gathered = F.conv2d(gathered, convs[step].weight, stride=2, padding=1, groups=x.shape[1])
            gathered = batch_norm(norms[step], gathered)
    else:
        size = 2 * m.extent - 1
        gathered = F.avg_pool2d(x, size, m.extent, padding=size // 2, count_include_pad=False)
    if len(convs) > len(norms):  # the bottleneck
        reduce, expand = convs[len(norms) :]
        hidden = F.relu(F.conv2d(F.relu(gathered) if m.convolves else gathered, reduce.weight, reduce.bias))
        gathered = F.conv2d(hidden, expand.weight, expand.bias)
    spread = F.interpolate(gathered, x.shape[2:], mode="nearest")
    return x * opened(torch.sigmoid(spread), s)
