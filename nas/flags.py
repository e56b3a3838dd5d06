"""The flags of the command line, verb by verb. Every flag says its unit and its default."""

from __future__ import annotations

import argparse
import ast
from typing import Any, NoReturn

import nas
from nas import search_flags
from nas.protocol import PRECISIONS

WRONG_USE = 2
"""Exit status of wrong use and bad input."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage of thirty flags in front of it."""

    def error(self, message: str) -> NoReturn:
        verb = "" if " " in self.prog or "verb" in message else " search"  # whose flags may stand without it
        self.exit(WRONG_USE, f"{self.prog}: {message}; {self.prog}{verb} --help lists what there is\n")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    whole = Parser(
        prog="run_search.py",
        description="Which attention block, with which options, on which stages of a backbone - and at what latency?",
        epilog="Without a verb it searches: run_search.py --budget 50. run_search.py search --help lists the flags.",
    )
    whole.add_argument("--version", action="version", version=f"%(prog)s {nas.__version__}")
    verbs = whole.add_subparsers(dest="verb", metavar="verb", required=True, parser_class=Parser)
    plain = Parser(add_help=False)
    plain.add_argument("--debug", action="store_true", help="show the traceback of an error")
    common = Parser(add_help=False, parents=[plain])
    common.add_argument(
        "--studies", metavar="DIR", default="studies", help="folder where studies land (default: studies)"
    )
    common.add_argument("--storage", metavar="URL", help="database (default: sqlite:///DIR/studies.db)")
    common.add_argument("--study", metavar="NAME", help="name of the study; the same name resumes it")
    search_flags.add(verbs.add_parser("search", parents=[common], help="search (the default)"))
    export = verbs.add_parser("export", parents=[common], help="write the config of an architecture")
    export.add_argument(
        "--pick",
        metavar="HOW",
        help='knee, accuracy, fastest, trial:N, "latency<=X" in ms or "slowdown<=P%%" (default: the recommended)',
    )
    export.add_argument("--out", metavar="FILE", default="best.json", help="file to write (default: best.json)")
    board = verbs.add_parser("dashboard", parents=[common], help="open the studies in optuna-dashboard on 127.0.0.1")
    board.add_argument("--port", type=int, default=8080, help="TCP port (default: 8080)")
    blocks = verbs.add_parser("blocks", parents=[plain], help="list the blocks, or show all that is known of one")
    blocks.add_argument("name", nargs="?", metavar="NAME", help="one block (default: all)")
    blocks.add_argument(
        "--channels", type=int, default=64, metavar="C", help="channels of the map for values and counts (default: 64)"
    )
    blocks.add_argument(
        "--map", type=int, default=14, metavar="PIXELS", help="height and width of the map, in pixels (default: 14)"
    )
    _verify_flags(verbs.add_parser("verify", parents=[common], help="train some fully: can it be trusted?"))
    _retime_flags(verbs.add_parser("retime", parents=[common], help="time the front on this device: does it hold?"))
    _costs_flags(verbs.add_parser("costs", parents=[plain], help="measure what each block adds at each stage"))
    backbones = verbs.add_parser(
        "backbones", parents=[plain], help="list timm's backbones, and where each can hold blocks"
    )
    backbones.add_argument(
        "pattern",
        nargs="?",
        metavar="PATTERN",
        help='name, or pattern such as "*resnet18*" (default: only the families)',
    )
    return whole


def _verify_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--top", type=int, default=5, metavar="N", help="members of the front to train, the most accurate (default: 5)"
    )
    parser.add_argument(
        "--others", type=int, default=5, metavar="N", help="dominated architectures to train (default: 5)"
    )
    parser.add_argument(
        "--epochs", type=int, metavar="N", help="epochs of a full training (default: 5 times those of the search)"
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="trainings of each (default: 3)")
    parser.add_argument(
        "--device", default="auto", metavar="NAME", help="auto, cuda, cuda:1, mps or cpu (default: auto)"
    )
    parser.add_argument("--data", metavar="DIR", help="where the data lie now (default: where the search had them)")


def _retime_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--everything", action="store_true", help="time all finished trials (default: the front and the controls)"
    )
    parser.add_argument(
        "--device", default="auto", metavar="NAME", help="auto, cuda, cuda:1, mps or cpu (default: auto)"
    )
    parser.add_argument(
        "--runtime", default="eager", metavar="NAME", help="eager, compile or onnxruntime (default: eager)"
    )
    parser.add_argument(
        "--latency-batch",
        dest="latency_batch_size",
        type=int,
        metavar="N",
        help="images in one timed pass (default: as in the study)",
    )
    parser.add_argument(
        "--latency-resolution", type=int, metavar="PIXELS", help="height and width (default: as in the study)"
    )
    parser.add_argument(
        "--latency-precision", choices=PRECISIONS, default="float32", help="of what is timed (default: float32)"
    )
    parser.add_argument(
        "--latency-seconds", type=float, metavar="S", help="longest sampling of one latency (default: as in the study)"
    )


def _costs_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backbone", metavar="NAME", required=True, help="timm model")
    parser.add_argument(
        "--resolution", type=int, required=True, metavar="PIXELS", help="height and width of the images, in pixels"
    )
    parser.add_argument("--blocks", metavar="A,B,...", help="names of blocks (default: all)")
    parser.add_argument(
        "--device", default="auto", metavar="NAME", help="auto, cuda, cuda:1, mps or cpu (default: auto)"
    )
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="images in one pass (default: 1)")
    parser.add_argument("--precision", default="float32", metavar="NAME", help="float32 or bfloat16 (default: float32)")
    parser.add_argument(
        "--budget-seconds",
        type=float,
        default=40.0,
        metavar="S",
        help="sampling of the whole table, in seconds; slow cells still get six samples each (default: 40)",
    )
    parser.add_argument("--out", metavar="DIR", help="folder to write (default: studies/costs/BACKBONE-RESOLUTION...)")


def model_kwargs(words: list[str]) -> dict[str, Any]:
    """Read arguments for a model from words such as ``drop_path_rate=0.1``; what is no Python literal is text.

    Raises:
        ValueError: On a word without a name or a value, and on a name that comes twice.
    """
    found: dict[str, Any] = {}
    for word in words:
        name, sign, text = word.partition("=")
        if not sign or not name.isidentifier():
            raise ValueError(f"--model-kwargs takes NAME=VALUE, such as drop_path_rate=0.1, but got {word!r}")
        if name in found:
            raise ValueError(f"--model-kwargs has {name} twice")
        try:
            found[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            found[name] = text
    return found


def names(text: str) -> list[str]:
    """Return the words of a list with commas between them."""
    return [word.strip() for word in text.split(",")]
