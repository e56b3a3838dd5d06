"""The drop-one check: each block of an architecture is removed in turn, and what is left is trained and timed.

What is left joins the study as a trial, under the study's own protocol; what the study knows is not trained again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nas import ablation, files
from nas.ablation import Ablation
from nas.answer import accuracy_text, ratio_text, recommend
from nas.architecture import Architecture, Placement
from nas.evaluation import EvaluationError
from nas.facts import epochs_words, latency_words
from nas.front import Row, at_least_one, most_accurate, pick
from nas.removal import IDLE
from nas.reopen import Place, Reopened, reopen
from nas.run import kept_up, write_files
from nas.seeds import further_seeds
from nas.study import Study, attempt, join

if TYPE_CHECKING:
    from nas.evaluation import Evaluation
    from nas.seeds import Replicate
    from nas.space import ResolvedSpace


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a check is asked for."""

    trial: int | None = None
    """Number of the finished trial to check; None for the recommended one."""
    seeds: int = 3
    """Further seeds with which the architecture, and what is left of it, is trained."""
    device: str = "auto"
    """What trains: ``auto``, ``cuda``, ``cuda:1``, ``mps`` or ``cpu``."""
    latency_device: str | None = None
    """What is timed, if it is not what trains."""
    data: str | None = None
    """Where the data lie now, if no longer where the search had them."""
    checkpoint: str | None = None
    """Where the file with the backbone's weights lies now, if no longer where the search had it."""

    @property
    def place(self) -> Place:
        """Where the study's things are now."""
        return Place(device=self.device, latency_device=self.latency_device, data=self.data, checkpoint=self.checkpoint)


def explain(
    study: Study, settings: Settings, folder: str | Path, *, on_event: Callable[[str], None] | None = None
) -> str:
    """Check which blocks of an architecture pay, and write ``explain-N.md`` and ``explain-N.csv``.

    What was evaluated is in the study: a check that was interrupted goes on where it was. The study's other files are
    written again, as trials have joined it.

    Args:
        study: The study.
        settings: What is asked for.
        folder: Where the files are written: the study's own, beside which a warm start lies.
        on_event: Called with a line about each step.

    Returns:
        The report, as Markdown.

    Raises:
        ValueError: If the trial has not finished or has no block, the settings are out of range, the study's data,
            weights, device or libraries are not to be had as they were, or the folder cannot be written.
        EvaluationError: If nothing that is left without a block could be evaluated.
    """
    say = on_event or (lambda _: None)
    row = chosen(study.rows(), settings.trial)
    further_seeds(study.protocol, settings.seeds)  # so that a wrong number is found before anything is loaded
    files.check_folder(folder)
    folder = Path(folder)
    reopened = reopen(study, settings.place, folder, on_event=say)
    return check(study, reopened, row.trial, seeds=settings.seeds, folder=folder, say=say)


def chosen(rows: Sequence[Row], trial: int | None) -> Row:
    """Return the row to check.

    Raises:
        ValueError: If it has not finished, or has no block to remove.
    """
    rows = at_least_one(rows)
    row = recommend(rows).row if trial is None else pick(rows, f"trial:{trial}")
    if not row.architecture.placements:
        found = f"trial {row.trial} is the bare backbone and has no block to remove"
        found += ", and it is what the study recommends" if trial is None else ""
        other = min((each for each in rows if each.architecture.placements), key=most_accurate, default=None)
        such = "" if other is None else f", such as --trial {other.trial}, the most accurate"
        raise ValueError(f"{found}; name a trial that has some with --trial N{such}")
    return row


def check(study: Study, reopened: Reopened, trial: int, *, seeds: int, folder: Path, say: Callable[[str], None]) -> str:
    """Do what :func:`explain` does, once all is there that evaluates."""
    work = Check(
        study=study,
        evaluate=reopened.evaluator,
        train=reopened.replicator,
        space=reopened.space,
        seeds=tuple(further_seeds(study.protocol, seeds)),
        say=say,
    )
    keep_up = kept_up(study, folder)
    try:
        found = work(trial, keep_up)
    except BaseException:
        with suppress(Exception):  # what went wrong is told, not what went wrong because of it
            keep_up(now=True)
        raise
    title = f"Which blocks of trial {trial} of {study.name} pay?"
    text = ablation.report(found, title=title, facts=_facts(study, found, work.failures))
    files.replace(folder / f"explain-{trial}.md", text.encode())
    files.replace(folder / f"explain-{trial}.csv", ablation.csv_text(found).encode())
    write_files(study, folder)  # last: the report holds what was found
    return f"{text}\nwrote {folder / f'explain-{trial}'}.md and .csv"


@dataclass(frozen=True, kw_only=True)
class Check:
    """Evaluates an architecture without each of its blocks, and without all that do not pay."""

    study: Study
    """The study, which what is evaluated joins."""
    evaluate: Callable[[Architecture], Evaluation]
    """Measures an architecture, as :func:`nas.study.run` takes it."""
    train: Callable[[Architecture, int], Replicate]
    """Trains an architecture with a seed, or finds that in the store."""
    space: ResolvedSpace
    """The space that the study is bound to."""
    seeds: tuple[int, ...] = ()
    """Seeds with which all that is compared is trained again."""
    say: Callable[[str], None] = lambda _: None
    """Called with a line about each step."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why architectures could not be evaluated, by their id."""
    failures: list[str] = field(default_factory=list)
    """What could not be trained again, and why."""

    def __call__(self, trial: int, on_step: Callable[[], None] = lambda: None) -> Ablation:
        """Check a finished trial.

        Args:
            trial: Its number.
            on_step: Called after each evaluation and each training.

        Raises:
            EvaluationError: If nothing that is left without a block could be evaluated.
        """
        full = pick(self.study.rows(), f"trial:{trial}").architecture
        left = [ablation.without(full, [placement]) for placement in full.placements]
        self._evaluate(full, left, trial, on_step)
        if all(each.id in self.reasons for each in left):
            raise EvaluationError(f"trial {trial} cannot be checked: {self.reasons[left[0].id]}")
        self._train([full, *left], on_step)
        removed: list[Placement] = []
        while True:
            rows = {row.architecture.id: row for row in self.study.rows()}
            found = ablation.compare(rows[full.id], rows, self.reasons, removed=removed)
            idle = [drop.placement for drop in found.having(IDLE)]
            if idle == removed:
                return found
            # What is evaluated now tells more of the noise, too, after which others may be idle. That ends, as there
            # are so many subsets of the blocks at most.
            removed = idle
            pruned = ablation.without(full, removed)
            if pruned.id not in {each.id for each in (full, *left)}:
                self._evaluate(full, [pruned], trial, on_step)
                self._train([pruned], on_step)

    def _evaluate(
        self, full: Architecture, left: Sequence[Architecture], trial: int, on_step: Callable[[], None]
    ) -> None:
        """Let all that is left of an architecture join the study, one after the other."""
        for number, architecture in enumerate(left, 1):
            kept = set(architecture.placements)
            gone = [ablation.name_of(placement) for placement in full.placements if placement not in kept]
            name = f"{number}/{len(left)} without {', '.join(gone)}"
            reason = join(
                self.study,
                self.evaluate,
                architecture,
                space=self.space,
                explains=trial,
                on_wait=partial(self._tell_of_wait, name),
            )
            if reason:
                self.reasons[architecture.id] = reason
                self.say(f"{name}: {reason}")
            else:
                row = next(row for row in self.study.rows() if row.architecture.id == architecture.id)
                self.say(f"{name}: trial {row.trial}, {accuracy_text(row)} % at {ratio_text(row)}")
            on_step()

    def _tell_of_wait(self, name: str, trial: int) -> None:
        self.say(f"{name}: another process evaluates it in trial {trial}, which is waited for")

    def _train(self, architectures: Sequence[Architecture], on_step: Callable[[], None]) -> None:
        """Train what could be evaluated with all the seeds that it lacks, seed by seed."""
        known = {(each.architecture, each.seed) for found in self.study.replicates().values() for each in found}
        jobs = [
            (architecture, seed)
            for seed in self.seeds
            for architecture in architectures
            if architecture.id not in self.reasons and (architecture.id, seed) not in known
        ]
        for number, (architecture, seed) in enumerate(jobs, 1):
            self.study.check_database()
            name = f"{architecture.describe()} with seed {seed}"
            replicate = attempt(self.study, self.train, architecture, seed)
            if isinstance(replicate, str):
                self.failures.append(f"{name}: {replicate}")
                self.say(f"{number}/{len(jobs)} {self.failures[-1]}")
            else:
                self.say(f"{number}/{len(jobs)} {name}: {replicate.accuracy:.1%}, {replicate.train_seconds:.1f} s")
            on_step()


def _facts(study: Study, found: Ablation, failures: Sequence[str]) -> dict[str, str]:
    protocol, noise, full = study.protocol, study.seed_noise(), found.full
    compared = [full, *(drop.difference.other for drop in found.drops if drop.difference is not None)]
    compared += [found.pruned.other] if found.pruned is not None else []
    trainings = {row.trial: row.seeds for row in compared}
    joined = study.joined(full.trial)
    at_once = f" for all {found.comparisons} comparisons at once" if found.comparisons > 1 else ""
    facts = {
        "The study recommends": recommend(study.rows()).sentence,
        "Training": f"{epochs_words(protocol)}, as in the search; trainings of each: "
        + ", ".join(f"trial {trial} {count}" for trial, count in trainings.items()),
        "±": f"95 %{at_once}; of the accuracy, that of the choice of validation "
        "images and of the training seeds; of the ratio to the bare backbone's latency, that of the clock",
        "First training": f"that of trial {full.trial} may be lucky, as the trial was picked; further seeds (--seeds) "
        "outweigh it",
        "Timing": latency_words(protocol),
    }
    if joined:
        numbers = f"trial{'s' if len(joined) > 1 else ''} {', '.join(map(str, joined))}"
        facts["Joined the study"] = f"{numbers}; the budget of a search does not pay for what joins like this"
    if any(row.unstable for row in compared):
        facts["?"] = "the machine was too busy to time it well"
    if noise is not None:
        facts["Seed noise"] = noise.describe()
    if failures:
        facts["Not trained again"] = "; ".join(failures)
    return facts
