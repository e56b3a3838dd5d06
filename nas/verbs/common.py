"""What several verbs share."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from nas.study import Study

DONE = 0
"""Exit status of what went well."""


def say(words: str) -> None:
    """Tell how it gets on, beside the results."""
    print(words, file=sys.stderr)


def end_on_sigterm() -> None:
    """Let the wish to end (SIGTERM) be Ctrl-C, also where a shell has made the process ignore Ctrl-C itself."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def open_study(arguments: argparse.Namespace) -> Study:
    """Open the study that is named, or the only one that there is."""
    from nas.study import Study

    return Study.open_only(arguments.study, storage_url(arguments), ask="--study must name a study")


def storage_url(arguments: argparse.Namespace) -> str:
    """Return the database: the one that is named, or that in the folder of studies."""
    return arguments.storage or f"sqlite:///{Path(arguments.studies) / 'studies.db'}"
