"""What several formulas share."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn


def opened(gate, s):
    """Return the gate that a strength leaves: 1 at s = 0, and the published gate itself where there is no strength."""
    return gate if isinstance(s, float) and s == 1 else 1 + s * (gate - 1)


def batch_norm(layer, x):
    """Normalise as the layer does in its mode, but leave its running statistics alone."""
    if layer.training:
        return F.batch_norm(x, None, None, layer.weight, layer.bias, training=True, eps=1e-5)
    return F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=1e-5)


def parts(layers):
    """Return the convolutions and the batch normalisations among layers; how they are applied is the formula's."""
    convs = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    return convs, [layer for layer in layers if isinstance(layer, nn.BatchNorm2d)]


def conv1x1(layer, x):
    """Apply a linear layer at every pixel."""
    return F.conv2d(x, layer.weight[:, :, None, None], layer.bias)
