"""Blocks with gates for channels and for places."""

from __future__ import annotations

from nas.attention.options import COORD_FLOOR, Choice, Count, Groups, OddKernel, Reduction
from nas.attention.spec import BlockSpec

SPECS = (
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
        sizes={"h": "max(C // reduction, min(8, C))"},
        parameters="3 * C * h + 2 * h + 2 * C",
        macs="2 * (H + W) * C * h",
        formula="y = x * sigmoid(Wh f_rows) * sigmoid(Ww f_columns), f = hardswish(BN(W1 [row means; column means]))",
        claim="Better than SE and CBAM in mobile networks, above all for detection and segmentation, as it keeps "
        "positions along both axes.",
        costly="Little arithmetic, but a dozen small operations and three passes over the map.",
        traps="Row and column means by adaptive pooling take more than twice as long as plain means.",
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
        sizes={"h": "max(C // reduction, min(4, C))"},
        parameters="2 * C * h + h + C + 2 * kernel_size**2 + 2",
        macs="4 * C * h + 2 * kernel_size**2 * N",
        formula="x' = x * sigmoid(MLP(avg x) + MLP(max x));  y = x' * sigmoid(BN(conv([max x'; avg x'])))",
        claim="Lower error than SE on ImageNet and better detection, at negligible extra parameters.",
        costly="On large maps: it reads the map seven times, and a maximum over the channels is slow with its "
        "gradient.",
        traps="Ports add a residual that the paper has not, put the padding into the stride (which broadcasts "
        "silently on small maps), or take the size of the map as the kernel.",
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
        sizes={"h": "max(C // reduction, min(4, C))", "ends": "2 * C + 2 if combine == 'add' else C + 1"},
        parameters="3 * C * h + 18 * h**2 + 9 * h + ends",
        macs="2 * C * h + N * (C * h + 18 * h**2 + h)",
        formula="y = x * (1 + sigmoid(BN(MLP(avg x)) + BN(conv1x1(DC(DC(conv1x1 x))))))",
        claim="Gains in classification and detection from a single gate at each bottleneck of the network: it is "
        "meant to stand after a stage, not in every block.",
        costly="On wide maps at high resolution, where its first 1x1 convolution and two dilated ones run at every "
        "pixel.",
        traps="The authors' code multiplies the branches, cannot be instantiated as published, and pools only a "
        "square crop. Ports that pad by 1 whatever the dilation shrink the map.",
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
        parameters="3 * C // groups",
        macs="0",
        formula="per group, halves a and b: y = shuffle([a * sigmoid(w mean(a) + b); b * sigmoid(w' norm(b) + b')])",
        claim="More accurate than SE, ECA and SGE on ImageNet with about 300 parameters in a ResNet-50.",
        costly="Always somewhat: the shuffle copies the map, and half of the map is normalised.",
        traps="It permutes the channels, so pretrained weights behind it no longer fit. The published default of 64 "
        "groups cannot be used below 128 channels; widths that do not divide run silently wrong.",
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
        sizes={"h": "max(C // reduction, min(4, C))"},
        parameters="4 * C * h + 3 * C",
        macs="3 * C * N + 4 * C * h",
        formula="y = x * gc + x * gs;  gc = sigmoid(LN(Wz(Wv x . softmax_N(Wq x)))),  gs = sigmoid(softmax_h(Wq' avg "
        "x) . Wv' x)",
        claim="Keeps high resolution in both polarised branches: 2 to 4 points on pose estimation and segmentation.",
        costly="As published, four 1x1 convolutions of the map. Here the linear maps act after the sums: a few reads "
        "of the map remain.",
        traps="The authors' code takes the softmax over the pixels after the product, so that its spatial gate is 0.5 "
        "up to the fourth digit.",
        min_channels=2,
    ),
)
"""In the order in which they are listed."""
