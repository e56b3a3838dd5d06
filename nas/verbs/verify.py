"""Train some of a study's architectures fully: can its proxy be trusted?"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from nas.verbs.common import DONE, end_on_sigterm, open_study, say


def add(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the verb and its flags."""
    parser = verbs.add_parser("verify", parents=[common], help="train some fully: can it be trusted?")
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


def run(arguments: argparse.Namespace) -> int:
    from nas import verify
    from nas.run import write_files

    fields = {field.name for field in dataclasses.fields(verify.Settings)}
    settings = verify.Settings(**{name: value for name, value in vars(arguments).items() if name in fields})
    end_on_sigterm()
    study = open_study(arguments)
    folder = Path(arguments.studies) / study.name
    report = verify.verify(study, settings, folder, on_event=say)
    write_files(study, folder)  # the report holds what was found
    study.close()
    print(f"{report}\nwrote {folder / 'verify.md'} and verify.csv")
    return DONE
