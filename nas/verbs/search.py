"""Search, and print the answer."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas import flags, search_flags
from nas.verbs.common import DONE, INTERRUPTED, Stopping

if TYPE_CHECKING:
    from nas.run import Result
    from nas.settings import Settings
    from nas.study import Confirmation, Study


def add(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the verb and its flags."""
    search_flags.add(verbs.add_parser("search", parents=[common], help="search (the default)"))


def run(arguments: argparse.Namespace) -> int:
    from nas.bar import Progress
    from nas.run import search
    from nas.settings import Settings

    fields = {field.name for field in dataclasses.fields(Settings)}
    given = {name: value for name, value in vars(arguments).items() if name in fields}
    given["model_kwargs"] = flags.model_kwargs(arguments.model_kwargs)
    given["positions"] = None if arguments.positions is None else tuple(flags.names(arguments.positions))
    settings = Settings(**given)
    progress = Progress(settings.budget)
    with Stopping() as stop:

        def on_start(study: Study) -> None:
            progress.start(study)
            stop.begin()

        try:
            result = search(
                settings,
                on_event=progress.say,
                on_start=on_start,
                on_trial=progress.update,
                on_replicate=progress.replicate,
                stop=stop,
            )
        finally:
            progress.close()
        _print_end(result, settings.budget)
        if result.study.rows() or not result.interrupted:
            _print_answer(result.study, settings.folder)
            _print_confirmation(result.confirmation, settings.confirm)
            _print_next(result.study, settings)
    result.study.close()
    return INTERRUPTED if result.interrupted else DONE


def _print_end(result: Result, budget: int) -> None:
    """Say how the run ended, where that is not just that its budget is spent."""
    study, outcome = result.study, result.outcome
    if outcome.interrupted:
        print(f"stopped after {study.tally().spent:.4g} of {budget} trainings; the same command goes on")
    elif result.interrupted:
        print("stopped before all further seeds were trained; the same command goes on")
    if outcome.stopped:
        print(f"{outcome.stopped} trainings were stopped early; the budget counts the epochs that they had")
    if outcome.exhausted:
        print(f"every architecture of the space was tried: {outcome.finished} finished")
    if outcome.stalled:
        count = int(study.since_gain())
        print(
            f"the run ends early: the front has not moved beyond noise for {count} training{'s' if count > 1 else ''}"
        )
    if outcome.too_costly:
        print(f"the run ends with {outcome.finished} finished: too many in a row were beyond the limits")


def _print_next(study: Study, settings: Settings) -> None:
    from nas.answer import recommend
    from nas.command import naming

    same = naming(study.name, settings.studies, is_elsewhere=settings.storage is not None)
    print(f"\nnext:\n  open {settings.folder / 'report.html'}")
    print(f"  python run_search.py dashboard {same}")
    if recommend(study.rows()).row.architecture.placements:
        print(f"  python run_search.py explain {same}")
    print(f"  python run_search.py export {same} --out best")
    print(f"  python run_search.py verify {same}")


def _print_answer(study: Study, folder: Path) -> None:
    from nas.answer import front_table, recommend
    from nas.confirm import with_probabilities

    rows = with_probabilities(study.rows())
    print(f"\n{front_table(rows)}\n")
    for number, reason in study.failures():
        print(f"trial {number} failed: {reason}")
    if rejected := study.rejected():
        nearest = min(rejected, key=lambda each: each.excess)
        words = f"trial {nearest.trial} ({nearest.architecture.describe()}) with {nearest.reason}"
        print(f"{len(rejected)} beyond the limits, not trained; the nearest miss: {words}")
    print(recommend(rows).sentence)
    if (noise := study.seed_noise()) is not None:
        print(f"Seed noise: {noise.describe()}.")


def _print_confirmation(confirmation: Confirmation, further: int) -> None:
    if further:
        members = f"{confirmation.confirmed} of the front's {confirmation.members} members"
        print(f"Confirmed with {further} further seeds each: {members}.")
    for failure in confirmation.failures:
        print(f"not trained again: {failure}")
