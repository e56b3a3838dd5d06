"""Check that an exported folder is what it was, and repeat its proof."""

from __future__ import annotations

import argparse
from typing import Any

from nas.verbs.common import DONE, end_on_sigterm, say

INCOMPLETE = 3
"""Exit status if nothing wrong was found, but not every file could be compared."""


def add(verbs: Any, plain: argparse.ArgumentParser) -> None:
    """Add the verb and its flags."""
    parser = verbs.add_parser("check", parents=[plain], help="repeat the proof of an exported folder")
    parser.add_argument("folder", metavar="DIR", help="folder that `export --out DIR` has written")
    parser.add_argument(
        "--trust",
        action="store_true",
        help="execute model.py even if another version of this program has written it, so that its text cannot be "
        "compared: it is code",
    )
    parser.add_argument(
        "--latency-seconds",
        type=float,
        default=2.0,
        metavar="S",
        help="longest timing of model.py beside the original, in seconds; 0 for none (default: 2)",
    )


def run(arguments: argparse.Namespace) -> int:
    from nas.export import folder, page

    end_on_sigterm()
    checked = folder.check(arguments.folder, seconds=arguments.latency_seconds, trust=arguments.trust)
    for note in checked.notes:
        say(f"note: {note}")
    architecture = checked.architecture
    print(f"{arguments.folder}: {architecture.id}, {architecture.backbone}, {architecture.describe()}\n")
    print(page.text(checked.figures))
    if left_out := page.left_out(checked.figures):
        print(f"\nevery file is what it was when it was exported, but not all were compared: {'; '.join(left_out)}")
        return INCOMPLETE
    print("\nevery file is what it was when it was exported, and they are one network")
    return DONE
