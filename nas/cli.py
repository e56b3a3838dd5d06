"""The command line: parse, dispatch, say what went wrong. What the verbs do stands in nas/verbs."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NoReturn

import nas
from nas.secret import hidden
from nas.strict_json import LARGEST, short
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
STORAGE_VARIABLE = "NAS_STORAGE"
"""The variable of the environment that names the database where ``--storage`` does not."""
_NO_PATH = (errno.ENAMETOOLONG, errno.ELOOP)
"""What systems say of a path that can be none: that is wrong use, wherever it is found."""
MOST_LETTERS = 2000
"""Longest message; what is left out of a longer one is its middle."""
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

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register("type", int, _integer)

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_USE, f"{self.prog}: {_one_line(message)}; {self.prog} --help lists what there is\n")


class _VerbParser(Parser):
    """Refuses a flag that it does not know itself; the parser of the whole would, and does not know the verb's."""

    def parse_known_args(self, *arguments: Any, **named: Any) -> Any:
        found, unknown = super().parse_known_args(*arguments, **named)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown


def _integer(text: str) -> int:
    """Read an integer that every library takes; longer ones fail somewhere inside."""
    value = int(text)
    if abs(value) >= LARGEST:
        raise argparse.ArgumentTypeError(f"an integer must be below 2**63, but got {short(text, 40)}")
    return value


_integer.__name__ = "int"  # argparse names it so where it refuses a value


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
    common.add_argument(
        "--storage",
        metavar="URL",
        default=os.environ.get(STORAGE_VARIABLE) or None,
        help=f"database (default: what the environment has as {STORAGE_VARIABLE}, which no list of processes shows; "
        "else sqlite:///DIR/studies.db)",
    )
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
    debug, urls = arguments.debug, [url for url in [getattr(arguments, "storage", None)] if url]
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
            print(hidden(traceback.format_exc(), urls), file=sys.stderr, end="")
        return _explain(error, arguments.verb, storage_url(arguments) if hasattr(arguments, "studies") else None)


def _explain(error: Exception, verb: str, storage: str | None) -> int:
    from nas.database_errors import words_for
    from nas.evaluation import EvaluationError

    urls = [storage] if storage else []
    text = _one_line(_with_flag(str(error), verb) if isinstance(error, ValueError) else str(error), urls)
    is_path = isinstance(error, OSError) and error.errno in _NO_PATH
    if isinstance(error, (ValueError, EvaluationError)) or is_path:
        print(f"run_search.py: {text}", file=sys.stderr)
        return WRONG_USE
    if (told := words_for(error, storage)) is not None:
        print(f"run_search.py: the run failed: {_one_line(told, urls)}", file=sys.stderr)
        return FAILED
    known = type(error).__name__ in ("RunFailed", "TrainingFailed")
    hint = "" if known else f"{type(error).__name__}: "
    print(f"run_search.py: the run failed: {hint}{text}; --debug shows where", file=sys.stderr)
    return FAILED


def _with_flag(text: str, verb: str) -> str:
    """Return a message about a setting with the flag of the verb in the place of the setting's name in Python."""
    words, must, rest = text.partition(" must ")
    (verbs,) = [each for each in parser()._actions if isinstance(each, argparse._SubParsersAction)]
    flags = {each.dest: each.option_strings[-1] for each in verbs.choices[verb]._actions if each.option_strings}
    flag = flags.get(words.replace(" ", "_"))
    return f"{flag}{must}{rest}" if must and flag is not None else text


def _one_line(text: str, urls: Sequence[str] = ()) -> str:
    """Return a message in one line, without passwords, and without signs that would move the terminal's cursor."""
    text = " ".join(hidden(text, urls).split())
    if len(text) > MOST_LETTERS:
        text = f"{text[: MOST_LETTERS * 3 // 4]} ... {text[-MOST_LETTERS // 4 :]}"
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
