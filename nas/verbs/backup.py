"""Copy the database of the studies, while they are searched if need be."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from nas.verbs.common import DONE, storage_url


def add(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the verb and its flags."""
    parser = verbs.add_parser("backup", parents=[common], help="copy the database, also while a search goes on")
    parser.add_argument(
        "--out", metavar="FILE", help="the copy (default: DIR/_backups/NAME-TIME.db, with the time in UTC)"
    )


def run(arguments: argparse.Namespace) -> int:
    from nas import backup
    from nas.database import sqlite_path
    from nas.study import study_names

    url = storage_url(arguments)
    path = sqlite_path(url)
    if path is None:
        raise ValueError(_for_a_server(url, arguments.out))
    names = study_names(url)  # or it is no database of ours
    out = Path(arguments.out) if arguments.out else backup.default_copy(path, Path(arguments.studies))
    backup.copy(path, out)
    count = f"{len(names)} stud{'y' if len(names) == 1 else 'ies'}"
    print(f"wrote {out}: {count} of {path}, {out.stat().st_size / 1e6:.1f} MB, found to be whole")
    print(f"read it: python run_search.py report --studies restored --storage {shlex.quote(f'sqlite:///{out}')}")
    return DONE


def _for_a_server(url: str, out: str | None) -> str:
    """Return which command copies a database that a server keeps; without the password."""
    from nas.backup import server_command

    command = server_command(url, out)
    if command is None:
        return "only an SQLite database is copied here; take the tool of the server for another one"
    return f"only an SQLite database is copied here; for PostgreSQL take: {command} (it asks for the password)"
