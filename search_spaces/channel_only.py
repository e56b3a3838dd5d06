"""Channel attention alone: SE and ECA, which look at the mean of each channel and cost next to no arithmetic.

For asking where, and how wide, when the kind of block is settled.
"""

from nas.space import SearchSpace

SPACE = SearchSpace(
    backbones=("test_resnet",),
    init="paper",
    blocks={
        "se": {"reduction": (2, 4, 8, 16, 32)},
        "eca": {"kernel_size": (3, 5, 7, 9)},
    },
)
