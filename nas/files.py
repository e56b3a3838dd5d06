"""Write files so that no reader, and no crash, ever meets half of one."""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path


def check_folder(folder: str | Path) -> None:
    """Make a folder and check that it can be written, before work is done whose result would have no place to go.

    Raises:
        ValueError: If it cannot.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"cannot write into the folder {folder}: {error.strerror}; give another") from error


def replace(path: str | Path, content: bytes) -> None:
    """Write a file under another name in the same folder and rename it; missing folders are made.

    Raises:
        OSError: If the folder cannot be written; an older file of that name is then still whole.
    """
    path = Path(path).resolve()  # a link stays a link
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is no regular file")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
