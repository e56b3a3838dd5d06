"""The attention blocks: one table of what there is, and one function that builds.

Importing this package does not import torch; ``build`` does.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from nas.attention.options import (
    COORD_FLOOR,
    ChannelKernel,
    Choice,
    Count,
    Groups,
    Number,
    OddKernel,
    OptionValue,
    Reduction,
    nearest,
)
from nas.attention.spec import INITS, BlockSpec

if TYPE_CHECKING:
    from torch import nn

__all__ = ["BLOCKS", "INITS", "BlockSpec", "build"]

_SPECS = (
    BlockSpec(
        name="se",
        title="Squeeze-and-Excitation Networks",
        paper="https://arxiv.org/abs/1709.01507",
        cost="channel",
        module="nas.attention.channel",
        class_name="SE",
        options={"reduction": Reduction(default=16, choices=(4, 8, 16, 32), help="channels per hidden unit")},
    ),
    BlockSpec(
        name="eca",
        title="ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks",
        paper="https://arxiv.org/abs/1910.03151",
        cost="channel",
        module="nas.attention.channel",
        class_name="ECA",
        options={
            "kernel_size": ChannelKernel(
                default=None, choices=(None, 3, 5, 7, 9), help="neighbouring channels that a gate sees; None: adaptive"
            )
        },
    ),
    BlockSpec(
        name="coord",
        title="Coordinate Attention for Efficient Mobile Network Design",
        paper="https://arxiv.org/abs/2103.02907",
        cost="joint",
        module="nas.attention.factorized",
        class_name="Coord",
        options={
            "reduction": Reduction(
                default=32, choices=(8, 16, 32), floor=COORD_FLOOR, help="channels per hidden unit, at least 8 units"
            )
        },
    ),
    BlockSpec(
        name="cbam",
        title="CBAM: Convolutional Block Attention Module",
        paper="https://arxiv.org/abs/1807.06521",
        cost="joint",
        module="nas.attention.joint",
        class_name="CBAM",
        options={
            "reduction": Reduction(default=16, choices=(4, 8, 16, 32), help="channels per hidden unit"),
            "kernel_size": OddKernel(default=7, choices=(3, 5, 7), help="kernel of the spatial gate, in pixels"),
        },
    ),
    BlockSpec(
        name="bam",
        title="BAM: Bottleneck Attention Module",
        paper="https://arxiv.org/abs/1807.06514",
        cost="joint",
        module="nas.attention.joint",
        class_name="BAM",
        options={
            "reduction": Reduction(default=16, choices=(4, 8, 16, 32), help="channels per hidden unit"),
            "dilation": Count(default=4, choices=(1, 2, 4), help="spacing of the 3x3 kernels' taps, in pixels"),
            "combine": Choice(
                default="add",
                choices=("add",),
                names=("add", "mul"),
                help="how the two branches meet; add: the paper, mul: the authors' code",
            ),
        },
    ),
    BlockSpec(
        name="shuffle",
        title="SA-Net: Shuffle Attention for Deep Convolutional Neural Networks",
        paper="https://arxiv.org/abs/2102.00240",
        cost="joint",
        module="nas.attention.factorized",
        class_name="Shuffle",
        options={
            "groups": Groups(
                default=None,
                choices=(None, 4, 8, 16, 32, 64),
                multiple=2,
                help="groups that share their gates' parameters; None: as many as fit, at most 64",
            )
        },
    ),
    BlockSpec(
        name="psa",
        title="Polarized Self-Attention: Towards High-quality Pixel-wise Regression",
        paper="https://arxiv.org/abs/2107.00782",
        cost="joint",
        module="nas.attention.factorized",
        class_name="PSA",
        options={
            "layout": Choice(
                default="parallel",
                choices=("parallel", "sequential"),
                names=("parallel", "sequential"),
                help="whether the channel and the spatial gate stand side by side or one after the other",
            ),
            "reduction": Reduction(default=2, choices=(2, 4, 8), help="channels per channel of the inner maps"),
        },
        min_channels=2,
    ),
    BlockSpec(
        name="sge",
        title="Spatial Group-wise Enhance: Improving Semantic Feature Learning in Convolutional Networks",
        paper="https://arxiv.org/abs/1905.09646",
        cost="spatial",
        module="nas.attention.spatial",
        class_name="SGE",
        options={
            "groups": Groups(
                default=None,
                choices=(None, 4, 8, 16, 32, 64),
                help="groups of channels with a spatial gate each; None: as many as fit, at most 64",
            )
        },
    ),
    BlockSpec(
        name="gam",
        title="Global Attention Mechanism: Retain Information to Enhance Channel-Spatial Interactions",
        paper="https://arxiv.org/abs/2112.05561",
        cost="mixing",
        module="nas.attention.joint",
        class_name="GAM",
        options={
            "reduction": Reduction(default=4, choices=(4, 8, 16), help="channels per hidden channel, in both gates"),
            "kernel_size": OddKernel(default=7, choices=(3, 5, 7), help="kernel of the spatial gate, in pixels"),
            "gate": Choice(
                default="sigmoid",
                choices=("sigmoid",),
                names=("sigmoid", "none"),
                help="what follows the channel branch; sigmoid: the paper's figure, none: the circulating code",
            ),
        },
    ),
    BlockSpec(
        name="simam",
        title="SimAM: A Simple, Parameter-Free Attention Module for Convolutional Neural Networks",
        paper="https://proceedings.mlr.press/v139/yang21o.html",
        cost="spatial",
        module="nas.attention.spatial",
        class_name="SimAM",
        options={
            "lambda_": Number(
                default=1e-4,
                choices=(1e-4, 1e-2, 1e-1),
                low=1e-12,
                high=1e3,
                help="added to the variance; the larger, the flatter the gate",
            )
        },
    ),
)

BLOCKS: Mapping[str, BlockSpec] = MappingProxyType({spec.name: spec for spec in _SPECS})
"""Every block by name."""


def build(name: str, channels: int, *, init: str = "paper", **options: OptionValue) -> nn.Module:
    """Build a block that takes and returns maps of shape (B, channels, H, W).

    Args:
        name: A key of ``BLOCKS``.
        channels: Width of the map.
        init: ``paper`` for the published initialisation, ``identity`` for an exact pass-through at the start.
        **options: The block's own options; see ``BLOCKS[name].options``.

    Raises:
        ValueError: On an unknown block, option or init, or a value that is impossible at that width.
    """
    if not isinstance(name, str) or name not in BLOCKS:
        raise ValueError(f"unknown block {name!r}{nearest(name, BLOCKS)}; known: {', '.join(BLOCKS)}")
    spec = BLOCKS[name]
    spec.check(options, channels)
    block_class = getattr(importlib.import_module(spec.module), spec.class_name)
    block: nn.Module = block_class(channels, init=init, **options)
    return block
