"""The space of the table: sixteen settings of eleven blocks on up to two of the four stages of a small network.

1 + 4 x 16 + 6 x 16 x 16 = 1,601 architectures, which are all trained.
"""

from nas.space import SearchSpace

SPACE = SearchSpace(
    backbones=("test_resnet",),
    stages=(1, 2, 3, 4),
    max_blocks=2,
    init="identity",
    blocks={
        "se": {"reduction": (4, 8)},
        "eca": {"kernel_size": (3, 7)},
        "cbam": {"reduction": (8,), "kernel_size": (3, 7)},
        "coord": {"reduction": (8,)},
        "bam": {"reduction": (8,), "dilation": (1,)},
        "sge": {"groups": (8, 16)},
        "shuffle": {"groups": (8,)},
        "psa": {"layout": ("parallel",), "reduction": (2,)},
        "simam": {"lambda_": (1e-4, 0.1)},
        "gc": {"reduction": (4,), "fusion": ("scale",)},
        "mhsa": {"heads": (4,), "position": ("none",), "kv_stride": (1,)},
    },
)
