"""Every block against its paper's formula, computed a second time by plain loops in double precision."""

from __future__ import annotations

import math
from itertools import product
from statistics import fmean

import pytest
import torch

from nas.attention import BLOCKS, build

BATCH, CHANNELS, HEIGHT, WIDTH = 2, 8, 5, 3
PIXELS = list(product(range(HEIGHT), range(WIDTH)))
CASES = [
    ("se", {}),
    ("se", {"reduction": 1}),
    ("eca", {}),
    ("eca", {"kernel_size": 5}),
    ("coord", {}),
    ("cbam", {}),
    ("cbam", {"kernel_size": 3}),
    ("bam", {}),
    ("bam", {"dilation": 1}),
    ("bam", {"combine": "mul"}),
    ("shuffle", {}),
    ("shuffle", {"groups": 2}),
    ("psa", {}),
    ("psa", {"layout": "sequential"}),
    ("sge", {}),
    ("sge", {"groups": 2}),
    ("gam", {}),
    ("gam", {"gate": "none", "kernel_size": 3}),
    ("simam", {}),
    ("simam", {"lambda_": 0.1}),
]
every_case = pytest.mark.parametrize(("block", "options"), CASES, ids=lambda case: str(case))
every_mode = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])


# A map is a list [image][channel][row][column] of floats; s is the strength, 1 for the paper's block.


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def relu(value):
    return max(value, 0.0)


def hardswish(value):
    return value * min(max(value + 3, 0.0), 6.0) / 6


def opened(gate, s):
    return 1 + s * (gate - 1)


def flat(channel):
    return [value for row in channel for value in row]


def means(image):
    return [fmean(flat(channel)) for channel in image]


def linear(layer, vector):
    vector = list(vector)
    bias = [0.0] * len(layer.weight) if layer.bias is None else layer.bias.tolist()
    weight = layer.weight.flatten(1).tolist()
    return [b + sum(w * v for w, v in zip(row, vector, strict=True)) for row, b in zip(weight, bias, strict=True)]


def at_every_pixel(function, image):
    """Apply a function of the channel vector at every pixel."""
    height, width = len(image[0]), len(image[0][0])
    out = [[function([c[i][j] for c in image]) for j in range(width)] for i in range(height)]
    return [[[out[i][j][c] for j in range(width)] for i in range(height)] for c in range(len(out[0][0]))]


def convolved(layer, image):
    """Cross-correlation with zeros beyond the border, same size."""
    weight = layer.weight.tolist()
    bias = [0.0] * len(weight) if layer.bias is None else layer.bias.tolist()
    (size, _), (step, _) = layer.kernel_size, layer.dilation
    height, width = len(image[0]), len(image[0][0])
    out = [[[b] * width for _ in range(height)] for b in bias]
    for o, i, j, u, v in product(range(len(out)), range(height), range(width), range(size), range(size)):
        row, column = i + step * (u - size // 2), j + step * (v - size // 2)
        if 0 <= row < height and 0 <= column < width:
            out[o][i][j] += sum(weight[o][c][u][v] * image[c][row][column] for c in range(len(image)))
    return out


def normalised(layer, images, training, statistics):
    """Batch normalisation, by the batch's statistics in training and the running ones, as they were, in evaluation."""
    out = [[[list(row) for row in channel] for channel in image] for image in images]
    mean, variance = statistics[layer]
    for c in range(len(images[0])):
        values = [value for image in images for value in flat(image[c])]
        m = fmean(values) if training else mean[c]
        v = fmean((value - m) ** 2 for value in values) if training else variance[c]
        scale, shift = layer.weight.tolist()[c], layer.bias.tolist()[c]
        for image in out:
            image[c] = [[scale * (value - m) / math.sqrt(v + layer.eps) + shift for value in row] for row in image[c]]
    return out


def sequence(layers, images, training, statistics):
    """Apply convolutions, batch normalisations and ReLUs one after the other."""
    for layer in layers:
        if isinstance(layer, torch.nn.Conv2d):
            images = [convolved(layer, image) for image in images]
        elif isinstance(layer, torch.nn.BatchNorm2d):
            images = normalised(layer, images, training, statistics)
        else:
            assert isinstance(layer, torch.nn.ReLU)
            images = [[[[relu(v) for v in row] for row in channel] for channel in image] for image in images]
    return images


def gated(images, gate):
    """Multiply every value by ``gate(image, channel, row, column)``."""
    return [
        [
            [[value * gate(b, c, i, j) for j, value in enumerate(row)] for i, row in enumerate(channel)]
            for c, channel in enumerate(image)
        ]
        for b, image in enumerate(images)
    ]


def se(m, x, s, training, statistics):
    gates = [[sigmoid(v) for v in linear(m.expand, map(relu, linear(m.reduce, means(image))))] for image in x]
    return gated(x, lambda b, c, i, j: opened(gates[b][c], s))


def eca(m, x, s, training, statistics):
    (taps,) = m.conv.weight[0].tolist()
    half = len(taps) // 2

    def gate(b, c, i, j):
        mean = dict(enumerate(means(x[b])))
        return opened(sigmoid(sum(tap * mean.get(c + k - half, 0.0) for k, tap in enumerate(taps))), s)

    return gated(x, gate)


def coord(m, x, s, training, statistics):
    rows = [[[fmean(row) for row in channel] for channel in image] for image in x]
    columns = [[[fmean(column) for column in zip(*channel, strict=True)] for channel in image] for image in x]
    strips = [[[r + c] for r, c in zip(*pair, strict=True)] for pair in zip(rows, columns, strict=True)]
    reduced = [at_every_pixel(lambda vector: linear(m.reduce, vector), strip) for strip in strips]
    features = [
        at_every_pixel(lambda vector: list(map(hardswish, vector)), strip)
        for strip in normalised(m.norm, reduced, training, statistics)
    ]

    def gate(b, c, i, j):
        row = linear(m.rows, [channel[0][i] for channel in features[b]])[c]
        column = linear(m.columns, [channel[0][HEIGHT + j] for channel in features[b]])[c]
        return opened(sigmoid(row), s) * opened(sigmoid(column), s)

    return gated(x, gate)


def cbam(m, x, s, training, statistics):
    def mlp(vector):
        return linear(m.expand, map(relu, linear(m.reduce, vector)))

    logits = [zip(mlp(means(image)), mlp([max(flat(c)) for c in image]), strict=True) for image in x]
    channel_gates = [[sigmoid(average + greatest) for average, greatest in image] for image in logits]
    x = gated(x, lambda b, c, i, j: opened(channel_gates[b][c], s))
    planes = [at_every_pixel(lambda vector: [max(vector), fmean(vector)], image) for image in x]
    maps = sequence([m.conv, m.norm], planes, training, statistics)
    return gated(x, lambda b, c, i, j: opened(sigmoid(maps[b][0][i][j]), s))


def bam(m, x, s, training, statistics):
    pooled = [[[[mean]] for mean in means(image)] for image in x]
    channel = sequence(m.channel, pooled, training, statistics)
    spatial = sequence(m.spatial, x, training, statistics)

    def gate(b, c, i, j):
        one, other = channel[b][c][0][0], spatial[b][0][i][j]
        return 1 + s * sigmoid(one + other if m.combine == "add" else one * other)

    return gated(x, gate)


def shuffle(m, x, s, training, statistics):
    names = ("channel_weight", "channel_bias", "spatial_weight", "spatial_bias", "norm_weight", "norm_bias")
    cw, cb, sw, sb, gamma, beta = (getattr(m, name).flatten().tolist() for name in names)
    width = CHANNELS // (2 * m.groups)

    def gate(b, c, i, j):
        half, k = divmod(c % (2 * width), width)
        values = flat(x[b][c])
        mean = fmean(values)
        if half == 0:
            return sigmoid(cw[k] * mean + cb[k])
        variance = fmean((value - mean) ** 2 for value in values)
        normal = gamma[k] * (x[b][c][i][j] - mean) / math.sqrt(variance + 1e-5) + beta[k]
        return sigmoid(sw[k] * normal + sb[k])

    z = gated(x, gate)
    moved = [[image[(c % 2) * (CHANNELS // 2) + c // 2] for c in range(CHANNELS)] for image in z]
    return [
        [
            [[(1 - s) * x[b][c][i][j] + s * moved[b][c][i][j] for j in range(WIDTH)] for i in range(HEIGHT)]
            for c in range(8)
        ]
        for b in range(BATCH)
    ]


def softmax(values):
    exponentials = [math.exp(value - max(values)) for value in values]
    return [value / sum(exponentials) for value in exponentials]


def psa_channel(m, image):
    query = at_every_pixel(lambda vector: linear(m.channel_query, vector), image)[0]
    value = at_every_pixel(lambda vector: linear(m.channel_value, vector), image)
    attention = softmax(flat(query))
    pooled = [sum(a * v for a, v in zip(attention, flat(channel), strict=True)) for channel in value]
    z = linear(m.channel_expand, pooled)
    variance = fmean((v - fmean(z)) ** 2 for v in z)
    unit = [(v - fmean(z)) / math.sqrt(variance + 1e-5) for v in z]
    return [sigmoid(w * v + b) for w, v, b in zip(m.norm.weight.tolist(), unit, m.norm.bias.tolist(), strict=True)]


def psa_spatial(m, image):
    query = softmax(means(at_every_pixel(lambda vector: linear(m.spatial_query, vector), image)))
    value = at_every_pixel(lambda vector: linear(m.spatial_value, vector), image)
    return [
        [sigmoid(sum(q * v[i][j] for q, v in zip(query, value, strict=True))) for j in range(WIDTH)]
        for i in range(HEIGHT)
    ]


def psa(m, x, s, training, statistics):
    per_channel = [psa_channel(m, image) for image in x]
    if m.layout == "parallel":
        per_pixel = [psa_spatial(m, image) for image in x]
        return gated(x, lambda b, c, i, j: opened(per_channel[b][c] + per_pixel[b][i][j], s))
    x = gated(x, lambda b, c, i, j: opened(per_channel[b][c], s))
    per_pixel = [psa_spatial(m, image) for image in x]
    return gated(x, lambda b, c, i, j: opened(per_pixel[b][i][j], s))


def sge(m, x, s, training, statistics):
    width = CHANNELS // m.groups
    weight, bias = m.weight.flatten().tolist(), m.bias.flatten().tolist()
    gates = []
    for image in x:
        mean = means(image)
        gates.append([])
        for g in range(m.groups):
            members = range(g * width, (g + 1) * width)
            c = {(i, j): sum(mean[k] * image[k][i][j] for k in members) for i, j in PIXELS}
            centre = fmean(c.values())
            deviation = math.sqrt(sum((v - centre) ** 2 for v in c.values()) / (len(PIXELS) - 1))
            gates[-1].append({p: sigmoid(weight[g] * (c[p] - centre) / (deviation + 1e-5) + bias[g]) for p in PIXELS})
    return gated(x, lambda b, c, i, j: opened(gates[b][c // width][i, j], s))


def gam(m, x, s, training, statistics):
    first, _, second = m.channel
    factors = [at_every_pixel(lambda v: linear(second, map(relu, linear(first, v))), image) for image in x]
    bounded = sigmoid if m.gate == "sigmoid" else float
    x = gated(x, lambda b, c, i, j: opened(bounded(factors[b][c][i][j]), s))
    maps = sequence(m.spatial, x, training, statistics)
    return gated(x, lambda b, c, i, j: opened(sigmoid(maps[b][c][i][j]), s))


def simam(m, x, s, training, statistics):
    def gate(b, c, i, j):
        values = flat(x[b][c])
        mean = fmean(values)
        variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
        return opened(sigmoid((x[b][c][i][j] - mean) ** 2 / (4 * (variance + m.lambda_)) + 0.5), s)

    return gated(x, gate)


FORMULAS = {f.__name__: f for f in (se, eca, coord, cbam, bam, shuffle, psa, sge, gam, simam)}


def double_input():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(BATCH, CHANNELS, HEIGHT, WIDTH, dtype=torch.float64, generator=generator)


def test_every_block_has_a_formula():
    assert set(FORMULAS) == {block for block, _ in CASES} == set(BLOCKS)


@every_case
@every_mode
@pytest.mark.parametrize("strength", [None, 0.3], ids=["paper", "strength"])
def test_output_is_the_papers_formula(block, options, training, strength, randomise):
    module = build(block, CHANNELS, init="paper" if strength is None else "identity", **options)
    module = randomise(module, strength=strength).double().train(training)
    norms = [layer for layer in module.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    statistics = {norm: (norm.running_mean.tolist(), norm.running_var.tolist()) for norm in norms}
    s = 1.0 if strength is None else module.strength.tolist()
    x = double_input()
    expected = torch.tensor(FORMULAS[block](module, x.tolist(), s, training, statistics), dtype=torch.float64)
    torch.testing.assert_close(module(x), expected, rtol=1e-9, atol=1e-12)


@every_case
@every_mode
def test_gradients_are_those_of_the_output(block, options, training, randomise):
    module = randomise(build(block, CHANNELS, init="identity", **options), strength=0.7).double().train(training)
    names, values = zip(*module.named_parameters(), strict=True)

    def output(x, *parameters):
        return torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (x,))

    inputs = (double_input().requires_grad_(), *(value.detach().clone().requires_grad_() for value in values))
    assert torch.autograd.gradcheck(output, inputs, fast_mode=True)
