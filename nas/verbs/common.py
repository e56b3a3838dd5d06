"""What several verbs share."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from typing_extensions import Self

    from nas.study import Study

DONE, INTERRUPTED = 0, 130
"""Exit statuses of what went well, and of what was stopped by Ctrl-C or SIGTERM."""


def say(words: str) -> None:
    """Tell how it gets on, beside the results."""
    print(words, file=sys.stderr)


def end_on_sigterm() -> None:
    """Let the wish to end (SIGTERM) be Ctrl-C, also where a shell has made the process ignore Ctrl-C itself."""
    signal.signal(signal.SIGTERM, _interrupt)


class Stopping:
    """A context in which Ctrl-C may stop gently: what is called to ask whether it is time to stop.

    From :meth:`begin` on the first Ctrl-C lets the training in hand end, which whoever trains has to look for; each
    further one, one before that and SIGTERM raise KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self._is_gentle = self._stops = False
        self._before: list[tuple[signal.Signals, Any]] = []

    def __enter__(self) -> Self:
        self._set(signal.SIGTERM, _interrupt)
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # a shell lets its background processes ignore Ctrl-C
            self._set(signal.SIGINT, self._ctrl_c)
        return self

    def __exit__(self, *_: object) -> None:
        for wish, before in self._before:
            signal.signal(wish, before)

    def __call__(self) -> bool:
        """Tell whether no further training is to begin."""
        return self._stops

    def begin(self) -> None:
        """Say that there may be a training in hand from now on."""
        self._is_gentle = True

    def _set(self, wish: signal.Signals, handler: Any) -> None:
        self._before.append((wish, signal.signal(wish, handler)))

    def _ctrl_c(self, *_: object) -> None:
        if self._stops or not self._is_gentle:
            raise KeyboardInterrupt
        self._stops = True
        # Not by print: the signal may have come in the middle of one.
        os.write(2, b"\nstopping when what is in training now is done; Ctrl-C again stops at once\n")


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def storage_url(arguments: argparse.Namespace) -> str:
    """Return the URL of the database: the one that is given, or that of the file in the folder of studies."""
    return str(arguments.storage or f"sqlite:///{Path(arguments.studies) / 'studies.db'}")


def open_study(arguments: argparse.Namespace) -> Study:
    """Open the study that is named, or the only one that there is."""
    from nas.study import Study

    return Study.open_only(arguments.study, storage_url(arguments), ask="--study must name a study")
