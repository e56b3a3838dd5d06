"""Show a database's studies in optuna-dashboard."""

from __future__ import annotations

import argparse
from contextlib import suppress
from typing import Any

from nas.verbs.common import DONE, end_on_sigterm, open_study


def add(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the verb and its flags."""
    parser = verbs.add_parser("dashboard", parents=[common], help="open the studies in optuna-dashboard on 127.0.0.1")
    parser.add_argument("--port", type=int, default=8080, help="TCP port (default: 8080)")
    parser.add_argument(
        "--edit",
        action="store_true",
        help="store the study's notes, plots and artifacts in the database and in DIR/_artifacts, and let the page "
        "change notes and artifacts (default: read-only, nothing is stored)",
    )


def run(arguments: argparse.Namespace) -> int:
    from nas import dashboard
    from nas.command import naming

    def flags(name: str) -> str:
        return naming(name, arguments.studies, is_elsewhere=bool(arguments.storage))

    def on_start(page: str) -> None:
        mode = "notes and artifacts may be changed" if arguments.edit else "read-only"
        print(f"{page} ({mode}; Ctrl-C ends it)", flush=True)

    end_on_sigterm()
    study = open_study(arguments)
    with suppress(KeyboardInterrupt):
        dashboard.serve(
            study, arguments.studies, arguments.port, flags=flags, editable=arguments.edit, on_start=on_start
        )
    study.close()
    return DONE
