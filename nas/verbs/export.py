"""Write the config of an architecture that a study found."""

from __future__ import annotations

import argparse
from typing import Any

from nas.verbs.common import DONE, open_study


def add(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the verb and its flags."""
    parser = verbs.add_parser("export", parents=[common], help="write the config of an architecture")
    parser.add_argument(
        "--pick",
        metavar="HOW",
        help='knee, accuracy, fastest, trial:N, "latency<=X" in ms or "slowdown<=P%%" (default: the recommended)',
    )
    parser.add_argument("--out", metavar="FILE", default="best.json", help="file to write (default: best.json)")


def run(arguments: argparse.Namespace) -> int:
    from nas import export
    from nas.answer import recommend
    from nas.front import pick

    study = open_study(arguments)
    rows = study.rows()
    if not rows:
        raise ValueError(f"study {study.name!r} has no finished trial yet")
    row = pick(rows, arguments.pick) if arguments.pick is not None else recommend(rows).row
    export.write(export.config(study, row), arguments.out)
    study.close()
    print(f"wrote {arguments.out}: trial {row.trial}, {row.architecture.describe()}")
    print(f'build it: python -c "import nas; model = nas.load({arguments.out!r})"')
    return DONE
