"""The command line: parse, dispatch, say what went wrong. What the verbs do stands in nas/verbs."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NoReturn

import nas
from nas.verbs import (
    backbones,
    backup,
    blocks,
    check,
    costs,
    dashboard,
    doctor,
    explain,
    export,
    report,
    retime,
    search,
    train,
    verify,
    worker,
)
from nas.verbs.common import DONE, INTERRUPTED, storage_url

FAILED, WRONG_USE = 1, 2
"""Exit statuses; the others are in :mod:`nas.verbs.common`."""
_OF_A_STUDY: dict[str, ModuleType] = {
    "search": search,
    "worker": worker,
    "report": report,
    "dashboard": dashboard,
    "explain": explain,
    "verify": verify,
    "retime": retime,
    "export": export,
    "doctor": doctor,
    "backup": backup,
}
_OTHERS: dict[str, ModuleType] = {
    "check": check,
    "train": train,
    "blocks": blocks,
    "costs": costs,
    "backbones": backbones,
}
_MODULES = {**_OF_A_STUDY, **_OTHERS}


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage of thirty flags in front of it."""

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_USE, f"{self.prog}: {message}; {self.prog} --help lists what there is\n")


class _VerbParser(Parser):
    """Refuses a flag that it does not know itself; the parser of the whole would, and does not know the verb's."""

    def parse_known_args(self, *arguments: Any, **named: Any) -> Any:
        found, unknown = super().parse_known_args(*arguments, **named)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    whole = Parser(
        prog="run_search.py",
        description="Which attention block, with which options, on which stages of a backbone - and at what latency?",
        epilog="Without a verb it searches: run_search.py --budget 50. run_search.py search --help lists the flags.",
    )
    whole.add_argument("--version", action="version", version=f"%(prog)s {nas.__version__}")
    verbs = whole.add_subparsers(dest="verb", metavar="verb", required=True, parser_class=_VerbParser)
    plain = Parser(add_help=False)
    plain.add_argument("--debug", action="store_true", help="show the traceback of an error")
    common = Parser(add_help=False, parents=[plain])
    common.add_argument(
        "--studies", metavar="DIR", default="studies", help="folder where studies land (default: studies)"
    )
    common.add_argument("--storage", metavar="URL", help="database (default: sqlite:///DIR/studies.db)")
    common.add_argument("--study", metavar="NAME", help="name of the study; the same name resumes it")
    for verb in _OF_A_STUDY.values():
        verb.add(verbs, common)
    for verb in _OTHERS.values():
        verb.add(verbs, plain)
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 1 the run failed, 2 wrong use, 130 interrupted.

    The verb check has one of its own: 3, where it could not compare every file.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that lacks a sign shows the rest
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help", "--version")):
        words.insert(0, "search")
    arguments = parser().parse_args(words)
    debug = arguments.debug
    try:
        return int(_MODULES[arguments.verb].run(arguments))
    except KeyboardInterrupt:
        resumes = arguments.verb in ("search", "worker", "train", "verify", "explain")
        goes_on = "; the same command goes on where this one stopped" if resumes else ""
        print(f"\ninterrupted{goes_on}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _explain(error, storage_url(arguments) if hasattr(arguments, "studies") else None)


def _explain(error: Exception, storage: str | None) -> int:
    from nas.database_errors import words_for
    from nas.evaluation import EvaluationError

    text = " ".join(str(error).split())
    if isinstance(error, (ValueError, EvaluationError)):
        print(f"run_search.py: {text}", file=sys.stderr)
        return WRONG_USE
    if (told := words_for(error, storage)) is not None:
        print(f"run_search.py: the run failed: {told}", file=sys.stderr)
        return FAILED
    known = type(error).__name__ in ("RunFailed", "TrainingFailed")
    hint = "" if known else f"{type(error).__name__}: "
    print(f"run_search.py: the run failed: {hint}{text}; --debug shows where", file=sys.stderr)
    return FAILED
