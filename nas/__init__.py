"""Neural architecture search over attention placement: which block, which options, which stages, at what latency.

Nothing here imports torch, timm, Optuna or plotly before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nas.architecture import Architecture, Placement, Stage

if TYPE_CHECKING:
    from nas.api import Choice, Found, search
    from nas.api import open_study as open  # noqa: F401 - as nas.open
    from nas.export import load
    from nas.placement import insert, remove
    from nas.settings import Settings
    from nas.space import SearchSpace

__version__ = "0.1.0"
__all__ = ["Architecture", "Choice", "Found", "Placement", "SearchSpace", "Settings", "Stage", "__version__"]
__all__ += ["insert", "load", "remove", "search"]  # and nas.open: a star must not hide the built-in one

_LAZY = {"SearchSpace": "nas.space", "load": "nas.export", "Settings": "nas.settings", "search": "nas.api"}
_LAZY |= {"Choice": "nas.api", "Found": "nas.api", "open": "nas.api"}
_LAZY |= {"insert": "nas.placement", "remove": "nas.placement"}
_NAMES = {"open": "open_study"}
_MODULES = ("attention", "placement")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), _NAMES.get(name, name))
    if name in _MODULES:
        return importlib.import_module(f"nas.{name}")
    raise AttributeError(f"module 'nas' has no attribute {name!r}")
