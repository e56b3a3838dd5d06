"""Remove each block of an architecture in turn: which of them pay?"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from nas.verbs.common import DONE, end_on_sigterm, open_study, say


def add(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the verb and its flags."""
    parser = verbs.add_parser("explain", parents=[common], help="remove each block in turn: which of them pay?")
    parser.add_argument("--trial", type=int, metavar="N", help="number of the trial (default: the recommended one)")
    parser.add_argument(
        "--seeds", type=int, default=3, metavar="N", help="further trainings of all that is compared (default: 3)"
    )
    parser.add_argument(
        "--device", default="auto", metavar="NAME", help="cuda, cuda:1, mps or cpu (default: as in the search)"
    )
    parser.add_argument("--latency-device", metavar="NAME", help="device that is timed (default: as in the search)")
    parser.add_argument("--data", metavar="DIR", help="where the data lie now (default: where the search had them)")
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="where the backbone's weights lie now (default: where the search had them)",
    )


def run(arguments: argparse.Namespace) -> int:
    from nas import explain

    fields = {field.name for field in dataclasses.fields(explain.Settings)}
    settings = explain.Settings(**{name: value for name, value in vars(arguments).items() if name in fields})
    end_on_sigterm()
    study = open_study(arguments)
    print(explain.explain(study, settings, Path(arguments.studies) / study.name, on_event=say))
    study.close()
    return DONE
