"""List the blocks of the zoo, or show all that is known of one."""

from __future__ import annotations

import argparse
from typing import Any

from nas.verbs.common import DONE


def add(verbs: Any, plain: argparse.ArgumentParser) -> None:
    """Add the verb and its flags."""
    parser = verbs.add_parser("blocks", parents=[plain], help="list the blocks, or show all that is known of one")
    parser.add_argument("name", nargs="?", metavar="NAME", help="one block (default: all)")
    parser.add_argument(
        "--channels", type=int, default=64, metavar="C", help="channels of the map for values and counts (default: 64)"
    )
    parser.add_argument(
        "--map", type=int, default=14, metavar="PIXELS", help="height and width of the map, in pixels (default: 14)"
    )


def run(arguments: argparse.Namespace) -> int:
    from nas import catalogue

    size = (arguments.channels, arguments.map)
    print(catalogue.listing(*size) if arguments.name is None else catalogue.entry(arguments.name, *size))
    return DONE
