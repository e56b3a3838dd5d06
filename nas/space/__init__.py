"""Search spaces: which backbones, stages, positions, blocks and option values may be combined. No Optuna, no timm.

A :class:`SearchSpace` is a declaration and knows no widths. :meth:`SearchSpace.resolve` checks it against the stages of
its backbones and returns a :class:`ResolvedSpace`, which can be counted, enumerated and sampled.
"""

from nas.architecture import NONE
from nas.space.declaration import SearchSpace
from nas.space.loading import load, names
from nas.space.resolved import REMOVE, UNIFORM_CONTROLS, Choose, Control, ResolvedSpace
from nas.space.site import Site, Values
from nas.space.stored import restored

__all__ = [
    "NONE",
    "REMOVE",
    "UNIFORM_CONTROLS",
    "Choose",
    "Control",
    "ResolvedSpace",
    "SearchSpace",
    "Site",
    "Values",
    "load",
    "names",
    "restored",
]
