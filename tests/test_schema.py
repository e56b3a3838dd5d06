"""Tables of an older version are brought up to date: once, whole, and with a copy of the file."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
import toy
from server import Server

from nas import cli, schema
from nas.database import StorageError
from nas.store import Store
from nas.study import Study, run
from nas.study.storage import connect

VERSION_2 = """
CREATE TABLE nas_meta ("key" VARCHAR(64) NOT NULL, value TEXT, PRIMARY KEY ("key"));
CREATE TABLE nas_architectures (id VARCHAR(12) NOT NULL, json TEXT NOT NULL, PRIMARY KEY (id));
CREATE TABLE nas_evaluations (
    architecture_id VARCHAR(12) NOT NULL, protocol_hash VARCHAR(16) NOT NULL, json TEXT NOT NULL,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (architecture_id, protocol_hash));
CREATE TABLE nas_costs (
    architecture_id VARCHAR(12) NOT NULL, latency_hash VARCHAR(16) NOT NULL, json TEXT NOT NULL,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (architecture_id, latency_hash));
CREATE TABLE nas_references (
    backbone VARCHAR(128) NOT NULL, latency_hash VARCHAR(16) NOT NULL, bare_ms FLOAT NOT NULL,
    PRIMARY KEY (backbone, latency_hash));
CREATE TABLE nas_workers (id VARCHAR(128) NOT NULL, beat_at TIMESTAMP NOT NULL, PRIMARY KEY (id));
INSERT INTO nas_meta VALUES ('schema', '2');
INSERT INTO nas_architectures VALUES ('abc', '{}');
INSERT INTO nas_evaluations VALUES ('abc', 'p1', '{"accuracy": 1}', '2026-01-01 00:00:00');
INSERT INTO nas_costs VALUES ('abc', 'l1', '{"macs": 1}', '2026-01-01 00:00:00');
INSERT INTO nas_references VALUES ('toy', 'l1', 2.5);
INSERT INTO nas_workers VALUES ('host:1:00', '2026-01-01 00:00:00');
"""
"""The tables as version 2 had made them, each with a row."""
TABLES = ("nas_architectures", "nas_evaluations", "nas_costs", "nas_references")


def rows(engine: sa.Engine) -> dict[str, list[tuple[object, ...]]]:
    with engine.connect() as connection:
        return {name: [tuple(row) for row in connection.execute(sa.text(f"SELECT * FROM {name}"))] for name in TABLES}


def make_version_2(url: str) -> sa.Engine:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for statement in VERSION_2.split(";\n"):
            if statement.strip():
                connection.execute(sa.text(statement))
    return engine


@pytest.fixture
def postgresql(postgres: Server) -> str:
    return postgres.url


def check_migration(url: str) -> None:
    engine = make_version_2(url)
    before = rows(engine)
    store = Store(url)
    store.create()
    assert schema.version_of(engine) == schema.SCHEMA_VERSION == "3"
    assert rows(engine) == before
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT id, beats FROM nas_workers")).all() == [("host:1:00", 0)]
    store.create()  # twice is harmless
    assert schema.migrate(engine, None) == []
    store.beat("host:1:00")
    store.beat("host:2:00")
    store.beat("host:2:00")
    with engine.connect() as connection:
        found = connection.execute(sa.text("SELECT id, beats FROM nas_workers ORDER BY id")).all()
    assert found == [("host:1:00", 1), ("host:2:00", 2)]
    store.close()
    engine.dispose()


def test_a_version_2_database_is_brought_up_to_date_and_keeps_its_rows(tmp_path: Path) -> None:
    check_migration(toy.url(tmp_path))
    with closing(sqlite3.connect(tmp_path / "studies.schema-2.db")) as kept:  # as it was
        assert kept.execute("SELECT value FROM nas_meta").fetchone() == ("2",)
        assert [row[1] for row in kept.execute("PRAGMA table_info(nas_workers)")] == ["id", "beat_at"]
        assert kept.execute("SELECT id FROM nas_architectures").fetchone() == ("abc",)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_postgresql_is_brought_up_to_date(postgresql: str) -> None:
    check_migration(postgresql)


MIGRATING = """
import sys, time
from pathlib import Path
import sqlalchemy as sa
from nas import schema
from nas.database import sqlite_path
engine = sa.create_engine(sys.argv[1], **({"connect_args": {"timeout": 60}} if "sqlite" in sys.argv[1] else {}))
step = schema.MIGRATIONS[2]
def slowly(connection):
    time.sleep(0.3)
    step(connection)
schema.MIGRATIONS = {2: slowly}
print("ready", flush=True)
sys.stdin.readline()
print(schema.migrate(engine, sqlite_path(sys.argv[1])))
"""


def check_two_at_once(url: str) -> None:
    engine = make_version_2(url)
    before = rows(engine)
    words = [sys.executable, "-c", MIGRATING, url]
    pair = [
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in pair:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in pair:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    ends = [process.communicate(timeout=60) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], ends
    assert sorted(said.strip() for said, _ in ends) == ["[2]", "[]"]
    assert schema.version_of(engine) == "3"
    assert rows(engine) == before
    engine.dispose()


def test_two_processes_at_once_do_it_once(tmp_path: Path) -> None:
    check_two_at_once(toy.url(tmp_path))
    with closing(sqlite3.connect(tmp_path / "studies.schema-2.db")) as kept:
        assert kept.execute("SELECT value FROM nas_meta").fetchone() == ("2",)


@pytest.mark.slow
def test_two_processes_at_once_do_it_once_on_postgresql(postgresql: str) -> None:
    check_two_at_once(postgresql)


def test_a_step_that_is_cut_off_leaves_everything_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_version_2(toy.url(tmp_path))

    def dies(connection: sa.Connection) -> None:
        schema._count_beats(connection)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", {2: dies})
        with pytest.raises(KeyboardInterrupt):
            schema.migrate(engine, tmp_path / "studies.db")
    assert schema.version_of(engine) == "2"
    assert "beats" not in {column["name"] for column in sa.inspect(engine).get_columns("nas_workers")}
    assert schema.migrate(engine, tmp_path / "studies.db") == [2]
    assert "beats" in {column["name"] for column in sa.inspect(engine).get_columns("nas_workers")}
    engine.dispose()


def test_nothing_is_changed_where_the_copy_cannot_be_kept(tmp_path: Path) -> None:
    engine = make_version_2(toy.url(tmp_path))
    (tmp_path / "studies.schema-2.db").mkdir()
    with pytest.raises(StorageError, match="have to be brought from schema 2 to 3, but the copy that is kept of them"):
        schema.migrate(engine, tmp_path / "studies.db")
    assert schema.version_of(engine) == "2"
    assert not list(tmp_path.glob(".*"))
    engine.dispose()


def old_study(folder: Path) -> None:
    """Make a finished study as version 2 would have it."""
    study = toy.create(folder)
    run(study, toy.evaluate, space=toy.space(), budget=4, sampler="random")
    study.close()
    with closing(sqlite3.connect(folder / "studies.db")) as connection:
        connection.execute("ALTER TABLE nas_workers DROP COLUMN beats")
        connection.execute("UPDATE nas_meta SET value = '2' WHERE key = 'schema'")
        connection.commit()


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def test_an_older_study_is_read_and_goes_on(tmp_path: Path) -> None:
    old_study(tmp_path)
    read = Study.open("toy", toy.url(tmp_path))
    assert len(read.rows()) == 4
    read.close()
    engine = sa.create_engine(toy.url(tmp_path))
    assert schema.version_of(engine) == "2"  # reading changes nothing
    resumed = toy.create(tmp_path)
    run(resumed, toy.evaluate, space=toy.space(), budget=5, sampler="random")
    assert resumed.finished() == 5
    resumed.close()
    assert schema.version_of(engine) == "3"
    engine.dispose()


def test_what_writes_into_an_older_study_says_how_to_bring_it_up_to_date(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    old_study(tmp_path)

    def beat(_arguments: object) -> int:
        Store(toy.url(tmp_path)).beat("host:1:00")
        return 0

    monkeypatch.setattr(cli.report, "run", beat)
    assert cli.main(["report", "--studies", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "has tables of an older version of this program; `run_search.py doctor --repair` brings them up to" in said
    assert "INSERT" not in said
    assert said.count("\n") == 1
    assert cli.main(["doctor", "--studies", str(tmp_path), "--quick"]) == 1
    assert "WRONG  tables: of an older version, 2" in capsys.readouterr().out
    assert cli.main(["doctor", "--studies", str(tmp_path), "--quick", "--repair"]) == 0
    assert "sound  tables: of this version, 3" in capsys.readouterr().out
    assert cli.main(["report", "--studies", str(tmp_path)]) == 0


def test_a_newer_database_is_refused_with_both_versions(tmp_path: Path) -> None:
    old_study(tmp_path)
    with closing(sqlite3.connect(tmp_path / "studies.db")) as connection:
        connection.execute("UPDATE nas_meta SET value = '9' WHERE key = 'schema'")
        connection.commit()
    before = dump(tmp_path / "studies.db")
    message = "has schema 9 of the nas_ tables, but this version of the program reads 3; use the newer version"
    with pytest.raises(StorageError, match=message):
        Study.open("toy", toy.url(tmp_path))
    with pytest.raises(StorageError, match=message):
        connect(toy.url(tmp_path))
    assert dump(tmp_path / "studies.db") == before
