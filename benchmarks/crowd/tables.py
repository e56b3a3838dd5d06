"""The tables of benchmarks/scaling.py, as Markdown."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from crowd.parts import POSTGRESQL, READ_THRICE
from crowd.simulation import Crowd, Outcome, Parts, saturating_workers, simulate

RANDOM = ((1, 0.0003),)
"""What a draw takes, whatever the study holds."""
BUSY = 0.9
"""A part that is busier than that is taken to be what the workers wait for."""
ALLOWED = 97
"""Connections that a PostgreSQL server allows unless it is told otherwise: 100, less three for its administrator."""


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table, each row as it comes."""
    print(f"| {' | '.join(head)} |")
    print(f"|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def measured(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table of measured rows: medians over the repeats, and ratios within one repeat."""
    keys = ("sampler", "trial_seconds", "database", "workers")
    rows = [{**row, "repeat": repeat_of(rows, number)} for number, row in enumerate(rows)]
    table = []
    for key in dict.fromkeys(tuple(row[name] for name in keys) for row in rows):
        runs = [row for row in rows if tuple(row[name] for name in keys) == key]
        ratios = []
        for run in runs:
            like = [
                row
                for row in rows
                if (row["database"], row["workers"]) == ("sqlite", 1)
                and all(row[name] == run[name] for name in ("sampler", "trial_seconds", "repeat"))
            ]
            ratios += [row["seconds"] / run["seconds"] for row in like]
        lock = statistics.median(statistics.median(run["claims"]) + statistics.median(run["tells"]) for run in runs)
        cells = [
            *(f"{each:g}" if isinstance(each, float) else str(each) for each in key),
            f"{statistics.median(run['trials'] / run['seconds'] for run in runs):.1f}",
            f"{statistics.median(ratios):.2f}" if ratios else "",
            f"{1000 * lock:.0f}",
            f"{1000 * statistics.median(run['computed'] for run in runs):.0f}",
            str(min(run["fewest"] for run in runs)),
            str(sum(len(run["errors"]) for run in runs)),
        ]
        table.append(cells)
    names = "sampler, s/trial, database, processes, trials/s, of 1 on SQLite, lock ms, CPU ms, fewest, errors"
    print_table(names.split(", "), table)
    asked = sum(row["asked"] for row in rows)
    loads = sorted({row["load"] for row in rows}, key=lambda words: float(words.split()[1]))
    print(f"{len(rows)} runs, {asked} requests to the dashboard; {loads[0]} to {loads[-1]}")


def repeat_of(rows: Sequence[dict[str, Any]], number: int) -> int:
    """Return how many rows of the same kind there are before one: what was measured at about the same time."""
    keys = ("sampler", "trial_seconds", "database", "workers")
    return sum(all(row[key] == rows[number][key] for key in keys) for row in rows[:number])


def crowd(parts: Parts, workers: Sequence[int], lengths: Sequence[float], *, known: int, seed: int) -> None:
    """Print who waits for what, in a study of so many trials."""

    def rows() -> Iterable[Sequence[str]]:
        for seconds in lengths:
            formula = saturating_workers(parts, seconds, known=known)
            for count in workers:
                outcome = simulate(parts, steady(count, seconds, known=known, seed=seed))
                yield (
                    f"{seconds:g}",
                    str(count),
                    f"{outcome.per_second:.2f}",
                    f"{outcome.efficiency:.0%}",
                    *(f"{outcome.shares[part]:.0%}" for part in ("lock", "database")),
                    first(outcome),
                    f"{formula:,.0f}",
                    f"{outcome.ramp_seconds:,.0f}",
                )

    names = "s/trial, workers, trials/s, training, lock, database, saturated, 1 + T/s, all begun after s"
    print_table(names.split(", "), rows())


def steady(workers: int, seconds: float, *, known: int, seed: int = 0, **more: Any) -> Crowd:
    """Return a crowd whose study stays as large as it is, for some rounds of trials."""
    trials = (3 * workers + 200) * more.get("batch", 1)
    return Crowd(workers=workers, trial_seconds=seconds, trials=trials, known=known, is_steady=True, seed=seed, **more)


def first(outcome: Outcome) -> str:
    """Return what the workers wait for, if they do; where several connections are too many that comes first of all."""
    found = [outcome.busiest] if outcome.shares[outcome.busiest] > BUSY else []
    return " and ".join([*(["connections"] if outcome.connections > ALLOWED else []), *found]) or "nothing"


def remedies(workers: int, seconds: float, *, seed: int) -> None:
    """Print what changes if something is done, or had not been done."""
    now = dataclasses.replace(POSTGRESQL, connections=0)
    drawn = dataclasses.replace(now, proposal=RANDOM)
    without = dataclasses.replace(READ_THRICE["postgresql"], connections=0, proposal=RANDOM)
    quick = dataclasses.replace(drawn, claim=now.claim / 2, tell=now.tell / 2)
    cases: list[tuple[str, Parts, int, dict[str, Any]]] = [
        ("`random`, all trials in work read three times, as before", without, 1000, {}),
        ("`random`", drawn, 1000, {}),
        ("`random`, half of the statements", quick, 1000, {}),
        ("`additive`, 1,000 trials", now, 1000, {}),
        ("`additive`, 4,000 trials", now, 4000, {}),
        ("`additive`, 4,000 trials, 10 begun at once", now, 4000, {"batch": 10}),
    ]

    def rows() -> Iterable[Sequence[str]]:
        for name, parts, known, more in cases:
            outcome = simulate(parts, steady(workers, seconds, known=known, seed=seed, **more))
            formula = saturating_workers(parts, seconds, known=known)
            share = outcome.shares["lock"]
            yield name, f"{outcome.per_second:.2f}", f"{outcome.efficiency:.0%}", f"{share:.0%}", f"{formula:,.0f}"

    print_table(("what", "trials/s", "training", "lock", "1 + T/s"), rows())


def devices(timing: float, lengths: Sequence[float], shared: Sequence[int], *, seed: int) -> None:
    """Print what is left for training where several workers share a device on which each trial is timed alone."""

    def rows() -> Iterable[Sequence[str]]:
        parts = dataclasses.replace(POSTGRESQL, proposal=RANDOM)
        for seconds in lengths:
            for count in shared:
                more = {"timing_seconds": timing, "per_device": count}
                outcome = simulate(parts, steady(8, seconds, known=1000, seed=seed, **more))
                formula = seconds / (seconds + count * timing)
                yield f"{seconds:g}", str(count), f"{outcome.efficiency:.0%}", f"{formula:.0%}"

    print_table(("s/trial", "workers on a device", "training", "T / (T + K L)"), rows())


def check(rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Print measured rows beside the simulation of them. Returns the worst factors between the two.

    First from what the lock took where there was one process, then from what it took in the same run, which says
    whether the waiting is simulated well on a machine whose processes also wait for its cores.
    """
    worst, table = [1.0, 1.0], []
    keys = ("sampler", "trial_seconds", "database")
    for number, row in enumerate(rows):
        like = [
            each
            for other, each in enumerate(rows)
            if each["workers"] == 1
            and all(each[key] == row[key] for key in keys)
            and repeat_of(rows, other) == repeat_of(rows, number)
        ]
        if not like or row["workers"] == 1:
            continue
        found = row["trials"] / row["seconds"]
        cells = [*(str(row[key]) for key in keys), str(row["workers"]), f"{found:.2f}"]
        for place, source in enumerate((like[0], row)):
            factor = simulate(_parts_of(source), _crowd_of(row)).per_second / found
            worst[place] = max(worst[place], factor, 1 / factor)
            cells += [f"{factor * found:.2f}", f"{factor:.2f}"]
        table.append(cells)
    names = "sampler, s/trial, database, processes, measured/s, from one process, factor, from its own lock, factor"
    print_table(names.split(", "), table)
    print(f"{len(table)} rows: within a factor of {worst[0]:.2f} from one process, {worst[1]:.2f} from their own lock")
    return worst[0], worst[1]


def _parts_of(row: dict[str, Any]) -> Parts:
    claim, tell = statistics.fmean(row["claims"]), statistics.fmean(row["tells"])
    return Parts(claim=claim, tell=tell, keep=max(0.0, row["outside"]))


def _crowd_of(row: dict[str, Any]) -> Crowd:
    # More trials than were measured: the simulation leaves the beginning out.
    trials = max(row["trials"], 50 * row["workers"])
    return Crowd(workers=row["workers"], trial_seconds=row["trial_seconds"], trials=trials, spread=0.0)
