"""The command that repeats a search, and the flags that name its study in others."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from typing import Any

from nas.settings import Settings
from nas.space import SearchSpace

_FLAGS = {"latency_batch_size": "--latency-batch"}
"""Flags that are not the name of their setting."""
_ELSEWHERE = ("study", "studies", "storage")
"""Where the results land changes none of them, and whoever shows the command knows it. A URL may hold a password."""
_USUAL = Settings()


def command(settings: Settings) -> str:
    """Return the command line that asks for the same search, but for the name of the study and where it lands.

    Empty where the space was declared in Python.
    """
    if isinstance(settings.space, SearchSpace):
        return ""
    words = ["python", "run_search.py"]
    for field in dataclasses.fields(Settings):
        value = getattr(settings, field.name)
        usual = getattr(_USUAL, field.name)
        always = field.name in ("budget", "seed")  # what one looks for first
        if field.name not in _ELSEWHERE and (value != usual or always):
            words += _words(_FLAGS.get(field.name, f"--{field.name.replace('_', '-')}"), value)
    return shlex.join(words)


def naming(study: str, studies: str, *, is_elsewhere: bool = False) -> str:
    """Return the flags that name a study on the command line, quoted for a shell.

    Args:
        study: Its name.
        studies: The folder of studies.
        is_elsewhere: Whether the database is not in that folder. Its URL is not told, as it may hold a password.
    """
    where = ["--studies", studies] if studies != "studies" else []
    return shlex.join(["--study", study, *where]) + (" --storage URL" if is_elsewhere else "")


def _words(flag: str, value: Any) -> list[str]:
    """Return a flag with what stands behind it; nothing does behind a switch."""
    if value is True:
        return [flag]
    if isinstance(value, Mapping):
        return [flag, *(f"{name}={each!r}" for name, each in value.items())]
    if flag == "--max-slowdown" and value >= 1:
        return [flag, f"{100 * value!r}%"]
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return [f"{flag}={text}"] if text.startswith("-") else [flag, text]
