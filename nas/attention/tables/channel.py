"""Blocks with one gate for each channel."""

from __future__ import annotations

from nas.attention.options import ChannelKernel, Reduction
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
)
"""In the order in which they are listed."""
