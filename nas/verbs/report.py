"""Write the pages of a study again, and its figures as pictures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nas.verbs.common import DONE, open_study


def add(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the verb and its flags."""
    parser = verbs.add_parser("report", parents=[common], help="write report.html again, and pictures of its figures")
    parser.add_argument(
        "--png", action="store_true", help="also write each figure as a PNG; takes kaleido and Chrome or Chromium"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write report.html, pareto.html, front.csv and best.json of a study."""
    from nas import files, report
    from nas.run import write_files

    study = open_study(arguments)
    folder = Path(arguments.studies) / study.name
    files.check_folder(folder)
    try:
        write_files(study, folder)
    except OSError as error:
        raise ValueError(f"cannot write into {folder}: {error}; --studies names another folder of studies") from error
    print(f"wrote {folder / 'report.html'}, pareto.html and front.csv")
    if arguments.png:
        paths = list(report.write_pictures(report.tell(study, folder), folder / "figures"))
        what = f"wrote {len(paths)} pictures into {folder / 'figures'}"
        print(what if paths else "no trial has finished yet: there is nothing to draw")
    study.close()
    return DONE
