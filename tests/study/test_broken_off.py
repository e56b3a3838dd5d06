"""What an interruption leaves in a connection must not lock out what comes next."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import toy

from nas.study import run


def test_a_read_that_was_broken_off_does_not_refuse_the_next_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite refuses to write after an old read on the same connection, once another one has written."""
    study = toy.create(tmp_path)
    run(study, toy.evaluate, space=toy.space(), budget=3, sampler="random")
    pooled = study._storage.engine.raw_connection()
    held = pooled.driver_connection
    assert isinstance(held, sqlite3.Connection)
    cursor = held.execute("SELECT trial_id FROM trials")
    assert cursor.fetchone() is not None  # and no further: as where Ctrl-C comes in between
    pooled.close()  # back into the pool, with the read
    with closing(sqlite3.connect(tmp_path / "studies.db")) as other:
        other.execute("UPDATE nas_workers SET beats = 0")
        other.execute("CREATE TABLE nas_more (id INTEGER)")
        other.commit()
    monkeypatch.setattr("nas.database.PATIENCE_SECONDS", 2.0)
    study._study.set_user_attr("more", 1)
    assert cursor is not None
    study.close()
