"""Blocks with gates for channels and for places."""

from __future__ import annotations

from nas.attention.options import Choice, Count, Extent, Groups, GroupWidth, OddKernel, Reduction
from nas.attention.spec import BlockSpec
from nas.attention.widths import COORD_FLOOR, ELA_NORM_GROUPS, LOCAL_EXTENTS

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
    BlockSpec(
        name="ela",
        title="ELA: Efficient Local Attention for Deep Convolutional Neural Networks",
        paper="https://arxiv.org/abs/2403.01123",
        cost="joint",
        module="nas.attention.strips",
        class_name="ELA",
        options={
            "kernel_size": OddKernel(default=7, choices=(5, 7), help="kernel along rows and columns, in pixels"),
            "group_width": GroupWidth(
                default=1, choices=(1, 8), help="channels that meet along a strip; 1: ELA-T and -B, 8: ELA-S and -L"
            ),
            "norm_groups": Groups(
                default=None,
                choices=(None,),
                limit=ELA_NORM_GROUPS,
                help="groups of the normalisation; None: as many as fit, at most 16; ELA-T takes 32",
            ),
        },
        parameters="group_width * kernel_size * C + 2 * C",
        macs="group_width * kernel_size * C * (H + W + kernel_size // 2)",
        formula="y = x * g(row means) * g(column means), g = sigmoid(GN(conv1d(.)))",
        claim="Ahead of coordinate attention and other light gates in classification, detection and segmentation: no "
        "bottleneck, and no batch normalisation, which its authors find to generalise badly.",
        costly="Never in arithmetic; three passes over the map, and a dozen small operations where maps are small.",
        traps="16 groups of normalisation, fixed in circulating code, fail on many widths. timm's version has separate "
        "layers for rows and columns, one group, and SiLU before the sigmoid. Some ports lay the column gate along "
        "the rows, which passes on square maps.",
    ),
    BlockSpec(
        name="strip",
        title="Strip Pooling: Rethinking Spatial Pooling for Scene Parsing",
        paper="https://arxiv.org/abs/2003.13328",
        cost="mixing",
        module="nas.attention.strips",
        class_name="Strip",
        options={
            "convolution": Choice(
                default="dense",
                choices=("dense", "depthwise"),
                names=("dense", "depthwise"),
                help="dense: the paper, with a 1x1 convolution of the summed strips; depthwise: strips alone, timm",
            ),
            "kernel_size": OddKernel(default=3, choices=(3, 5, 7), help="kernel along rows and columns, in pixels"),
        },
        sizes={"m": "C if convolution == 'dense' else 1", "mix": "C if convolution == 'dense' else 0"},
        parameters="2 * m * kernel_size * C + mix * (C + 5)",
        macs="m * kernel_size * C * (H + W) + mix * C * N",
        formula="y = x * sigmoid(W1 relu(BN(conv1d(row means)) + BN(conv1d(column means))) + b1)",
        claim="Better scene parsing than with square pooling or dilated convolutions, as long thin structures fit "
        "strips.",
        costly="As published on every map: its 1x1 convolution mixes all channels at every pixel, and behind a "
        "stage's last layer C is four times what the authors put it behind. The depthwise form is a light gate.",
        traps="The equations lack the normalisations and the ReLU of the authors' code. Many ports named so are the "
        "paper's mixed pooling module, which is no gate; others pool to a fixed number of strips.",
    ),
    BlockSpec(
        name="ge",
        title="Gather-Excite: Exploiting Feature Context in Convolutional Neural Networks",
        paper="https://arxiv.org/abs/1810.12348",
        cost="joint",
        module="nas.attention.gather",
        class_name="GatherExcite",
        options={
            "extent": Extent(default=0, choices=(0, 2, 4, 8), help="pixels between gathered places; 0: global"),
            "gather": Choice(
                default="mean",
                choices=("mean", "conv"),
                names=("mean", "conv"),
                when=("extent", LOCAL_EXTENTS),
                help="mean: overlapping means, no parameters; conv: depthwise convolutions of stride 2",
            ),
            "excite": Choice(
                default="none",
                choices=("none", "mlp"),
                names=("none", "mlp"),
                when=("extent", LOCAL_EXTENTS),
                help="mlp: a bottleneck of C / 16 at every gathered place; with a global extent take the block se",
            ),
        },
        sizes={
            "steps": "extent.bit_length() - 1 if gather == 'conv' else 0",
            "h": "max(C // 16, min(4, C)) if excite == 'mlp' else 0",
            "up": "C if h else 0",
            "places": "-(-H // extent) * -(-W // extent) if extent else 1",
            "p1": "-(-H // 2) * -(-W // 2) if steps > 0 else 0",
            "p2": "-(-H // 4) * -(-W // 4) if steps > 1 else 0",
            "p3": "-(-H // 8) * -(-W // 8) if steps > 2 else 0",
            "p4": "-(-H // 16) * -(-W // 16) if steps > 3 else 0",
            "p5": "-(-H // 32) * -(-W // 32) if steps > 4 else 0",
        },
        parameters="11 * C * steps + 2 * C * h + h + up",
        macs="9 * C * (p1 + p2 + p3 + p4 + p5) + 2 * C * h * places",
        formula="y = x * sigmoid(interp(f(gather(x)))), interp: nearest neighbour",
        claim="ResNet-50 with the global mean as its gate, no parameters at all, is ahead of ResNet-101 on ImageNet; "
        "learned gathering and larger extents gain more.",
        costly="Global, it is the cheapest gate of all. With a local extent the gate is as large as the map, and the "
        "overlapping windows read every pixel four times.",
        traps="timm 1.0.31 cannot build it with convolutions or an MLP. Ports pool with the padding counted in, which "
        "darkens the border, or keep a ReLU behind the last convolution, so that no gate is below 0.5.",
    ),
)
"""In the order in which they are listed."""
