"""Blocks with few parameters and no convolution over the whole map: for devices where every millisecond counts.

Leaves out what computes with dense matrices at every pixel, or with all pairs of pixels.
"""

from nas.space import SearchSpace

SPACE = SearchSpace(
    backbones=("test_resnet",),
    init="paper",
    blocks={
        "se": {"reduction": (4, 8, 16)},
        "eca": {},
        "coord": {"reduction": (16, 32)},
        "cbam": {"reduction": (8, 16), "kernel_size": (3, 7)},
        "shuffle": {},
        "sge": {},
        "simam": {},
    },
)
