"""A process of a measured run: it searches with a toy evaluation and says when it had the lock, or is the dashboard.

    python hand.py work URL STUDY BUDGET SECONDS SAMPLER FOLDER NUMBER
    python hand.py dashboard URL STUDY FOLDER PORT

In the folder it leaves ``ready-NUMBER``, waits for ``go``, and leaves ``done-NUMBER.json``: a list of how it had the
study's lock, each ``[what for, asked, had, let go, computed]``: the first three by a clock that all processes of the
machine share, the last the CPU time of this process while it had the lock, all in seconds.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "study"))

import toy

from nas.architecture import Architecture
from nas.evaluation import Evaluation
from nas.space import ResolvedSpace
from nas.study import Study, loop, run

BLOCKS = ("se", "eca", "cbam", "simam", "gc")


def the_space() -> ResolvedSpace:
    """Return a space of 468,000 architectures."""
    return toy.space(blocks=BLOCKS)


def create(url: str, name: str) -> Study:
    """Return the study, new or resumed."""
    return Study.create(name, url, space=the_space(), protocol=toy.PROTOCOL)


def watched(study: Study) -> list[tuple[str, float, float, float, float]]:
    """Have a study note when it has its lock, and what for. Returns what it notes."""
    notes: list[tuple[str, float, float, float, float]] = []
    lock, begin = study.lock, loop._next
    label = "tell"

    @contextmanager
    def noted(inner: AbstractContextManager[Any]) -> Iterator[Any]:
        asked = time.monotonic()
        with inner as held:
            had, computed = time.monotonic(), time.thread_time()
            yield held
            gone, computed = time.monotonic(), time.thread_time() - computed
        notes.append((label, asked, had, gone, computed))

    def claim(*arguments: Any, **named: Any) -> Any:
        nonlocal label
        label = "claim"
        try:
            return begin(*arguments, **named)
        finally:
            label = "tell"

    study.lock = lambda: noted(lock())  # type: ignore[method-assign]
    loop._next = claim
    return notes


def work(url: str, name: str, budget: int, seconds: float, sampler: str, folder: Path, number: str) -> None:
    # What is imported when it is needed first, before anything is timed.
    import nas.study.encoding
    import nas.study.gain  # noqa: F401

    study, space = create(url, name), the_space()
    notes = watched(study)

    def evaluate(architecture: Architecture) -> Evaluation:
        time.sleep(seconds)
        return toy.evaluate(architecture)

    (folder / f"ready-{number}").touch()
    while not (folder / "go").exists():
        time.sleep(0.005)
    run(study, evaluate, space=space, budget=budget, sampler=sampler)
    (folder / f"done-{number}.json").write_text(json.dumps(notes))
    study.close()


def dashboard(url: str, name: str, folder: Path, port: int) -> None:
    from nas.dashboard import serve

    study = Study.open(name, url)
    serve(study, folder, port, flags=lambda name: f"--study {name}", on_start=lambda _: (folder / "serving").touch())


def main() -> None:
    what, url, name, *rest = sys.argv[1:]
    if what == "work":
        budget, seconds, sampler, folder, number = rest
        work(url, name, int(budget), float(seconds), sampler, Path(folder), number)
    else:
        folder, port = rest
        dashboard(url, name, Path(folder), int(port))


if __name__ == "__main__":
    main()
