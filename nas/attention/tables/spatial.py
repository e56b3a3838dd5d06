"""Blocks with gates for each pixel, from the map's own statistics."""

from __future__ import annotations

from nas.attention.options import Groups, Number
from nas.attention.spec import BlockSpec

SPECS = (
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
        parameters="2 * groups",
        macs="0",
        formula="y_p = x_p * sigmoid(w t_p + b) per group, t = standardised <mean(x), x_p>",
        claim="Better classification and detection than SE and CBAM for next to no parameters.",
        costly="With many groups on large maps: as many maps of similarities as groups are written and read.",
        traps="The authors' code returns NaN on a 1x1 map; some ports start the bias at 0 instead of 1, which halves "
        "the map, and fail on channels_last.",
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
        parameters="0",
        macs="0",
        formula="y = x * sigmoid((x - mean)^2 / (4 (variance + lambda)) + 1/2)",
        claim="An attention with a gate for each value and no parameters, competitive with SE, CBAM and ECA.",
        costly="In memory traffic: no parameters, but several passes over maps as large as the input, and the gate is "
        "one of them.",
        traps="The module's lambda is 1e-4, the authors' ImageNet commands pass 0.1; NaN on a 1x1 map. The gate is "
        "never below 0.62.",
    ),
)
"""In the order in which they are listed."""
