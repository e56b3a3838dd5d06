"""The cache and the workers' signs of life."""

from __future__ import annotations

import dataclasses
import sqlite3
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
import toy

from nas.architecture import Architecture, Placement
from nas.database import StorageError, prepare_sqlite, sqlite_path
from nas.evaluation import Evaluation, wilson_interval
from nas.seeds import Replicate
from nas.store import Store
from nas.study import storage

BARE = Architecture(backbone="toy")
REPLICATE = Replicate(
    architecture=BARE.id,
    seed=1,
    epochs=1,
    accuracy=0.75,
    val_images=20,
    curve=(0.75,),
    train_seconds=1.0,
    versions={},
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(toy.url(tmp_path))
    made.create()
    return made


def test_an_evaluation_comes_back_as_it_was(store: Store) -> None:
    evaluation = toy.evaluate(BARE)
    assert store.get(BARE, "p1") is None
    store.put(BARE, "p1", evaluation)
    assert store.get(BARE, "p1") == evaluation
    assert store.get(BARE, "p2") is None
    assert store.get(Architecture(backbone="toy", placements=(Placement(stage=0, block="se"),)), "p1") is None


def test_the_first_evaluation_stays(store: Store) -> None:
    first, second = toy.evaluate(BARE), toy.evaluate(Architecture(backbone="other"))
    assert first != second
    store.put(BARE, "p1", first)
    store.put(BARE, "p1", second)
    assert store.get(BARE, "p1") == first


def test_architectures_are_kept_by_their_id(store: Store) -> None:
    placed = Architecture(backbone="toy", placements=(Placement(stage=0, block="se"),))
    store.keep(placed)
    store.keep(placed)
    assert store.architecture(placed.id) == placed
    with pytest.raises(StorageError, match=f"names the architecture {BARE.id}, but does not hold it"):
        store.architecture(BARE.id)


def test_all_evaluations_under_a_protocol(store: Store) -> None:
    store.put(BARE, "p1", toy.evaluate(BARE))
    store.put(Architecture(backbone="other"), "p2", toy.evaluate(BARE))
    assert store.evaluations("p1") == {BARE.id: toy.evaluate(BARE)}


def test_replicates_are_kept_by_protocol_and_kind(store: Store) -> None:
    protocol = dataclasses.replace(toy.PROTOCOL, seed=1)
    group = protocol.family_hash
    assert store.replicate(BARE, protocol.hash, "val") is None
    store.put_replicate(BARE, protocol.hash, REPLICATE, family=group)
    store.put_replicate(BARE, protocol.hash, dataclasses.replace(REPLICATE, accuracy=0.1), family=group)
    tested = dataclasses.replace(REPLICATE, test_accuracy=0.7, test_images=50)
    store.put_replicate(BARE, protocol.hash, tested, family=group)
    assert store.replicate(BARE, protocol.hash, "val") == REPLICATE
    assert store.replicate(BARE, protocol.hash, "val+test") == tested
    assert store.replicates(group, "val") == [REPLICATE]
    assert store.replicates("other", "val") == []
    assert store.architecture(BARE.id) == BARE


def test_a_database_from_before_there_were_replicates_has_none(store: Store, tmp_path: Path) -> None:
    with sa.create_engine(toy.url(tmp_path)).begin() as connection:
        connection.execute(sa.text("DROP TABLE nas_replicates"))
    assert store.replicates(toy.PROTOCOL.family_hash, "val") == []


def test_the_first_reference_counts_for_all(store: Store) -> None:
    assert store.reference_ms("toy", "p1", 2.5) == 2.5
    assert store.reference_ms("toy", "p1", 9.0) == 2.5
    assert store.reference_ms("toy", "p2", 9.0) == 9.0


def test_workers_give_signs_of_life(store: Store) -> None:
    assert store.signs() == {}
    store.beat("w")
    store.beat("w")
    (sign,) = store.signs().values()
    assert sign.beats == 2
    assert 0 <= sign.silent_seconds < 60
    store.forget("w")
    assert store.signs() == {}


def test_creating_twice_keeps_what_is_there(store: Store) -> None:
    store.put(BARE, "p1", toy.evaluate(BARE))
    store.create()
    assert store.get(BARE, "p1") is not None


def test_tables_of_another_version_are_refused(store: Store, tmp_path: Path) -> None:
    with sa.create_engine(toy.url(tmp_path)).begin() as connection:
        connection.execute(sa.text("UPDATE nas_meta SET value = '0'"))
    with pytest.raises(
        StorageError,
        match="has schema 0 of the nas_ tables, but this version of the program reads 3, and none older than 2",
    ):
        store.create()


def test_a_new_database_writes_ahead(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "studies.db"
    prepare_sqlite(path)
    assert sqlite3.connect(path).execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_database_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "photos.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE photos (name TEXT)")
    before = path.read_bytes()
    for opened in (storage.connect, storage.connect_existing):
        with pytest.raises(StorageError, match=r"photos.db is a database of something else \(tables: photos\)"):
            opened(f"sqlite:///{path}")
    assert path.read_bytes() == before


def test_a_database_whose_making_was_cut_off_is_made_on(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "studies.db") as connection:
        connection.execute("CREATE TABLE version_info (version_info_id INTEGER NOT NULL PRIMARY KEY)")
        connection.execute("DROP TABLE version_info")
        connection.execute("CREATE TABLE study_directions (study_direction_id INTEGER NOT NULL PRIMARY KEY)")
    with pytest.raises(StorageError, match="studies.db was cut off while it was made, and holds nothing yet; run the"):
        storage.connect_existing(toy.url(tmp_path))
    with sqlite3.connect(tmp_path / "studies.db") as connection:
        connection.execute("DROP TABLE study_directions")  # another version of it would be in the way
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    toy.create(tmp_path).close()
    assert storage.study_names(toy.url(tmp_path)) == ["toy"]


def test_a_database_of_another_program_of_optunas_is_refused_where_it_is_read(tmp_path: Path) -> None:
    optuna.create_study(study_name="theirs", storage=toy.url(tmp_path))
    with pytest.raises(StorageError, match="studies.db is a database of something else"):
        storage.connect_existing(toy.url(tmp_path))


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    path.write_text("dear diary, " * 100)
    for opened in (storage.connect, storage.connect_existing):
        with pytest.raises(StorageError, match="notes.db is not an SQLite database"):
            opened(f"sqlite:///{path}")
    assert path.read_text() == "dear diary, " * 100


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot make the folder"):
        storage.connect(f"sqlite:///{tmp_path / 'file' / 'studies.db'}")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("studies.db", "storage must be a database URL such as sqlite:///studies/studies.db, but got 'studies.db'"),
        ("sqlite://", "storage must be a path"),
        ("sqlite:///:memory:", "storage must be a path"),
        ("oracles://somewhere/x", "cannot use the database"),
    ],
)
def test_a_wrong_url_is_refused(url: str, message: str) -> None:
    with pytest.raises(StorageError, match=message):
        storage.connect(url)


def test_an_absent_database_is_not_made_by_reading(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no database .*studies.db; run a search first"):
        storage.study_names(toy.url(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_sqlite_paths() -> None:
    assert sqlite_path("sqlite:///a/b.db") == Path("a/b.db")
    assert sqlite_path("postgresql+psycopg://u:p@h/d") is None


def test_evaluations_are_read_strictly() -> None:
    evaluation = toy.evaluate(BARE)
    assert Evaluation.from_json(evaluation.to_json()) == evaluation
    for text in ("{}", '{"curve": 3}', evaluation.to_json().replace('"macs"', '"flops"')):
        with pytest.raises(ValueError, match="not the JSON of Evaluation"):
            Evaluation.from_json(text)


def test_latency_in_ms_is_the_ratio_times_the_reference() -> None:
    evaluation = toy.evaluate(BARE)
    assert evaluation.latency_ms == evaluation.latency.ratio * evaluation.reference_ms


@pytest.mark.parametrize(
    ("share", "n", "low", "high"),
    [(0.5, 10, 0.2366, 0.7634), (0.9, 100, 0.8256, 0.9448), (0.0, 20, 0.0, 0.1611), (1.0, 20, 0.8389, 1.0)],
)
def test_wilson_interval(share: float, n: int, low: float, high: float) -> None:
    assert wilson_interval(share, n) == pytest.approx((low, high), abs=1e-4)
