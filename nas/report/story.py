"""What the pages tell of a study, worked out once; needs no plotly."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from nas.answer import Recommendation, recommend
from nas.command import Commands, commands_of
from nas.confirm import with_probabilities
from nas.effects import EffectMap, effects
from nas.facts import facts, protocol_facts
from nas.front import Row, bare_row
from nas.limits import Limits
from nas.picks import Pick, picks

if TYPE_CHECKING:
    from nas.study import Rejected, Stopped, Study

CHECKS = ("verify.md", "retime-*.md", "explain-*.md")
"""What further verbs have written into the study's folder, in the order in which the report shows it."""
Stage = tuple[int, str]
"""Index of a stage, and its name in the backbone."""


@dataclass(frozen=True, kw_only=True)
class Turned:
    """An architecture that was timed, but not trained: it is beyond the limits."""

    rejected: Rejected
    """What it is, and why."""
    latency_ms: float
    """Its latency, in milliseconds."""


@dataclass(frozen=True, kw_only=True)
class Story:
    """All that the pages tell of a study."""

    name: str
    """The study's name."""
    rows: list[Row]
    """The finished trials, with their chance to be on the front."""
    stages: tuple[Stage, ...] = ()
    """Where in the backbone something may stand."""
    blocks: tuple[str, ...] = ()
    """Names of the blocks of the space."""
    limits: Limits = field(default_factory=Limits)
    """What an architecture may cost."""
    curves: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    """Validation accuracy after each epoch, by finished trial."""
    stopped: list[Stopped] = field(default_factory=list)
    """The trainings that were stopped, and not taken up again."""
    turned: list[Turned] = field(default_factory=list)
    """What was turned away."""
    failures: list[tuple[int, str]] = field(default_factory=list)
    """Number and reason of the failed trials."""
    spent: Mapping[int, float] = field(default_factory=dict)
    """Whole trainings up to each trial that was trained, itself among them."""
    gained: int | None = None
    """The last trial by which the front grew beyond noise."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What a reader needs to judge the figures."""
    protocol: Mapping[str, str] = field(default_factory=dict)
    """Everything that could change a figure."""
    commands: Commands = field(default_factory=Commands)
    """The command that repeats the search, if it is known, and those that go on from here."""
    checks: tuple[str, ...] = ()
    """What further verbs have found, as Markdown."""

    @cached_property
    def answer(self) -> Recommendation | None:
        """The recommendation; ``None`` before the first trial."""
        return recommend(self.rows) if self.rows else None

    @cached_property
    def picks(self) -> list[Pick]:
        """What one may want to take; empty before the first trial."""
        return picks(self.rows) if self.rows else []

    @cached_property
    def bare(self) -> Row | None:
        """The bare backbone."""
        return bare_row(self.rows)

    @cached_property
    def effects(self) -> EffectMap | None:
        """What each block does at each stage; ``None`` where no block was trained."""
        found = effects(self.rows) if self.rows else None
        return found if found is not None and found.effects else None


def tell(study: Study, folder: Path | None = None) -> Story:
    """Gather what the pages tell of a study.

    Args:
        study: The study; another process may be working on it.
        folder: The study's folder, where further verbs may have written what they found.
    """
    # Other workers may finish trials meanwhile: what is looked up by a trial's number is read after the trials.
    rows, gained = with_probabilities(study.rows()), study.last_gain()
    return Story(
        name=study.name,
        rows=rows,
        stages=_stages(study, rows),
        blocks=_blocks(study),
        limits=study.limits,
        curves=study.curves(),
        stopped=study.stopped(),
        turned=_turned(study),
        failures=study.failures(),
        spent=study.spent(),
        gained=gained,
        facts=facts(study),
        protocol=protocol_facts(study),
        commands=_commands(study, folder, rows),
        checks=_checks(folder),
    )


def _stages(study: Study, rows: list[Row]) -> tuple[Stage, ...]:
    """Return the stages of the space, and those beside it where a control stands."""
    (stages,) = study.space["backbones"].values()
    names = {int(key.removeprefix("stage")): str(stage["name"]) for key, stage in stages.items()}
    used = {placement.stage for row in rows for placement in row.architecture.placements}
    return tuple((index, names.get(index, "")) for index in sorted({*names, *used}))


def _blocks(study: Study) -> tuple[str, ...]:
    """Return the names of the blocks of a study's space."""
    (stages,) = study.space["backbones"].values()
    offered = [site["blocks"] for stage in stages.values() for site in stage["positions"].values()]
    return tuple(dict.fromkeys(name for blocks in offered for name in blocks))


def _turned(study: Study) -> list[Turned]:
    """Return what was turned away, as far as its latency is kept."""
    costs = [(each, study.store.cost(each.architecture, study.protocol.latency_hash)) for each in study.rejected()]
    return [Turned(rejected=each, latency_ms=cost.latency_ms) for each, cost in costs if cost is not None]


def _checks(folder: Path | None) -> tuple[str, ...]:
    if folder is None:
        return ()
    paths = [path for pattern in CHECKS for path in sorted(folder.glob(pattern))]
    return tuple(path.read_text(encoding="utf-8", errors="replace") for path in paths)


def _commands(study: Study, folder: Path | None, rows: list[Row]) -> Commands:
    """Return the commands for which there is something: no verb removes a block from the bare backbone."""
    studies = str(folder.parent) if folder is not None else "studies"
    is_elsewhere = folder is not None and study.url != f"sqlite:///{folder.parent / 'studies.db'}"
    found = commands_of(study, studies, is_elsewhere=is_elsewhere)
    if not rows:
        return dataclasses.replace(found, verbs=("dashboard",))
    verbs = found.verbs if recommend(rows).row.architecture.placements else tuple(set(found.verbs) - {"explain"})
    return dataclasses.replace(found, verbs=verbs)
