"""Show a database's studies in optuna-dashboard."""

from __future__ import annotations

import argparse
from typing import Any

from nas.verbs.common import DONE, open_study


def add(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the verb and its flags."""
    parser = verbs.add_parser("dashboard", parents=[common], help="open the studies in optuna-dashboard on 127.0.0.1")
    parser.add_argument("--port", type=int, default=8080, help="TCP port (default: 8080)")


def run(arguments: argparse.Namespace) -> int:
    from nas import dashboard

    study = open_study(arguments)
    print(f"{dashboard.address(study, arguments.port)} (Ctrl-C ends it)", flush=True)
    dashboard.serve(study, arguments.port)
    return DONE
