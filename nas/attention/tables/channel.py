"""Blocks with one gate for each channel."""

from __future__ import annotations

from nas.attention.options import ChannelKernel, Choice, Count, Reduction
from nas.attention.spec import BlockSpec

SPECS = (
    BlockSpec(
        name="se",
        title="Squeeze-and-Excitation Networks",
        paper="https://arxiv.org/abs/1709.01507",
        cost="channel",
        module="nas.attention.channel",
        class_name="SE",
        options={"reduction": Reduction(default=16, choices=(4, 8, 16, 32), help="channels per hidden unit")},
        sizes={"h": "max(C // reduction, min(4, C))"},
        parameters="2 * C * h + h + C",
        macs="2 * C * h",
        formula="y = x * sigmoid(W2 relu(W1 mean(x)))",
        claim="Lower error than the plain network at every depth of ResNet, for about 10 % more parameters; winner of "
        "ILSVRC 2017.",
        costly="Never in arithmetic. It reads the map twice and writes it once: on small maps the launches of its six "
        "operations are what it costs, on large ones the bandwidth.",
        traps="With fewer channels than the reduction, ports with linear layers have no hidden unit and a constant "
        "gate of 0.5, without an error. Ports disagree on the biases.",
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
        parameters="kernel_size",
        macs="kernel_size * C",
        formula="y = x * sigmoid(conv1d(mean(x))), along the channel axis",
        claim="As accurate as SE or better with a handful of parameters, because it does not squeeze the channels.",
        costly="Never: the cheapest gate that learns. Its output depends on the order of the channels.",
        traps="The authors' module takes a fixed kernel of 3 in place of the paper's adaptive size; some ports add a "
        "bias, and even kernels fail or shift.",
    ),
    BlockSpec(
        name="nam",
        title="NAM: Normalization-based Attention Module",
        paper="https://arxiv.org/abs/2111.12419",
        cost="channel",
        module="nas.attention.context",
        class_name="NAM",
        options={
            "layout": Choice(
                default="channel",
                choices=("channel",),
                names=("channel", "sequential"),
                help="the channel gate alone, or a gate of pixels behind it",
            ),
            "weights": Choice(
                default="learned",
                choices=("learned",),
                names=("learned", "detached"),
                help="whether the shares of the scales pass gradients; learned: the paper, detached: the authors' code",
            ),
        },
        parameters="2 * C + (98 if layout == 'sequential' else 0)",
        macs="0",
        min_channels=2,
        formula="y = x * sigmoid(w * BN(x)), w = |gamma| / sum |gamma|, gamma the scales of BN",
        claim="More accurate than three other attention blocks in ResNet and MobileNet, with the scales of a "
        "normalisation as its only weights and a penalty on them that silences unimportant channels.",
        costly="On large maps: no arithmetic to speak of, but a normalisation and a gate for every single value.",
        traps="Its shares are near 1 / C, so that every gate stays within a few hundredths of 0.5: the block halves "
        "the map. The authors' spatial gate needs maps of one fixed size; one of their revisions has a ReLU in the "
        "gate.",
    ),
    BlockSpec(
        name="gc",
        title="GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond",
        paper="https://arxiv.org/abs/1904.11492",
        cost="channel",
        module="nas.attention.context",
        class_name="GlobalContext",
        options={
            "reduction": Reduction(default=16, choices=(4, 8, 16), help="channels per hidden unit"),
            "fusion": Choice(
                default="add",
                choices=("add", "scale"),
                names=("add", "scale"),
                help="how the context meets the map; add: the paper, scale: a gate from it",
            ),
        },
        sizes={"h": "max(C // reduction, min(4, C))"},
        parameters="2 * C * h + 3 * h + 2 * C",
        macs="C * N + 2 * C * h",
        min_channels=2,
        identity_when={"fusion": "add"},
        formula="y = x + W2 relu(LN(W1 c)), c = sum over pixels of x * softmax(k . x)",
        claim="As good as a non-local block or better at detection and classification, for about the cost of SE: the "
        "attention maps of a non-local block hardly depend on the pixel that asks.",
        costly="Never in arithmetic. It reads the map three times, once more than SE.",
        traps="The default of some ports is the gate, which the paper's ablation finds weaker than the sum. A bias of "
        "the logits does nothing. A layer norm of a single hidden unit would ignore the map.",
    ),
    BlockSpec(
        name="soca",
        title="Second-Order Attention Network for Single Image Super-Resolution",
        paper="https://openaccess.thecvf.com/content_CVPR_2019/html/"
        "Dai_Second-Order_Attention_Network_for_Single_Image_Super-Resolution_CVPR_2019_paper.html",
        cost="channel",
        module="nas.attention.second_order",
        class_name="SOCA",
        options={
            "reduction": Reduction(default=16, choices=(4, 8, 16), help="channels per hidden unit"),
            "iterations": Count(default=5, choices=(5,), help="Newton-Schulz steps towards the covariance's root"),
        },
        sizes={
            "h": "max(C // reduction, min(4, C))",
            "S": "min(C, N)",
            "vectors": "iterations + 2 if iterations > 1 else 1",
            "last": "C * N if N < C else 0",
        },
        parameters="2 * C * h + h + C",
        macs="S**2 * max(C, N) + 2 * max(iterations - 2, 0) * S**3 + vectors * S**2 + last + 2 * C * h",
        min_channels=2,
        formula="y = x * sigmoid(W2 relu(W1 mean(R))), R = root of the channels' covariance",
        claim="Better super-resolution, as gates from second-order statistics discriminate more than gates from means.",
        costly="Where channels and pixels are both many: products of square matrices, as wide as the fewer of them.",
        traps="The authors' code builds a matrix of all pairs of pixels to subtract a mean, gigabytes on large maps, "
        "gives NaN on constant maps, and has buffers in single precision whatever the map is in. Beyond some twenty "
        "steps the iteration diverges on singular covariances.",
    ),
)
"""In the order in which they are listed."""
