"""The evaluation cache and the workers' signs of life: SQLAlchemy tables beside Optuna's in the same database.

Rows are keyed by what they say (architecture id, protocol hash) and never by Optuna's numbers, which SQLite reuses.
Every write may be repeated without harm, because a worker that was taken for dead may still deliver.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa

from nas import schema
from nas.architecture import Architecture
from nas.database import CONNECTIONS, Lock, StorageError, claimed, engine_arguments, locked, patient, sqlite_path
from nas.evaluation import Cost, Evaluation
from nas.seeds import Replicate

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
    sa.Column("beats", sa.Integer, nullable=False, server_default="0"),
)


@dataclass(frozen=True)
class Sign:
    """A sign of life."""

    beats: int
    """How many there were; no clock can change that it grows."""
    silent_seconds: float
    """How long ago the last one was, by the database's clock, which may have been set since."""
    beat_at: datetime.datetime | None = None
    """When that was, by the same clock."""

    def is_same(self, other: Sign) -> bool:
        """Tell whether no sign was given between the two; programs of before there were counts leave these alone."""
        return (self.beats, self.beat_at) == (other.beats, other.beat_at)


class Store:
    """The project's own tables in one database."""

    def __init__(self, url: str) -> None:
        """Open the tables; :meth:`create` makes them."""
        self._url = url
        self._engine = sa.create_engine(url, **engine_arguments(url, CONNECTIONS))
        self._parsed = cache(Evaluation.from_json)  # a search reads all of them before every trial

    def create(self) -> None:
        """Create the tables where they are missing, and bring older ones up to date.

        Raises:
            StorageError: If they were made by a newer version of the schema, or by one that is too old.
        """
        schema.migrate(self._engine, sqlite_path(self._url))
        _METADATA.create_all(self._engine)
        self._insert_once(_META, {"key": "schema"}, {"value": schema.SCHEMA_VERSION})

    def missing(self) -> list[str]:
        """Return the names of the tables that are not made yet: the database is of before, or was cut off."""
        made = set(sa.inspect(self._engine).get_table_names())
        return [name for name in _METADATA.tables if name not in made]

    def is_there(self) -> bool:
        """Tell whether the tables were made; without patience, as who begins wants to know if there is no such server.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: If it cannot be reached.
        """
        return sa.inspect(self._engine).has_table(_META.name)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def lock(self, purpose: str, of: str = "") -> AbstractContextManager[Lock]:
        """Return a lock that all processes share that use the database; see :func:`nas.database.locked`."""
        return locked(self._engine, self._url, purpose, of)

    def claim(self, architecture: str, seed: int) -> AbstractContextManager[None]:
        """Return a lock under which one process trains an architecture again with a seed, and the others wait."""
        return claimed(self._engine, self._url, f"{architecture} {seed}")

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
        return {row.architecture_id: self._parsed(row.json) for row in self._read(query)}

    def cost(self, architecture: Architecture, latency_hash: str) -> Cost | None:
        """Return what is known to be the cost of an architecture; the hash is ``Protocol.latency_hash``."""
        text = self._json(_COSTS, {"architecture_id": architecture.id, "latency_hash": latency_hash})
        return None if text is None else Cost.from_json(text)

    def put_cost(self, architecture: Architecture, latency_hash: str, cost: Cost) -> None:
        """Keep a cost; the first stable one kept stays."""
        self.keep(architecture)
        key = {"architecture_id": architecture.id, "latency_hash": latency_hash}
        known = self._json(_COSTS, key)
        if known is not None and Cost.from_json(known).latency.unstable:
            self._replace(_COSTS, key, known, cost.to_json())
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
        return float(self._read(sa.select(_REFERENCES.c.bare_ms).filter_by(**key))[0].bare_ms)

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
        if not self._has_replicates():
            return []  # a database that is only read, and was made before there were any
        query = sa.select(_REPLICATES.c.json).filter_by(family=family, kind=kind)
        return sorted(
            (Replicate.from_json(text) for (text,) in self._read(query)),
            key=lambda replicate: (replicate.architecture, replicate.epochs, replicate.seed),
        )

    def beat(self, worker: str) -> None:
        """Note that a worker is alive. It is not tried again: the next beat makes up for one that is missed."""
        sign = {"beat_at": sa.func.current_timestamp(), "beats": _WORKERS.c.beats + 1}
        with self._engine.begin() as connection:
            if connection.execute(sa.update(_WORKERS).where(_WORKERS.c.id == worker).values(sign)).rowcount == 0:
                connection.execute(sa.insert(_WORKERS).values(id=worker, beat_at=sa.func.current_timestamp(), beats=1))

    def signs(self) -> dict[str, Sign]:
        """Return the latest sign of life of all workers, by their ids. It is not tried again either."""
        query = sa.select(_WORKERS, sa.func.current_timestamp(type_=sa.DateTime).label("now"))
        with self._engine.connect() as connection:
            rows = connection.execute(query).all()
        return {
            row.id: Sign(
                beats=row.beats,
                silent_seconds=(_plain(row.now) - _plain(row.beat_at)).total_seconds(),
                beat_at=row.beat_at,
            )
            for row in rows
        }

    def forget(self, worker: str) -> None:
        """Remove a worker that ended in order, or that is dead."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(_WORKERS).where(_WORKERS.c.id == worker))

    def _json(self, table: sa.Table, key: dict[str, str]) -> str | None:
        """Return the JSON of the row with this key, if there is one."""
        rows = self._read(sa.select(table.c.json).filter_by(**key))
        return rows[0].json if rows else None

    @patient
    def _read(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        """Return the rows of a query."""
        with self._engine.connect() as connection:
            return connection.execute(query).all()

    @patient
    def _has_replicates(self) -> bool:
        return sa.inspect(self._engine).has_table(_REPLICATES.name)

    @patient
    def _replace(self, table: sa.Table, key: dict[str, str], old: str, new: str) -> None:
        """Change the JSON of the row with this key, unless another process has done so."""
        with self._engine.begin() as connection:
            connection.execute(sa.update(table).filter_by(**key, json=old).values(json=new))

    @patient
    def _insert_once(self, table: sa.Table, key: dict[str, str], values: dict[str, object]) -> None:
        """Insert a row unless its key is there already, whoever put it there."""
        try:
            with self._engine.begin() as connection:
                if connection.execute(sa.select(sa.literal(1)).select_from(table).filter_by(**key)).first() is None:
                    connection.execute(sa.insert(table).values(**key, **values))
        except sa.exc.IntegrityError:
            pass  # another process put it there between the question and the insert


def _plain(moment: datetime.datetime) -> datetime.datetime:
    """Return a moment without its time zone, which some databases tell and some do not."""
    return moment.replace(tzinfo=None)
