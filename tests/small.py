"""A network and a split that train in a moment, which several test files share."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from torch import nn

from nas.data import SearchData, Split, Splits, load
from nas.protocol import Protocol

CPU = torch.device("cpu")
PROTOCOL = Protocol(
    data="digits",
    data_hash="0" * 16,
    split_seed=0,
    num_classes=10,
    channels=1,
    resolution=16,
    epochs=2,
    batch_size=64,
)


def small_net(*, dropout: float = 0.0) -> nn.Sequential:
    """Return a network of two convolutions, always with the same weights."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 24, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(24 * 4 * 4, 10),
    )


@cache
def splits() -> Splits:
    """Return digits, of 16 x 16 pixels."""
    return load("digits", resolution=16)


@cache
def few() -> SearchData:
    """Return a hundred training images, for tests that need steps rather than learning."""
    search = splits().search()
    train = search.train
    return replace(
        search, train=Split(images=train.images[:100], labels=train.labels[:100], indices=train.indices[:100])
    )
