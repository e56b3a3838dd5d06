"""Look at a database and its studies. Nothing is changed but for the study's lock, which is held for a moment."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nas import schema
from nas.backup import faults
from nas.database import sqlite_path
from nas.database_errors import StorageError, place_of
from nas.doctor.artifacts import check_files
from nas.store import Store
from nas.study import Study, StudyError, study_names
from nas.study.checkup import (
    RESTORE,
    Finding,
    broken,
    check_architectures,
    check_binding,
    check_budget,
    check_ends,
    check_evaluations,
    check_running,
    mendable,
    sound,
)
from nas.study.inventory import dead_workers, stale_trials, take
from nas.study.record import close
from nas.study.storage import connect_existing
from nas.study.worker import watched

if TYPE_CHECKING:
    from optuna.storages import RDBStorage


@dataclass(frozen=True, kw_only=True)
class Chart:
    """What was found of one database, or of one study."""

    subject: str
    """What was looked at, in words."""
    study: str
    """Name of the study; empty for the database."""
    findings: tuple[Finding, ...]
    """What each check found."""

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return all(finding.is_sound for finding in self.findings)


def examine(url: str, studies: str | Path, name: str | None = None, *, build: bool = True) -> list[Chart]:
    """Check a database and its studies.

    Args:
        url: The database.
        studies: The folder of studies.
        name: The only study to be looked at; None for all.
        build: Whether the recommended networks are built, too: takes torch.

    Returns:
        The chart of the database and, unless its file is damaged, one for each study.

    Raises:
        StorageError: If there is no such database, it cannot be reached, or its tables are of another program or of a
            newer version of this one.
        StudyError: If there is no study of that name.
    """
    database = Chart(subject=place_of(url), study="", findings=tuple(_of_database(url)))
    if not all(finding.is_sound or finding.is_mendable for finding in database.findings):
        return [database]
    if any(finding.words.startswith(_CUT_OFF) for finding in database.findings):
        return [database]  # what is not made cannot be read
    charts = [database]
    for each in study_names(url) if name is None else [name]:
        try:
            study = Study.open(each, url)
        except StudyError:
            if name is not None:
                raise
            continue  # another program's, or one that was cut off while it was made: it holds nothing yet
        try:
            findings = tuple(_of_study(study, Path(studies) / each, build=build))
        finally:
            study.close()
        charts.append(Chart(subject=f"study {each}", study=each, findings=findings))
    return charts


def _of_database(url: str) -> Iterator[Finding]:
    path = sqlite_path(url)
    if path is not None:
        if not path.is_file():
            raise StorageError(f"no database {path}; run a search first, or give another with --storage")
        if wrong := faults(path):
            yield broken("file", f"damaged: {'; '.join(wrong)}", RESTORE)
            return
        yield sound("file", f"whole, {path.stat().st_size / 1e6:.1f} MB; every row that another refers to is there")
    storage, store = connect_existing(url)
    try:
        schema.check_readable(storage.engine)
        yield _check_tables(storage, store)
        is_readable = schema.version_of(storage.engine) == schema.SCHEMA_VERSION and not store.missing()
        dead = dead_workers(store, watched(store)) if is_readable else []
        if dead:
            yield mendable("workers", f"{len(dead)} died and left a row", "the rows are removed")
        else:
            yield sound("workers", "no dead one has left anything")
    finally:
        close(storage, store)


_CUT_OFF = "not all were made, as that was cut off"


def _check_tables(storage: RDBStorage, store: Store) -> Finding:
    """Check that the tables are all there, and of this version."""
    ours, optunas = schema.version_of(storage.engine), f"Optuna's {storage.get_current_version()}"
    if ours is not None and ours != schema.SCHEMA_VERSION:
        cure = f"they are brought to {schema.SCHEMA_VERSION}, after a copy of the file; the next search does so, too"
        return mendable("tables", f"of an older version, {ours}; {optunas}", cure)
    if ours is None or (missing := store.missing()):
        names = "the note of their version" if ours is None else ", ".join(missing)
        return mendable("tables", f"{_CUT_OFF}: {names}", "they are made")
    return sound("tables", f"of this version, {ours}; {optunas}")


def _of_study(study: Study, folder: Path, *, build: bool) -> Iterator[Finding]:
    with locked(study):
        held = take(study)
    is_current = schema.version_of(study._storage.engine) == schema.SCHEMA_VERSION  # older ones tell less of workers
    watch = watched(study.store) if is_current else None
    stale = stale_trials(held, watch) if watch is not None else set()
    bases = [check_binding(study.attributes), check_architectures(held)]
    yield from bases
    if not all(each.is_sound for each in bases):
        return  # whatever comes next reads them
    evaluations = check_evaluations(held)
    yield evaluations
    yield check_budget(held, study.protocol.epochs, budget_of(study))
    yield check_running(held, stale)
    yield check_ends(held)
    if evaluations.is_sound:
        # Or those of another study: never mind.
        live = watch is not None and any(not watch.is_dead(worker) for worker in study.store.signs())
        yield from check_files(study, folder, held, is_live=live, build=build)
    else:
        yield sound("files", "not looked at, as they are made of what is wrong")


def budget_of(study: Study) -> int | None:
    """Return the budget of the latest search, in whole trainings; None where it is not known."""
    if study.search is not None:
        return int(study.search["budget"])
    try:
        words = shlex.split(str((study.inputs or {}).get("command", "")))
        return int(words[words.index("--budget") + 1])
    except (IndexError, ValueError):  # it was searched from Python, or before the command was kept
        return None


@contextmanager
def locked(study: Study) -> Iterator[None]:
    """Hold a study's lock for one look; where it cannot be made, as in a folder that is only read, look without."""
    lock: AbstractContextManager[object] = study.lock()
    try:
        lock.__enter__()
    except StorageError:
        yield
        return
    try:
        yield
    finally:
        lock.__exit__(None, None, None)
