"""Wait for a study that a search elsewhere is about to make."""

from __future__ import annotations

import time
from collections.abc import Callable

import sqlalchemy as sa

from nas.database import StorageError, sqlite_path
from nas.study.binding import StudyError
from nas.study.ledger import Study

POLL_SECONDS = 2.0
"""Pause between two looks whether a study is there."""


def wait_for(name: str | None, url: str, *, ask: str, seconds: float, say: Callable[[str], None]) -> Study:
    """Open the study of a name or, without one, the only study of a database, once a search has made it.

    Nothing is made here: were many to make the tables of a new database at once, all but one of them would fail.

    Args:
        name: The study's name.
        url: The database.
        ask: How the message begins where there is no name, and not one study.
        seconds: How long to wait at most.
        say: Called with a line whenever something else is waited for.

    Raises:
        ValueError: If the seconds are negative or no number.
        StudyError: If it is not there in time, or there are several and no name.
        StorageError: If the database cannot be used in time, or not at all.
    """
    if not seconds >= 0:
        raise ValueError(f"a wait takes at least 0 seconds, but got {seconds:g}")
    sqlite_path(url)  # what is no URL will never be one
    deadline, said = time.monotonic() + seconds, ""
    while True:
        try:
            return Study.open_only(name, url, ask=ask)
        except (StudyError, StorageError) as error:
            left = deadline - time.monotonic()
            if left <= 0 or isinstance(error.__cause__, (ImportError, sa.exc.ArgumentError)):  # no such driver
                raise
            if str(error) != said:
                said = str(error)
                say(f"waiting for the study, {left:.0f} s at most: {said}")
        time.sleep(min(POLL_SECONDS, left))
