"""JSON that somebody else has written, read strictly: what JSON leaves open is an error here, and nothing is executed.

Python's reader takes ``NaN``, lets the last of two equal keys win, builds integers of any length, and gives up on deep
nesting with a RecursionError. A config that was changed by hand, or by somebody who means harm, shall do none of it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

MOST_BYTES = 16 * 2**20
"""Largest file that is read: a config has some 20 kB."""
DEEPEST = 64
"""Most values within one another."""
LARGEST = 2**63
"""Integers lie between this and its negative; every database and every other language keeps those."""


class JsonError(ValueError):
    """A text is not JSON, or not such as is read here; the message says why, to follow "it is not JSON:"."""


def loads(text: str | bytes) -> Any:
    """Return the value of a text.

    Raises:
        JsonError: If it is not JSON; has a key twice in one object, NaN, Infinity, a number beyond what can be kept, or
            text that is not Unicode; or is nested more than :data:`DEEPEST` deep.
    """
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float, parse_int=_int
        )
    except JsonError:
        raise
    except RecursionError as error:
        raise JsonError(f"it is nested more than {DEEPEST} deep") from error
    except ValueError as error:  # also bytes that are not UTF-8
        raise JsonError(str(error)) from error
    _check(value)
    return value


def load(path: str | Path) -> Any:
    """Return the value of a file.

    Raises:
        OSError: As :func:`read`.
        JsonError: As :func:`loads` and :func:`read`.
    """
    return loads(read(path))


def read(path: str | Path) -> bytes:
    """Return what a file holds, if it may be such a text.

    Raises:
        OSError: If it cannot be read, or is no regular file: a pipe might never end.
        JsonError: If it is larger than :data:`MOST_BYTES`.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise OSError(0, "it is a folder" if path.is_dir() else "it is no regular file", str(path))
    try:
        with path.open("rb") as file:
            found = file.read(MOST_BYTES + 1)
    except ValueError as error:  # a null byte in the path
        raise OSError(0, str(error), str(path)) from error
    if len(found) > MOST_BYTES:
        raise JsonError(f"it is larger than {MOST_BYTES // 2**20} MiB")
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise JsonError(f"the key {short(key)} stands twice in one object")
        found[key] = value
    return found


def _constant(word: str) -> NoReturn:
    raise JsonError(f"{word} is no number of JSON")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise JsonError(f"the number {short(text)} is too large")
    return value


def _int(text: str) -> int:
    value = int(text) if len(text) <= len(str(-LARGEST)) else LARGEST
    if not -LARGEST <= value < LARGEST:
        raise JsonError(f"the integer {short(text)} must be at least -2**63 and below 2**63")
    return value


def _check(value: Any) -> None:
    """Raise on what is nested too deep, and on text that no file and no database could keep."""
    level = [value]
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inner += each
                inner += each.values()
            elif isinstance(each, list):
                inner += each
            elif isinstance(each, str):
                try:
                    each.encode()
                except UnicodeEncodeError as error:
                    raise JsonError(f"the text {short(each)} is not Unicode: it has half of a pair") from error
        level = inner
        if not level:
            return
    raise JsonError(f"it is nested more than {DEEPEST} deep")


def short(value: object, most: int = 200) -> str:
    """Return a value as a message shows it: as Python writes it, and cut if it is long."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # an integer of more digits than Python writes
        return f"a very large {type(value).__name__}"
    return text if len(text) <= most else f"{text[: most - 3]}..."
