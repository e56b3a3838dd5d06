"""Check that studies are sound, and mend what is not."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from nas.verbs.common import DONE, say, storage_url

if TYPE_CHECKING:
    from nas.doctor import Chart

UNSOUND = 1
"""Exit status if something is wrong."""


def add(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the verb and its flags."""
    parser = verbs.add_parser("doctor", parents=[common], help="check that studies are sound, and mend what is not")
    parser.add_argument("--repair", action="store_true", help="mend what can be mended (default: only say)")
    parser.add_argument(
        "--quick", action="store_true", help="do not build the recommended network, which takes torch and some seconds"
    )


def run(arguments: argparse.Namespace) -> int:
    from nas import doctor

    url, build = storage_url(arguments), not arguments.quick
    charts = doctor.examine(url, arguments.studies, arguments.study, build=build)
    if arguments.repair and not all(chart.is_sound for chart in charts):
        for words in doctor.treat(url, arguments.studies, charts):
            say(f"repair: {words}")
        charts = doctor.examine(url, arguments.studies, arguments.study, build=build)
    for chart in charts:
        print(chart.subject)
        for finding in chart.findings:
            cure = f"; {'--repair: ' if finding.is_mendable else ''}{finding.cure}" if finding.cure else ""
            print(f"  {'sound' if finding.is_sound else 'WRONG'}  {finding.check}: {finding.words}{cure}")
    return _conclude(arguments, charts)


def _conclude(arguments: argparse.Namespace, charts: list[Chart]) -> int:
    """Say in a last line whether all is sound and, if not, what to do; return the exit status."""
    from nas.command import naming

    wrong = [finding for chart in charts for finding in chart.findings if not finding.is_sound]
    if not wrong:
        print("sound")
        return DONE
    count = f"{len(wrong)} {'thing is' if len(wrong) == 1 else 'things are'} wrong"
    if not arguments.repair and any(finding.is_mendable for finding in wrong):
        words = naming(arguments.study or "", arguments.studies, is_elsewhere=bool(arguments.storage))
        flags = words if arguments.study else words.removeprefix("--study ''").strip()
        command = " ".join(filter(None, ("python run_search.py doctor", flags, "--repair")))
        print(f"{count}; what can be repaired is by: {command}")
    else:
        print(f"{count}, and no command repairs it: {wrong[0].cure}")
    return UNSOUND
