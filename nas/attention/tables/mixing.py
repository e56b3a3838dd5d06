"""Blocks whose convolutions or matrices mix channels at every pixel."""

from __future__ import annotations

from nas.attention.options import Choice, Count, Groups, OddKernel, Reduction
from nas.attention.spec import BlockSpec
from nas.attention.widths import SK_FLOOR, SK_GROUPS

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
    BlockSpec(
        name="sk",
        title="Selective Kernel Networks",
        paper="https://arxiv.org/abs/1903.06586",
        cost="mixing",
        module="nas.attention.mixing",
        class_name="SK",
        options={
            "branches": Count(
                default=2, choices=(2, 3), low=2, high=4, help="3x3 convolutions, with dilations 1, 2 and so on"
            ),
            "groups": Groups(
                default=None,
                choices=(None, 8),
                limit=SK_GROUPS,
                help="groups of each convolution; None: as many as fit, at most 32",
            ),
            "reduction": Reduction(
                default=16, choices=(4, 8, 16), floor=SK_FLOOR, help="channels per hidden unit, at least 32 units"
            ),
        },
        sizes={"d": "max(C // reduction, min(32, C))"},
        parameters="branches * (9 * C * C // groups + 2 * C) + C * d + 2 * d + branches * C * d",
        macs="branches * 9 * N * C * C // groups + C * d + branches * C * d",
        formula="y = sum_m a_m U_m,  U_m = relu(BN(conv_m x)),  a = softmax_m(A relu(BN(Wz mean(sum_m U_m))))",
        claim="Units that set their receptive field by the input: ahead of ResNeXt and SENet on ImageNet at similar "
        "cost, and larger objects take the wider kernel.",
        costly="Where the map is large: two or three convolutions with normalisations, whatever the weights are worth.",
        traps="Ports use dense kernels up to 7x7 with 84 C^2 weights, and drop the normalisation in the small "
        "branch, which on the other hand fails for a single image in training mode. It replaces the map: a backbone's "
        "pretrained weights behind it see something else.",
    ),
    BlockSpec(
        name="s2mlp",
        title="S^2-MLPv2: Improved Spatial-Shift MLP Architecture for Vision",
        paper="https://arxiv.org/abs/2108.01072",
        cost="mixing",
        module="nas.attention.mixing",
        class_name="S2MLP",
        options={
            "reduction": Reduction(default=1, choices=(1, 4), help="channels per hidden unit of the parts' weights"),
            "residual": Choice(
                default="pre_norm",
                choices=("pre_norm",),
                names=("pre_norm", "none"),
                help="what stands around it; pre_norm: the paper's x + f(LN(x)), none: f(x), the circulating code",
            ),
        },
        sizes={"h": "max(C // reduction, min(4, C))", "norm": "2 * C if residual == 'pre_norm' else 0"},
        parameters="4 * C**2 + 4 * C + 4 * C * h + norm",
        macs="4 * N * C**2 + 4 * C * h",
        formula="y = x + Wp sum_k a_k shift_k(We_k LN(x)),  a = softmax_k(A2 gelu(A1 sum_N(sum_k shift_k(...))))",
        claim="Beats earlier MLP backbones on ImageNet at like size, by moving channels to neighbouring pixels in "
        "place of attention or spatial weights.",
        costly="Always: as many multiplications as a 2x2 convolution, and a map of three times the channels inside.",
        traps="In circulating code the shift down or right, in place, copies the first row or column over all "
        "others. The pooled sum grows with the map, and with it the sharpness of the weights.",
        min_channels=4,
    ),
)
"""In the order in which they are listed."""
