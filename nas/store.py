"""The evaluation cache and the workers' signs of life: SQLAlchemy tables beside Optuna's in the same database.

Rows are keyed by what they say (architecture id, protocol hash) and never by Optuna's numbers, which SQLite reuses.
Every write may be repeated without harm, because a worker that was taken for dead may still deliver.
"""

from __future__ import annotations

import datetime
import sqlite3
from functools import cache
from pathlib import Path

import sqlalchemy as sa

from nas.architecture import Architecture
from nas.evaluation import Cost, Evaluation
from nas.secret import shown
from nas.seeds import Replicate
from nas.strict_json import short

SCHEMA_VERSION = "2"
BUSY_TIMEOUT_SECONDS = 60
"""How long a connection waits for SQLite's write lock."""

_METADATA = sa.MetaData()
_META = sa.Table("nas_meta", _METADATA, sa.Column("key", sa.String(64), primary_key=True), sa.Column("value", sa.Text))
_ARCHITECTURES = sa.Table(
    "nas_architectures",
    _METADATA,
    sa.Column("id", sa.String(12), primary_key=True),
    sa.Column("json", sa.Text, nullable=False),
)
_EVALUATIONS = sa.Table(
    "nas_evaluations",
    _METADATA,
    sa.Column("architecture_id", sa.String(12), primary_key=True),
    sa.Column("protocol_hash", sa.String(16), primary_key=True),
    sa.Column("json", sa.Text, nullable=False),
    sa.Column("created_at", sa.DateTime, server_default=sa.func.now()),
)
_COSTS = sa.Table(
    "nas_costs",
    _METADATA,
    sa.Column("architecture_id", sa.String(12), primary_key=True),
    sa.Column("latency_hash", sa.String(16), primary_key=True),
    sa.Column("json", sa.Text, nullable=False),
    sa.Column("created_at", sa.DateTime, server_default=sa.func.now()),
)
_REFERENCES = sa.Table(
    "nas_references",
    _METADATA,
    sa.Column("backbone", sa.String(128), primary_key=True),
    sa.Column("latency_hash", sa.String(16), primary_key=True),
    sa.Column("bare_ms", sa.Float, nullable=False),
)
_REPLICATES = sa.Table(
    "nas_replicates",
    _METADATA,
    sa.Column("architecture_id", sa.String(12), primary_key=True),
    sa.Column("protocol_hash", sa.String(16), primary_key=True),
    sa.Column("kind", sa.String(8), primary_key=True),
    sa.Column("family", sa.String(16), nullable=False, index=True),
    sa.Column("json", sa.Text, nullable=False),
    sa.Column("created_at", sa.DateTime, server_default=sa.func.now()),
)
_WORKERS = sa.Table(
    "nas_workers",
    _METADATA,
    sa.Column("id", sa.String(128), primary_key=True),
    sa.Column("beat_at", sa.DateTime, nullable=False),
)


_SQLITE_QUERY = ("timeout", "isolation_level", "detect_types", "check_same_thread", "cached_statements")
"""What may stand in the query of an SQLite URL."""


class StorageError(ValueError):
    """The database cannot be used; the message says why."""


def sqlite_path(url: str) -> Path | None:
    """Return the file of an SQLite URL, or None for another database.

    Raises:
        StorageError: If the URL cannot be read, or names an SQLite database in memory, which no other process sees.
    """
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError) as error:  # a port that is no number, for one
        raise StorageError(
            f"storage must be a database URL such as sqlite:///studies/studies.db, but got {shown(url)!r}"
        ) from error
    if parsed.get_backend_name() != "sqlite":
        return None
    if not parsed.database or parsed.database == ":memory:" or parsed.database.startswith("file:"):
        raise StorageError(f"storage must be a path, such as sqlite:///studies/studies.db, but got {shown(url)!r}")
    if unknown := sorted(set(parsed.query) - set(_SQLITE_QUERY)):  # SQLAlchemy would warn, and pass it over
        raise StorageError(f"SQLite takes {', '.join(_SQLITE_QUERY)} behind its path's ?, but not {short(unknown[0])}")
    return Path(parsed.database)


def prepare_sqlite(path: Path) -> None:
    """Check that an SQLite file can be written and is ours or empty, and switch it to write-ahead logging.

    The journal mode is kept in the file, so it is set once, here: setting it on every connection meets the lock.

    Raises:
        StorageError: If the file is no SQLite database, belongs to something else, or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_SECONDS)
        try:
            check_ours(connection, path)
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                connection.execute("PRAGMA journal_mode=WAL")
            # A real write: SQLite lets even a read-only database begin a transaction.
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            connection.execute(f"PRAGMA user_version = {int(version)}")
        finally:
            connection.close()
    except (OSError, sqlite3.OperationalError) as error:
        raise StorageError(
            f"cannot write the database {path}: {error}; give a writable place with --storage"
        ) from error


def check_ours(connection: sqlite3.Connection, path: Path, *, used: bool = False) -> None:
    """Raise unless an SQLite database is empty or an Optuna database; with ``used``, unless it has our tables.

    Raises:
        StorageError: If it is not.
    """
    try:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.OperationalError as error:
        raise StorageError(f"cannot read the database {path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise StorageError(f"{path} is not an SQLite database ({error}); give another with --storage") from error
    needed = {"studies", "trials", "nas_meta"} if used else {"studies", "trials"} if tables else set()
    if not needed <= tables:
        some = ", ".join(sorted(tables)[:3]) or "none"
        raise StorageError(f"{path} is a database of something else (tables: {some}); give another with --storage")


class Store:
    """The project's own tables in one database."""

    def __init__(self, url: str) -> None:
        """Open the tables; :meth:`create` makes them."""
        arguments = {"timeout": BUSY_TIMEOUT_SECONDS} if sqlite_path(url) is not None else {}
        self._engine = sa.create_engine(url, connect_args=arguments, pool_pre_ping=True)
        self._parsed = cache(Evaluation.from_json)  # a search reads all of them before every trial

    def create(self) -> None:
        """Create the tables where they are missing.

        Raises:
            StorageError: If they were made by another version of the schema.
        """
        _METADATA.create_all(self._engine)
        self._insert_once(_META, {"key": "schema"}, {"value": SCHEMA_VERSION})
        with self._engine.connect() as connection:
            version = connection.execute(sa.select(_META.c.value).where(_META.c.key == "schema")).scalar_one()
        if version != SCHEMA_VERSION:
            raise StorageError(
                f"the database has schema {version} of the nas_ tables, but this version reads {SCHEMA_VERSION}"
            )

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def get(self, architecture: Architecture, protocol_hash: str) -> Evaluation | None:
        """Return what is known of an architecture under a protocol."""
        text = self._json(_EVALUATIONS, {"architecture_id": architecture.id, "protocol_hash": protocol_hash})
        return None if text is None else Evaluation.from_json(text)

    def put(self, architecture: Architecture, protocol_hash: str, evaluation: Evaluation) -> None:
        """Keep an evaluation; the first one kept stays."""
        self.keep(architecture)
        key = {"architecture_id": architecture.id, "protocol_hash": protocol_hash}
        self._insert_once(_EVALUATIONS, key, {"json": evaluation.to_json()})

    def evaluations(self, protocol_hash: str) -> dict[str, Evaluation]:
        """Return all that is known under a protocol, by architecture id."""
        query = sa.select(_EVALUATIONS.c.architecture_id, _EVALUATIONS.c.json).where(
            _EVALUATIONS.c.protocol_hash == protocol_hash
        )
        with self._engine.connect() as connection:
            rows = [(row.architecture_id, row.json) for row in connection.execute(query)]
        return {identifier: self._parsed(text) for identifier, text in rows}

    def cost(self, architecture: Architecture, latency_hash: str) -> Cost | None:
        """Return what is known to be the cost of an architecture; the hash is ``Protocol.latency_hash``."""
        text = self._json(_COSTS, {"architecture_id": architecture.id, "latency_hash": latency_hash})
        return None if text is None else Cost.from_json(text)

    def put_cost(self, architecture: Architecture, latency_hash: str, cost: Cost) -> None:
        """Keep a cost; the first stable one kept stays."""
        self.keep(architecture)
        key = {"architecture_id": architecture.id, "latency_hash": latency_hash}
        known = self.cost(architecture, latency_hash)
        if known is not None and known.latency.unstable:
            with self._engine.begin() as connection:
                connection.execute(sa.delete(_COSTS).filter_by(**key))
        self._insert_once(_COSTS, key, {"json": cost.to_json()})

    def keep(self, architecture: Architecture) -> None:
        """Keep an architecture, so that its id is enough to name it."""
        self._insert_once(_ARCHITECTURES, {"id": architecture.id}, {"json": architecture.to_json()})

    def architecture(self, identifier: str) -> Architecture:
        """Return a kept architecture.

        Raises:
            StorageError: If the database does not hold it.
        """
        text = self._json(_ARCHITECTURES, {"id": identifier})
        if text is None:
            raise StorageError(f"the database names the architecture {identifier}, but does not hold it")
        return Architecture.from_json(text)

    def bare_ms(self, backbone: str, latency_hash: str) -> float | None:
        """Return what the bare backbone takes, in ms, as far as it was timed."""
        cost = self.cost(Architecture(backbone=backbone), latency_hash)
        return None if cost is None else cost.latency.bare_ms

    def reference_ms(self, backbone: str, latency_hash: str, measured_ms: float) -> float:
        """Return the bare backbone's latency in ms, of which all others are multiples: the same for every caller.

        Where it has none of its own, as it cannot be timed alone, it is what the first caller measured.
        """
        bare_ms = self.bare_ms(backbone, latency_hash)
        if bare_ms is not None:
            return bare_ms
        key = {"backbone": backbone, "latency_hash": latency_hash}
        self._insert_once(_REFERENCES, key, {"bare_ms": measured_ms})
        query = sa.select(_REFERENCES.c.bare_ms).filter_by(**key)
        with self._engine.connect() as connection:
            return float(connection.execute(query).scalar_one())

    def replicate(self, architecture: Architecture, protocol_hash: str, kind: str) -> Replicate | None:
        """Return one training of an architecture; the hash is that of the protocol with its seed and its epochs."""
        key = {"architecture_id": architecture.id, "protocol_hash": protocol_hash, "kind": kind}
        text = self._json(_REPLICATES, key)
        return None if text is None else Replicate.from_json(text)

    def put_replicate(
        self, architecture: Architecture, protocol_hash: str, replicate: Replicate, *, family: str
    ) -> None:
        """Keep one training; the first one kept stays. The family is ``Protocol.family_hash``."""
        self.keep(architecture)
        key = {"architecture_id": architecture.id, "protocol_hash": protocol_hash, "kind": replicate.kind}
        self._insert_once(_REPLICATES, key, {"family": family, "json": replicate.to_json()})

    def replicates(self, family: str, kind: str) -> list[Replicate]:
        """Return all trainings under the protocols of a family."""
        if not sa.inspect(self._engine).has_table(_REPLICATES.name):
            return []  # a database that is only read, and was made before there were any
        query = sa.select(_REPLICATES.c.json).filter_by(family=family, kind=kind)
        with self._engine.connect() as connection:
            return sorted(
                (Replicate.from_json(row.json) for row in connection.execute(query)),
                key=lambda replicate: (replicate.architecture, replicate.epochs, replicate.seed),
            )

    def beat(self, worker: str) -> None:
        """Note that a worker is alive, by the database's clock."""
        with self._engine.begin() as connection:
            changed = connection.execute(
                sa.update(_WORKERS).where(_WORKERS.c.id == worker).values(beat_at=sa.func.current_timestamp())
            )
            if changed.rowcount == 0:
                connection.execute(sa.insert(_WORKERS).values(id=worker, beat_at=sa.func.current_timestamp()))

    def silent_seconds(self, worker: str) -> float:
        """Return how long ago a worker gave a sign of life, in seconds; infinite if it never did."""
        query = sa.select(_WORKERS.c.beat_at, sa.func.current_timestamp(type_=sa.DateTime)).where(
            _WORKERS.c.id == worker
        )
        with self._engine.connect() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return float("inf")
        beat_at, now = (value.replace(tzinfo=None) for value in row)
        return float((now - beat_at) / datetime.timedelta(seconds=1))

    def forget(self, worker: str) -> None:
        """Remove a worker that ended in order."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(_WORKERS).where(_WORKERS.c.id == worker))

    def _json(self, table: sa.Table, key: dict[str, str]) -> str | None:
        """Return the JSON of the row with this key, if there is one."""
        with self._engine.connect() as connection:
            text: str | None = connection.execute(sa.select(table.c.json).filter_by(**key)).scalar_one_or_none()
        return text

    def _insert_once(self, table: sa.Table, key: dict[str, str], values: dict[str, object]) -> None:
        """Insert a row unless its key is there already, whoever put it there."""
        try:
            with self._engine.begin() as connection:
                if connection.execute(sa.select(sa.literal(1)).select_from(table).filter_by(**key)).first() is None:
                    connection.execute(sa.insert(table).values(**key, **values))
        except sa.exc.IntegrityError:
            pass  # another process put it there between the question and the insert
