"""What is shown of the studies that are looked at, kept up to date; or stored, for one of them."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nas import files
from nas.command import Commands
from nas.dashboard.attributes import attributes
from nas.dashboard.content import Content, content, files_of
from nas.dashboard.markdown import escape
from nas.dashboard.shelf import FOLDER, Shelf
from nas.evaluation import first_line

if TYPE_CHECKING:
    from nas.study import Board, Study

SHARE = 0.05
"""Largest share of the time that is spent on working out what is shown, while a page is open."""
LEAST_SECONDS = 2.0
"""How long what is shown is not looked at again, at least."""


class Desk:
    """Keeps what the board and the shelf show of each study up to date."""

    def __init__(self, study: Study, board: Board, shelf: Shelf, studies: Path, flags: Callable[[str], str]) -> None:
        self._study = study
        self._board = board
        self._shelf = shelf
        self._studies = studies
        self._flags = flags
        self._shown: dict[int, _Shown] = {}
        self._lock = threading.Lock()

    def refresh(self, number: int) -> None:
        """Work out again what is shown of a study, unless nothing has changed or that was done lately.

        While that goes on, others who ask see what was shown before; the first ones wait.
        """
        shown = self._shown.get(number)
        if shown is not None and time.monotonic() < shown.next:
            return
        if not self._lock.acquire(blocking=shown is None):
            return
        try:
            self._refresh(number)
        finally:
            self._lock.release()

    def _refresh(self, number: int) -> None:
        started = time.monotonic()
        shown = self._shown.setdefault(number, _Shown())
        if started < shown.next:
            return  # another one has done it while this one waited
        shown.study = shown.study or self._sibling(number)
        if shown.study is not None:
            try:
                self._lay(shown.study, shown)
            except Exception as error:
                self._tell(shown.study, shown, error)
        ended = time.monotonic()
        shown.next = ended + max(LEAST_SECONDS, (ended - started) / SHARE)

    def _lay(self, study: Study, shown: _Shown) -> None:
        """Work out what is shown of a study, and show it, if something has changed."""
        state = (*study.pulse(), *(path.name for path in files_of(self._folder(study))))
        if state == shown.state:
            return
        found = self._content(study)
        self._shelf.give(found.artifacts)
        self._board.lay(study.number, attributes(found, self._board.stored(study.number)))
        shown.state, shown.failure = state, ""

    def _tell(self, study: Study, shown: _Shown, error: Exception) -> None:
        """Say why nothing is shown; the dashboard itself has much to show, of a study of another version, too."""
        reason = f"notes and plots cannot be worked out: {type(error).__name__}: {first_line(error)}"
        if reason != shown.failure:
            print(f"run_search.py: study {study.name!r}: {reason}", file=sys.stderr)
        shown.failure = reason
        failed = Content(note=escape(reason), trial_notes={}, plots={}, artifacts=[])
        self._board.lay(study.number, attributes(failed, self._board.stored(study.number)))

    def store(self) -> None:
        """Write what is shown of the study into the database, and its files onto the shelf.

        Raises:
            ValueError: If the shelf's folder cannot be written.
        """
        files.check_folder(self._studies / FOLDER)
        found = self._content(self._study)
        number = self._study.number
        for artifact in found.artifacts:
            with artifact.open() as body:
                self._shelf.write(artifact.id, body)
        self._board.keep(number, attributes(found, self._board.stored(number), room=True))

    def _content(self, study: Study) -> Content:
        return content(study, self._folder(study), commands=self._commands(study))

    def _commands(self, study: Study) -> Commands:
        return Commands(flags=self._flags(study.name), begun=str((study.inputs or {}).get("command", "")))

    def _folder(self, study: Study) -> Path:
        return self._studies / study.name

    def _sibling(self, number: int) -> Study | None:
        return self._study if number == self._study.number else self._study.sibling(number)


@dataclass
class _Shown:
    """What is shown of one study."""

    study: Study | None = None
    """``None`` while there is none of this program."""
    state: tuple[object, ...] = ()
    """What of the study was looked at when that was worked out: it changes with it."""
    failure: str = ""
    """Why nothing is shown."""
    next: float = -float("inf")
    """When it is looked at again, by the monotonic clock, in seconds."""
