"""Content in the form that optuna-dashboard reads: system attributes of a study, made by the dashboard's own functions.

A note keeps what a person has written beneath the line that ends what is written here.
"""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from nas.dashboard.content import Artifact, Content

YOURS = "*What stands above is written anew by `run_search.py dashboard`; what you write below stays.*"
"""The line of a note beneath which a person may write."""
_STUDY, _TRIAL = "artifacts:", "dashboard:artifacts:"
"""How the attributes of artifacts begin; those of a trial may be the study's, too, and must be once it has finished."""


def attributes(content: Content, stored: Mapping[str, Any], *, room: bool = False) -> dict[str, Any]:
    """Return the system attributes that show the content.

    Args:
        content: What is to be shown.
        stored: The study's system attributes.
        room: Whether a person shall be able to write beneath the notes.

    Returns:
        The stored attributes that belong to the dashboard, with those of the content in their place.
    """
    import optuna_dashboard

    sheet = _Sheet({key: value for key, value in stored.items() if key.startswith((_STUDY, "dashboard:"))})
    for trial, note in [(None, content.note), *content.trial_notes.items()]:
        target = _Target(sheet, trial)
        known = optuna_dashboard.get_note(target)
        wanted = with_theirs(note, known, room=room)
        if wanted != known:
            optuna_dashboard.save_note(target, wanted)
    for name, text in content.plots.items():
        optuna_dashboard.save_plotly_graph_object(_Target(sheet), _Drawn(text), graph_object_id=name)
    for key in [key for key in sheet.attributes if _is_ours(key)]:
        sheet.attributes[key] = "null"  # so the dashboard marks what is gone; there is no way to remove an attribute
    for artifact in content.artifacts:
        sheet.attributes[_attribute(artifact)] = json.dumps(_meta(artifact))
    return sheet.attributes


def with_theirs(note: str, known: str, *, room: bool = False) -> str:
    """Return a note with what a person wrote in the one that is known, or with room for that.

    What is known and was never written here is theirs as a whole.
    """
    theirs = known.partition(YOURS)[2].strip() if YOURS in known else known.strip()
    if not theirs and not room:
        return note
    return f"{note}\n\n---\n\n{YOURS}\n\n{theirs}".rstrip() + "\n"


def is_ours(identifier: str) -> bool:
    """Tell whether the artifact of an id was made here: the ids of what people upload are random."""
    try:
        return UUID(identifier).version == 5
    except ValueError:
        return False


def _is_ours(key: str) -> bool:
    return key.startswith((_STUDY, _TRIAL)) and is_ours(key.rpartition(":")[2])


def _attribute(artifact: Artifact) -> str:
    return f"{_STUDY}{artifact.id}" if artifact.trial is None else f"{_TRIAL}{artifact.trial}:{artifact.id}"


def _meta(artifact: Artifact) -> dict[str, str | None]:
    kind, encoding = mimetypes.guess_type(artifact.filename)
    known = {".md": "text/markdown", ".csv": "text/csv"}.get(artifact.filename[artifact.filename.rfind(".") :], kind)
    return {
        "artifact_id": artifact.id,
        "filename": artifact.filename,
        "mimetype": known or "application/octet-stream",
        "encoding": encoding,
    }


@dataclass(frozen=True)
class _Sheet:
    """Takes the place of a storage: what the dashboard's functions write stays here."""

    attributes: dict[str, Any]

    def get_study_system_attrs(self, _study_id: int) -> dict[str, Any]:
        return self.attributes

    def set_study_system_attr(self, _study_id: int, key: str, value: Any) -> None:
        self.attributes[key] = value


class _Target:
    """Takes the place of a study, or of a trial, where the dashboard's functions ask for one."""

    def __init__(self, sheet: _Sheet, trial_id: int | None = None) -> None:
        self.storage = self._storage = sheet
        self.study = self
        self._study_id = 0  # the sheet is of one study
        self._trial_id = trial_id


@dataclass(frozen=True)
class _Drawn:
    """Takes the place of a figure whose JSON is known."""

    text: str

    def to_json(self) -> str:
        return self.text
