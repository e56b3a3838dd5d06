"""List the backbones that timm has, and where each can hold blocks."""

from __future__ import annotations

import argparse
from typing import Any

from nas.verbs.common import DONE


def add(verbs: Any, plain: argparse.ArgumentParser) -> None:
    """Add the verb and its flags."""
    parser = verbs.add_parser(
        "backbones", parents=[plain], help="list timm's backbones, and where each can hold blocks"
    )
    parser.add_argument(
        "pattern",
        nargs="?",
        metavar="PATTERN",
        help='name, or pattern such as "*resnet18*" (default: only the families)',
    )


def run(arguments: argparse.Namespace) -> int:
    from nas import backbones

    if arguments.pattern is None:
        print(f"{backbones.families()}\n\nwhere each can hold blocks: run_search.py backbones PATTERN")
        return DONE
    for text in backbones.listing(arguments.pattern):
        print(text, flush=True)
    return DONE
