"""Blocks whose convolutions or matrices mix channels at every pixel."""

from __future__ import annotations

from nas.attention.options import Choice, OddKernel, Reduction
from nas.attention.spec import BlockSpec

SPECS = (
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
        sizes={"h": "max(C // reduction, min(4, C))"},
        parameters="2 * C * h + h + C + 2 * kernel_size**2 * C * h + 2 * h + 2 * C",
        macs="2 * N * C * h * (1 + kernel_size**2)",
        formula="x' = x * sigmoid(MLP_p(x));  y = x' * sigmoid(BN(conv(relu(BN(conv x')))))",
        claim="Ahead of CBAM and SE on CIFAR-100 and ImageNet, by keeping all channels and all pixels in both gates.",
        costly="Nearly always: two 7x7 convolutions between C and C/4 channels weigh more than the block that they "
        "follow.",
        traps="The code that circulates leaves out the first sigmoid, so that its channel factor can be negative.",
    ),
)
"""In the order in which they are listed."""
