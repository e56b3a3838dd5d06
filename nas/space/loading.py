"""Search spaces by name or from a file."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from pathlib import Path
from types import ModuleType

from nas import strict_json
from nas.attention.options import nearest
from nas.space.declaration import SearchSpace


def names() -> list[str]:
    """Return the names of the spaces that the package ``search_spaces`` holds."""
    package = importlib.import_module("search_spaces")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def load(name_or_path: str) -> SearchSpace:
    """Return a space by its name or from a file.

    Args:
        name_or_path: A module of ``search_spaces``; the path of a JSON file (``.json``), which is only read, see
            :meth:`nas.space.SearchSpace.from_json`; or that of a Python file with ``SPACE`` in it, which is executed:
            trust it first.

    Raises:
        ValueError: If there is no such space, the file cannot be read or executed, or holds no search space.
    """
    path = Path(name_or_path)
    if path.suffix in (".py", ".json") or path.name != name_or_path:
        if not path.is_file():
            raise ValueError(f"no space file {name_or_path}; give a file, or one of: {', '.join(names())}")
        return _from_json(path) if path.suffix == ".json" else _executed(path)
    known = names()
    if name_or_path not in known:
        raise ValueError(f"unknown space {name_or_path!r}{nearest(name_or_path, known)}; known: {', '.join(known)}")
    return _space_of(importlib.import_module(f"search_spaces.{name_or_path}"), name_or_path)


def _from_json(path: Path) -> SearchSpace:
    try:
        return SearchSpace.from_json(strict_json.read(path))
    except OSError as error:
        raise ValueError(f"cannot read the space file {path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"the space file {path}: {error}") from error


def _executed(path: Path) -> SearchSpace:
    spec = importlib.util.spec_from_file_location("nas_space_file", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"a space file must be JSON (.json) or Python (.py), but got {path}")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever somebody's file raises is bad input here
        raise ValueError(f"the space file {path} failed: {type(error).__name__}: {error}") from error
    return _space_of(module, str(path))


def _space_of(module: ModuleType, name: str) -> SearchSpace:
    space = getattr(module, "SPACE", None)
    if not isinstance(space, SearchSpace):
        raise ValueError(f"{name} must define SPACE = SearchSpace(...), but its SPACE is {space!r}")
    return space
