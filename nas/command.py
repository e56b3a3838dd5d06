"""The command that repeats a search, and those that go on from it."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.settings import Settings
    from nas.study import Study

COMMANDS = (
    ("export", "--out best", "the recommended architecture as a folder that proves itself, which train and check take"),
    ("explain", "", "which of its blocks pay: each is removed in turn"),
    ("verify", "", "some architectures trained fully and tested: can the short training be trusted?"),
    ("retime", "", "the front on the device at hand"),
    ("report", "", "report.html again"),
    ("dashboard", "", "the study in optuna-dashboard, read-only"),
)
"""Verb, flags and purpose of what is commonly done next."""
_FLAGS = {"latency_batch_size": "--latency-batch"}
"""Flags that are not the name of their setting."""
_ELSEWHERE = ("study", "studies", "storage")
"""Where the results land changes none of them, and whoever shows the command knows it. A URL may hold a password."""


def command(settings: Settings) -> str:
    """Return the command line that asks for the same search, but for the name of the study and where it lands.

    Empty where the space was declared in Python.
    """
    if not isinstance(settings.space, str):
        return ""
    words, usual_ones = ["python", "run_search.py"], type(settings)()
    for field in dataclasses.fields(settings):
        value, usual = getattr(settings, field.name), getattr(usual_ones, field.name)
        always = field.name in ("budget", "seed")  # what one looks for first
        if field.name not in _ELSEWHERE and (value != usual or always):
            words += _words(_FLAGS.get(field.name, f"--{field.name.replace('_', '-')}"), value)
    return shlex.join(words)


def naming(study: str, studies: str, *, is_elsewhere: bool = False) -> str:
    """Return the flags that name a study on the command line, quoted for a shell.

    Args:
        study: Its name.
        studies: The folder of studies.
        is_elsewhere: Whether the database is not in that folder. Its URL is not told, as it may hold a password.
    """
    where = ["--studies", studies] if studies != "studies" else []
    return shlex.join(["--study", study, *where]) + (" --storage URL" if is_elsewhere else "")


@dataclass(frozen=True, kw_only=True)
class Commands:
    """What is commonly done with a study, as command lines."""

    flags: str = ""
    """As :func:`naming` returns them."""
    begun: str = ""
    """The command that began the search, without those flags; empty where it is not known."""
    verbs: tuple[str, ...] = tuple(verb for verb, _, _ in COMMANDS)
    """Which verbs there is something for."""

    def to(self, verb: str, more: str = "") -> str:
        """Return the command line of a verb, with further flags."""
        return " ".join(filter(None, ("python run_search.py", verb, self.flags, more)))

    def lines(self) -> list[str]:
        """Return the lines: each command beneath what it is for."""
        found = []
        if self.begun:
            found = ["# the search itself; a larger --budget goes on", f"{self.begun} {self.flags}".rstrip()]
        for verb, more, purpose in (each for each in COMMANDS if each[0] in self.verbs):
            found += [f"# {purpose}", self.to(verb, more)]
        return found


def commands_of(study: Study, studies: str, *, is_elsewhere: bool) -> Commands:
    """Return what is commonly done with a study; the arguments are those of :func:`naming`."""
    flags = naming(study.name, studies, is_elsewhere=is_elsewhere)
    return Commands(flags=flags, begun=str((study.inputs or {}).get("command", "")))


def _words(flag: str, value: Any) -> list[str]:
    """Return a flag with what stands behind it; nothing does behind a switch."""
    if value is True:
        return [flag]
    if isinstance(value, Mapping):
        return [flag, *(f"{name}={each!r}" for name, each in value.items())]
    if flag == "--max-slowdown" and value >= 1:
        return [flag, f"{100 * value!r}%"]
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return [f"{flag}={text}"] if text.startswith("-") else [flag, text]
