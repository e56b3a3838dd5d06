"""Checkpoints of torch are zip archives. One that holds more than it weighs would take all memory when it is read."""

from __future__ import annotations

import zipfile
from pathlib import Path


def check_unpacked(path: str | Path) -> None:
    """Raise if a file is an archive whose members are compressed; torch stores them as they are.

    A megabyte of such an archive can become a thousand in memory. What is no archive, or a damaged one, passes: to say
    so is its reader's task.

    Raises:
        ValueError: If it is.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        size = Path(path).stat().st_size
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile, NotImplementedError):
        return
    held = sum(member.file_size for member in members)
    if held > size or any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError(
            f"{path} is packed: it has {size:,} bytes and holds {held:,}, but torch packs nothing; save it with "
            "torch.save, or as .safetensors"
        )
