"""Ten blocks on every stage of a small residual network, each with the options that its paper varies.

For a first look at a data set: it asks both which block and where. The backbone is small enough for a CPU; another one
is chosen with ``--backbone``. Blocks start as in their papers; ``--init identity`` starts them as a pass-through.
"""

from nas.space import SearchSpace

SPACE = SearchSpace(
    backbones=("test_resnet",),
    init="paper",
    blocks=("se", "eca", "coord", "cbam", "bam", "shuffle", "psa", "sge", "gam", "simam"),
)
