"""How the values of flags are read."""

from __future__ import annotations

import ast
from typing import Any


def model_kwargs(words: list[str]) -> dict[str, Any]:
    """Read arguments for a model from words such as ``drop_path_rate=0.1``; what is no Python literal is text.

    Raises:
        ValueError: On a word without a name or a value, and on a name that comes twice.
    """
    found: dict[str, Any] = {}
    for word in words:
        name, sign, text = word.partition("=")
        if not sign or not name.isidentifier():
            raise ValueError(f"--model-kwargs takes NAME=VALUE, such as drop_path_rate=0.1, but got {word!r}")
        if name in found:
            raise ValueError(f"--model-kwargs has {name} twice")
        try:
            found[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            found[name] = text
    return found


def names(text: str) -> list[str]:
    """Return the words of a list with commas between them."""
    return [word.strip() for word in text.split(",")]
