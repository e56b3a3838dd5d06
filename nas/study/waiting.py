"""Wait for a study that a search elsewhere is about to make."""

from __future__ import annotations

import time
from collections.abc import Callable

import sqlalchemy as sa

from nas.evaluation import first_line
from nas.store import StorageError, sqlite_path
from nas.study.binding import StudyError
from nas.study.ledger import Study

POLL_SECONDS = 2.0
"""Pause between two looks whether a study is there."""
_LAST_TABLE = "nas_meta"
"""It is made together with our other tables, after Optuna's."""


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
    engine = None if sqlite_path(url) is not None else _engine(url)
    deadline, said = time.monotonic() + seconds, ""
    while True:
        try:
            if engine is not None and not sa.inspect(engine).has_table(_LAST_TABLE):
                raise StudyError(f"no study {name or 'at all'!r} in the database, which is empty")
            return Study.open_only(name, url, ask=ask)
        except (StudyError, StorageError) as error:
            found: ValueError = error
        except sa.exc.SQLAlchemyError as error:
            shown = sa.make_url(url).render_as_string(hide_password=True)
            found = StorageError(f"cannot use the database {shown}: {first_line(error)}")
        finally:
            if engine is not None:
                engine.dispose()
        left = deadline - time.monotonic()
        if left <= 0:
            raise found
        if str(found) != said:
            said = str(found)
            say(f"waiting for the study, {left:.0f} s at most: {said}")
        time.sleep(min(POLL_SECONDS, left))


def _engine(url: str) -> sa.Engine:
    try:
        return sa.create_engine(url)
    except (ImportError, sa.exc.ArgumentError) as error:
        shown = sa.make_url(url).render_as_string(hide_password=True)
        raise StorageError(f"cannot use the database {shown}: {first_line(error)}") from error
