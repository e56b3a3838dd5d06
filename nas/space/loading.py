"""Search spaces by name or from a file."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from pathlib import Path

from nas.attention.options import nearest
from nas.space.declaration import SearchSpace


def names() -> list[str]:
    """Return the names of the spaces that the package ``search_spaces`` holds."""
    package = importlib.import_module("search_spaces")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def load(name_or_path: str) -> SearchSpace:
    """Return the ``SPACE`` of a module of ``search_spaces``, or of a Python file. A file is executed: trust it first.

    Raises:
        ValueError: If there is no such space, the file cannot be executed, or its ``SPACE`` is not a search space.
    """
    path = Path(name_or_path)
    if path.suffix == ".py" or path.name != name_or_path:
        if not path.is_file():
            raise ValueError(f"no space file {name_or_path}; give a file, or one of: {', '.join(names())}")
        spec = importlib.util.spec_from_file_location("nas_space_file", path)
        if spec is None or spec.loader is None:
            raise ValueError(f"a space file must be Python (.py), but got {name_or_path}")
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:  # whatever somebody's file raises is bad input here
            raise ValueError(f"the space file {name_or_path} failed: {type(error).__name__}: {error}") from error
    elif name_or_path in names():
        module = importlib.import_module(f"search_spaces.{name_or_path}")
    else:
        known = names()
        raise ValueError(f"unknown space {name_or_path!r}{nearest(name_or_path, known)}; known: {', '.join(known)}")
    space = getattr(module, "SPACE", None)
    if not isinstance(space, SearchSpace):
        raise ValueError(f"{name_or_path} must define SPACE = SearchSpace(...), but its SPACE is {space!r}")
    return space
