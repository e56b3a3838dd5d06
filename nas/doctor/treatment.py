"""Mend what an examination has found, as far as it can be mended; safe while a search is at work."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from nas import files, schema
from nas.database import sqlite_path
from nas.doctor.artifacts import left_temporaries, left_trainings
from nas.doctor.examination import Chart
from nas.run import write_files
from nas.study import Study
from nas.study.inventory import dead_workers, take
from nas.study.mending import mend
from nas.study.record import close
from nas.study.storage import connect, connect_existing
from nas.study.worker import bury, watched
from nas.verify import splits_of

_MADE = {"pages", "front.csv", "best.json"}
"""Checks of what :func:`nas.run.write_files` writes."""


def treat(url: str, studies: str | Path, charts: list[Chart]) -> list[str]:
    """Mend what is wrong, and return what was done and what could not be done, in words.

    Args:
        url: The database.
        studies: The folder of studies.
        charts: What was found there.
    """
    done = []
    wanted = [chart for chart in charts if any(finding.is_mendable for finding in chart.findings)]
    if any(not chart.study for chart in wanted):
        done += _treat_database(url)
    for chart in (chart for chart in wanted if chart.study):
        done += [f"{chart.subject}: {words}" for words in _treat_study(url, Path(studies), chart)]
    return done


def _treat_database(url: str) -> list[str]:
    storage, store = connect_existing(url)
    done = []
    try:
        found, missing = schema.version_of(storage.engine), store.missing()
        if missing or found != schema.SCHEMA_VERSION:
            close(*connect(url))  # whoever opens it for writing makes its tables, and brings them up to date
            path = sqlite_path(url)
            if found not in (None, schema.SCHEMA_VERSION):
                kept = f"; as it was it is kept in {schema.copy_before(path, str(found))}" if path is not None else ""
                done.append(f"tables brought from version {found} to {schema.SCHEMA_VERSION}{kept}")
            else:
                done.append(f"tables made: {', '.join(missing) or 'the note of their version'}")
        dead = dead_workers(store, watched(store))
        for worker in dead:
            bury(worker, store)
        done += [f"{len(dead)} rows of dead workers removed"] if dead else []
    finally:
        close(storage, store)
    return done


def _treat_study(url: str, studies: Path, chart: Chart) -> list[str]:
    wrong = {finding.check for finding in chart.findings if finding.is_mendable}
    folder = studies / chart.study
    study = Study.open(chart.study, url)
    try:
        done = mend(study, watched(study.store))
    finally:
        study.close()
    study = Study.open(chart.study, url)  # Optuna keeps in memory what ended trials had been
    try:
        done += _remove_left(study, folder)
        if done or wrong & _MADE:
            done += _write(study, folder)
        if "split.json" in wrong:
            done.append(_write_split(study, folder))
    finally:
        study.close()
    return done


def _remove_left(study: Study, folder: Path) -> list[str]:
    with study.lock():  # nobody begins a training meanwhile
        left = list(left_trainings(folder, take(study)))
        for path in left:
            with suppress(OSError):
                path.unlink()
    done = [f"{len(left)} files of stopped trainings removed"] if left else []
    left = list(left_temporaries(folder))
    for path in left:
        with suppress(OSError):
            path.unlink()
    return done + ([f"{len(left)} temporary files removed"] if left else [])


def _write(study: Study, folder: Path) -> list[str]:
    try:
        write_files(study, folder)
    except (OSError, ValueError) as error:
        return [f"its files could not be written: {error}"]
    return [f"its files were written into {folder}"]


def _write_split(study: Study, folder: Path) -> str:
    try:
        files.replace(folder / "split.json", json.dumps(splits_of(study).record()).encode())
    except (OSError, ValueError) as error:
        return f"split.json could not be written: {error}"
    return "split.json was written"
