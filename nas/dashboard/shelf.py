"""The files behind the artifacts: what is worked out here, and a folder for what people upload."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from nas import files
from nas.dashboard.content import Artifact

FOLDER = "_artifacts"
"""Name of the folder, beside those of the studies; no study can be named so."""
_ID = re.compile(r"[0-9a-fA-F-]{1,64}")


class Shelf:
    """Optuna's artifact store: opens what it is given, and what lies in a folder; writes only where it is editable."""

    def __init__(self, folder: Path, *, editable: bool = False) -> None:
        self._folder = folder
        self._editable = editable
        self._given: dict[str, Artifact] = {}

    def give(self, artifacts: Iterable[Artifact]) -> None:
        """Offer artifacts; those that were offered before stay on offer, as a page may still name them."""
        self._given |= {artifact.id: artifact for artifact in artifacts}

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Open an artifact for reading.

        Raises:
            FileNotFoundError: If there is none, or its file is gone.
        """
        path = self._path(artifact_id)
        given = self._given.get(artifact_id)
        return path.open("rb") if given is None else given.open()

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Keep an artifact in the folder.

        Raises:
            PermissionError: If nothing may be changed.
        """
        files.replace(self._changeable(artifact_id), content_body.read())

    def remove(self, artifact_id: str) -> None:
        """Remove an artifact from the folder; what is only offered, and does not lie there, stays.

        Raises:
            PermissionError: If nothing may be changed.
        """
        self._changeable(artifact_id).unlink(missing_ok=True)

    def _changeable(self, artifact_id: str) -> Path:
        if not self._editable:
            raise PermissionError("the dashboard is open read-only; --edit allows changes")
        return self._path(artifact_id)

    def _path(self, artifact_id: str) -> Path:
        if not _ID.fullmatch(artifact_id):
            raise FileNotFoundError(f"an artifact's id has hexadecimal digits and dashes, but got {artifact_id!r}")
        return self._folder / artifact_id
