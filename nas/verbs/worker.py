"""Work on a study that a search has made, on this machine or another."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.verbs.common import DONE, INTERRUPTED, Stopping, say, storage_url

if TYPE_CHECKING:
    from nas.study import Study


def add(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the verb and its flags."""
    parser = verbs.add_parser("worker", parents=[common], help="evaluate trials of a study that a search has made")
    parser.add_argument(
        "--device", default="auto", metavar="NAME", help="cuda, cuda:1, mps or cpu (default: as in the search)"
    )
    parser.add_argument("--latency-device", metavar="NAME", help="device that is timed (default: as in the search)")
    parser.add_argument("--data", metavar="DIR", help="where the data lie here (default: where the search had them)")
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="where the backbone's weights lie here (default: where the search had them)",
    )
    parser.add_argument(
        "--budget",
        type=int,
        metavar="N",
        help="work on until so much is spent, were the search to ask for less, or not yet (default: what it asks for)",
    )
    parser.add_argument(
        "--wait",
        type=float,
        default=600.0,
        metavar="S",
        help="seconds to wait for the study, if no search has made it yet (default: 600)",
    )


def run(arguments: argparse.Namespace) -> int:
    from nas import work
    from nas.reopen import Place
    from nas.study import wait_for

    place = Place(
        device=arguments.device,
        latency_device=arguments.latency_device,
        data=arguments.data,
        checkpoint=arguments.checkpoint,
    )
    count = 0
    with Stopping() as stop:
        ask = "--study must name a study"
        study = wait_for(arguments.study, storage_url(arguments), ask=ask, seconds=arguments.wait, say=say)
        folder = Path(arguments.studies) / study.name
        budget = max(work.asked(study, folder).budget, arguments.budget or 0)

        def tell(study: Study) -> None:
            nonlocal count
            count += 1
            say(f"{_trials(count)} here; the study has spent {study.tally().spent:.4g} of {budget}")

        outcome = work.work(
            study, place, folder, budget=budget, on_event=say, on_start=stop.begin, on_trial=tell, stop=stop
        )
        stopped = f", {outcome.stopped} stopped early" if outcome.stopped else ""
        found = f"{study.name} has {outcome.finished} finished{stopped}"
        print(f"{_trials(count)} here; {found}: {work.ending(outcome, budget)}")
        if not outcome.interrupted:
            print("the search, run again, trains with further seeds and draws the pages")
        study.close()
    return INTERRUPTED if outcome.interrupted else DONE


def _trials(count: int) -> str:
    return f"{count} trial{'' if count == 1 else 's'}"
