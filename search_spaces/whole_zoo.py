"""Every block that there is, on every stage of a small residual network, each with the options that its paper varies.

For large budgets, and for backbones whose maps are small where it matters: ``run_search.py costs`` shows beforehand
what each block would cost.
"""

from nas.attention import BLOCKS
from nas.space import SearchSpace

SPACE = SearchSpace(
    backbones=("test_resnet",),
    init="paper",
    blocks=tuple(BLOCKS),
)
