"""Blocks in which every place may look at many others: all pairs of pixels or channels."""

from __future__ import annotations

from nas.attention.options import Choice, Count, Heads, Reduction
from nas.attention.spec import BlockSpec
from nas.attention.widths import POSITION_ENTRIES

SPECS = (
    BlockSpec(
        name="ccnet",
        title="CCNet: Criss-Cross Attention for Semantic Segmentation",
        paper="https://arxiv.org/abs/1811.11721",
        cost="global",
        module="nas.attention.pairs",
        class_name="CCNet",
        options={
            "reduction": Reduction(default=8, choices=(4, 8, 16), help="channels per channel of queries and keys"),
            "recurrence": Count(
                default=2, choices=(1, 2), help="rounds with the same weights; from 2 on every pixel sees every other"
            ),
        },
        sizes={"h": "max(C // reduction, min(4, C))"},
        parameters="2 * C * h + C**2 + 1",
        macs="recurrence * N * (2 * C * h + C**2 + (H + W) * (h + C))",
        identity_when={},
        formula="R times: y_p = x_p + gamma * sum of softmax(q_p . k_j) v_j over the row and the column of p",
        claim="The context of a non-local block for a tenth of its memory and 15 % of its arithmetic in a "
        "segmentation head.",
        costly="Moderately at every size: H + W scores for each pixel instead of H W, and a C x C product at every "
        "pixel in each round.",
        traps="The authors' mask is built on a GPU in every call, (B W, H, H) numbers of minus infinity; on a CPU it "
        "fails.",
    ),
    BlockSpec(
        name="danet",
        title="Dual Attention Network for Scene Segmentation",
        paper="https://arxiv.org/abs/1809.02983",
        cost="global",
        module="nas.attention.pairs",
        class_name="DANet",
        options={
            "branch": Choice(
                default="both",
                choices=("both", "position", "channel"),
                names=("both", "position", "channel"),
                help="pixels gather from pixels, channels from channels, or both",
            ),
            "reduction": Reduction(
                default=8,
                choices=(4, 8, 16),
                when=("branch", ("both", "position")),
                help="channels per channel of queries and keys",
            ),
            "affinity": Choice(
                default="sum",
                choices=("sum", "mean"),
                names=("sum", "dissimilar", "mean"),
                when=("branch", ("both", "channel")),
                help="scores of the channel branch; sum: the paper, dissimilar: the authors' code, mean: per pixel",
            ),
        },
        sizes={
            "h": "max(C // reduction, min(4, C))",
            "position": "0 if branch == 'channel' else 1",
            "channel": "0 if branch == 'position' else 1",
        },
        parameters="position * (2 * C * h + C**2 + 1) + channel",
        macs="position * N * (2 * C * h + C**2 + N * (h + C)) + channel * 2 * N * C**2",
        identity_when={},
        min_channels=2,
        formula="y = x + alpha * softmax_N(q k^T) v + beta * softmax_C(x x^T) x",
        claim="State of the art in scene segmentation on Cityscapes, PASCAL Context and COCO Stuff, as a head.",
        costly="The position branch on large maps: its arithmetic grows with the square of the pixels, not its "
        "memory. The channel branch with wide maps.",
        traps="As published the scores of the position branch fill N x N numbers, several times. The authors' channel "
        "branch has the sign reversed; ports tie the block to 512 channels of 7 x 7.",
    ),
    BlockSpec(
        name="nonlocal",
        title="Non-local Neural Networks",
        paper="https://arxiv.org/abs/1711.07971",
        cost="global",
        module="nas.attention.pairs",
        class_name="NonLocal",
        options={
            "reduction": Reduction(default=2, choices=(2, 4, 8), help="channels per hidden channel"),
            "kv_stride": Count(default=2, choices=(1, 2), help="pooling of keys and values, in pixels"),
            "scale": Choice(
                default="none",
                choices=("none", "sqrt"),
                names=("none", "sqrt"),
                help="divisor of the scores; none: the paper, sqrt: square root of the hidden width, the authors' code",
            ),
        },
        sizes={
            "h": "max(C // reduction, min(4, C))",
            "M": "-(-H // kv_stride) * -(-W // kv_stride)",
        },
        parameters="4 * C * h + 2 * C",
        macs="2 * N * C * h + 2 * M * C * h + 2 * N * M * h",
        identity_when={},
        min_channels=2,
        formula="y = x + BN(Wz softmax(theta(x) phi(pool x)^T) g(pool x))",
        claim="About one point on Kinetics and COCO from a few blocks in the middle stages of a ResNet.",
        costly="On large maps, with the square of the pixels; pooled keys and values divide that by the square of "
        "their stride.",
        traps="Scales differ: none in the paper, sqrt of the hidden width in the authors' code, sqrt of the full "
        "width in timm's. One port sets the pooling flag so that it is always true.",
    ),
    BlockSpec(
        name="mhsa",
        title="Attention Is All You Need",
        paper="https://arxiv.org/abs/1706.03762",
        cost="global",
        module="nas.attention.multihead",
        class_name="MHSA",
        options={
            "heads": Heads(
                default=None,
                choices=(None, 1, 2, 4, 8),
                help="independent attentions; None: as many as fit, at most 8, of at least 8 channels each",
            ),
            "position": Choice(
                default="none",
                choices=("none", "sincos2d", "learned", "relative"),
                names=("none", "sincos2d", "learned", "relative"),
                multiples={"sincos2d": 4},
                help="what tells one pixel's place from another's",
            ),
            "kv_stride": Count(default=1, choices=(1, 2), help="pooling of keys and values, in pixels"),
            "residual": Choice(
                default="add",
                choices=("add",),
                names=("add", "none"),
                help="whether the map itself is added; none: for a place with a residual of its own",
            ),
        },
        sizes={
            "d": "C // heads",
            "keys_H": "-(-H // kv_stride)",
            "keys_W": "-(-W // kv_stride)",
            "M": "keys_H * keys_W",
            "places": "keys_H + keys_W if position == 'relative' else 0",
            "tables": f"{2 * POSITION_ENTRIES} * C * (position == 'learned') "
            f"+ {4 * POSITION_ENTRIES - 2} * d * (position == 'relative')",
        },
        parameters="4 * C**2 + tables",
        macs="2 * (N + M) * C**2 + (places * N * C if d > 1 else 0) + 2 * N * M * C",
        formula="y = x + Wo [softmax(q_i k_i^T / sqrt(d)) v_i for each head]",
        claim="The layer of the Transformer; in place of the last 3x3 convolutions of a ResNet it gains more than a "
        "point on ImageNet and COCO (Bottleneck Transformers, arXiv 2101.11605).",
        costly="On large maps, with the square of the pixels, and with relative positions more: their scores are taken "
        "twice when training.",
        traps="Ports that store the scores need gigabytes at 56 x 56; heads that do not divide the width fail late; "
        "relative encodings are often tied to one size of the map.",
    ),
)
"""In the order in which they are listed."""
