"""Which blocks of an architecture pay: what it loses, and what it saves, without each of them; as text and as CSV.

Pure functions over rows: needs neither torch nor Optuna.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nas.answer import accuracy_text, ms_text, noise, ratio_text, seed_noise
from nas.architecture import Architecture, Placement
from nas.front import Row
from nas.removal import IDLE, OPEN, PAYS, Removal
from nas.seeds import MOST_SEEDS
from nas.trust import table

FAILED = "not evaluated"
"""Beside the verdicts of :class:`nas.removal.Removal`: there is none."""
_NAME_WIDTH = 22
CSV_COLUMNS = (
    *("trial", "architecture", "removed", "verdict", "accuracy", "seeds", "accuracy_lost", "accuracy_lost_half_width"),
    *("latency_ms", "latency_ratio", "ratio_saved", "ratio_saved_half_width", "reason", "placements"),
)
"""Columns of ``explain-N.csv``: accuracies are 0 to 1, half widths those of 95 % intervals."""


@dataclass(frozen=True, kw_only=True)
class Drop:
    """One placement that was removed, and what is left without it."""

    placement: Placement
    """What was removed."""
    difference: Removal | None
    """What that changes; None where it could not be evaluated."""
    reason: str = ""
    """Why not."""

    @property
    def verdict(self) -> str:
        """Whether the placement pays, see :attr:`Removal.verdict`."""
        return FAILED if self.difference is None else self.difference.verdict

    @property
    def sentence(self) -> str:
        """Return the verdict with its reasons."""
        start = f"{self.placement.describe()} "
        if self.difference is None:
            return f"{start}could not be removed: {self.reason}"
        words = {PAYS: "pays", IDLE: "does not pay", OPEN: "is open"}[self.verdict]
        return f"{start}{words}: without it {_change_words(self.difference)}{_open_words(self.difference)}"


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """What is known of the blocks of an architecture."""

    full: Row
    """The architecture."""
    drops: tuple[Drop, ...]
    """Each of its placements."""
    pruned: Removal | None = None
    """What it loses and saves without all that do not pay; None where there are none, or it could not be evaluated."""
    reason: str = ""
    """Why it could not."""

    @property
    def comparisons(self) -> int:
        """Among how many differences each is looked at: without each block and, of several, without some at once."""
        return comparisons_of(self.full.architecture)

    def having(self, verdict: str) -> list[Drop]:
        """Return the placements on which there is this verdict."""
        return [drop for drop in self.drops if drop.verdict == verdict]

    @property
    def sentence(self) -> str:
        """Return what to do in one sentence with its numbers."""
        idle = [drop.difference for drop in self.having(IDLE) if drop.difference is not None]
        if not idle:
            return _keep(self)
        if self.pruned is not None and self.pruned.verdict != PAYS:
            return _take(_fastest([*idle, self.pruned]))
        sentence = _take(_fastest(idle))
        names = _listed(_names(self, IDLE))
        if self.pruned is None:
            return f"{sentence} What is left without {names} could not be evaluated: {self.reason}."
        lost = f"Without {names} at once (trial {self.pruned.other.trial}) {_change_words(self.pruned)}"
        return f"{sentence} {lost}: one of them is needed."


def _fastest(differences: Sequence[Removal]) -> Removal:
    """Return the one to take: the fastest of those that are as accurate as the best of them within noise."""
    best = min(differences, key=lambda each: (each.lost, -each.saved))
    near = [each for each in differences if each.lost - best.lost <= noise(best.other, each.other)]
    return max(near, key=lambda each: each.saved)


def name_of(placement: Placement) -> str:
    """Return a placement without its options, such as ``3: bam``."""
    return placement.describe().partition("(")[0]


def comparisons_of(architecture: Architecture) -> int:
    """Return how many differences are looked at in all."""
    count = len(architecture.placements)
    return count + (count > 1)


def without(architecture: Architecture, removed: Sequence[Placement]) -> Architecture:
    """Return what is left of an architecture without some of its placements."""
    left = tuple(placement for placement in architecture.placements if placement not in removed)
    return Architecture(backbone=architecture.backbone, placements=left)


def compare(
    full: Row, rows: Mapping[str, Row], reasons: Mapping[str, str], *, removed: Sequence[Placement] = ()
) -> Ablation:
    """Return what rows tell of the blocks of an architecture.

    Args:
        full: The architecture.
        rows: Finished trials by the id of their architecture.
        reasons: Why others could not be evaluated, by that id.
        removed: The placements without all of which it is compared, too.
    """
    architecture = full.architecture

    def difference(gone: Sequence[Placement]) -> tuple[Removal | None, str]:
        left = without(architecture, gone).id
        if left not in rows:
            return None, reasons.get(left, "it was not tried")
        return Removal(full=full, other=rows[left], comparisons=comparisons_of(architecture)), ""

    drops = []
    for placement in architecture.placements:
        found, reason = difference([placement])
        drops.append(Drop(placement=placement, difference=found, reason=reason))
    pruned, reason = difference(removed) if removed else (None, "")
    return Ablation(full=full, drops=tuple(drops), pruned=pruned, reason=reason)


def _keep(ablation: Ablation) -> str:
    full, count = ablation.full, len(ablation.drops)
    start = f"Keep trial {full.trial} ({full.architecture.describe()}): "
    if len(ablation.having(PAYS)) == count:
        return f"{start}{'its block pays' if count == 1 else f'each of its {count} blocks pays'}."
    parts = [f"{word}: {_listed(names)}" for word in (OPEN, FAILED) if (names := _names(ablation, word))]
    return f"{start}no block is shown not to pay; {'; '.join(parts)}."


def _take(difference: Removal) -> str:
    full, row = difference.full, difference.other
    words = f"Take trial {row.trial} ({row.architecture.describe()}) instead of {full.trial}: {accuracy_text(row)} % "
    words += f"accuracy at {ms_text(row.latency_ms)} ms, {ratio_text(row)} times the latency of the bare backbone and "
    words += f"{100 * row.latency_ratio / full.latency_ratio:.1f} % of trial {full.trial}'s; "
    if difference.lost <= 0:
        more = f"{-100 * difference.lost:.1f} points more" if difference.lost else "as"
        return f"{words}it is {more} accurate."
    words += f"the {100 * difference.lost:.1f} points of accuracy that it lacks are within the "
    return f"{words}{100 * difference.lost_half:.1f} that {_causes(difference)} can make (95 %)."


def _causes(difference: Removal) -> str:
    if difference.full.seed_error is None:
        return "the choice of validation images alone"
    return "validation images and training seeds"


def _change_words(difference: Removal) -> str:
    """Return in words what removing a block does."""
    lost, half = 100 * difference.lost, 100 * difference.lost_half
    accuracy = f"the accuracy {'falls' if lost > 0 else 'rises'} by {abs(lost):.1f} ±{half:.1f} points"
    faster = "falls" if difference.saved > 0 else "rises"
    saved = abs(difference.saved)
    return f"{accuracy}, and the latency ratio {faster} by {saved:.3f} ±{difference.saved_half:.3f}"


def _open_words(difference: Removal) -> str:
    """Return what would settle an open question, or what was not to be seen in one that is settled."""
    if difference.verdict == IDLE and difference.lost > 0:
        images = 100 * difference.images_half
        return f"; of such a loss the choice of validation images alone can make {images:.1f}, whatever the seeds"
    if difference.verdict != OPEN:
        return ""
    if difference.is_unstable:
        return "; the machine was too busy to time it well"
    if not difference.hidden_by_seeds:
        return "; chance can make either" if difference.lost >= -difference.lost_half else "; neither is chance"
    seeds = difference.seeds_to_tell
    made = 100 * seed_noise(difference.full, difference.other, difference.comparisons)
    if seeds is None:
        return f"; training seeds can make {made:.1f} of it, and not even {MOST_SEEDS} further ones each would tell"
    return (
        f"; training seeds can make {made:.1f} of it, and about {seeds} further ones each would tell (--seeds {seeds})"
    )


def _names(ablation: Ablation, verdict: str) -> list[str]:
    return [name_of(drop.placement) for drop in ablation.having(verdict)]


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def _lines(ablation: Ablation) -> list[tuple[str, Removal | None, str, str]]:
    """Return what was removed, what that changed, the verdict and why there is none, a line each."""
    found = [(drop.placement.describe(), drop.difference, drop.verdict, drop.reason) for drop in ablation.drops]
    idle = ablation.having(IDLE)
    if len(idle) > 1:
        words = "; ".join(drop.placement.describe() for drop in idle)
        verdict = ablation.pruned.verdict if ablation.pruned is not None else FAILED
        found.append(
            (words, ablation.pruned, {PAYS: "needed", IDLE: "not needed"}.get(verdict, verdict), ablation.reason)
        )
    return found


def report(ablation: Ablation, *, title: str, facts: Mapping[str, str]) -> str:
    """Return the check as Markdown, its table at most 120 columns wide; the facts are what judging it takes."""
    full = ablation.full
    header = ("without", "trial", "accuracy %", "points lost", "ratio", "ratio saved", "verdict")
    lines: list[Sequence[str]] = [("nothing", str(full.trial), accuracy_text(full), "", _ratio(full), "", "")]
    for removed, difference, verdict, _ in _lines(ablation):
        names = " + ".join(words.partition("(")[0] for words in removed.split("; "))
        name = names if len(names) <= _NAME_WIDTH else f"{removed.count('; ') + 1} blocks"
        lines.append((name, *_cells(difference), verdict))
    parts = [f"# {title}", ablation.sentence, table(header, lines)]
    parts += ["\n".join(f"- {drop.sentence}." for drop in ablation.drops)]
    parts += ["\n".join(f"- {name}: {value}" for name, value in facts.items())]
    return "\n\n".join(parts) + "\n"


def _cells(difference: Removal | None) -> tuple[str, ...]:
    if difference is None:
        return ("-",) * 5
    row = difference.other
    lost = f"{100 * difference.lost:+.1f} ±{100 * difference.lost_half:.1f}"
    saved = f"{difference.saved:+.3f} ±{difference.saved_half:.3f}"
    return str(row.trial), accuracy_text(row), lost, _ratio(row), saved


def _ratio(row: Row) -> str:
    return f"{row.latency_ratio:.3f}{'?' if row.unstable else ''}"


def csv_text(ablation: Ablation) -> str:
    """Return the check as CSV (:data:`CSV_COLUMNS`): a line for the architecture, one for each that was removed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    full = ablation.full
    for removed, difference, verdict, reason in [("", None, "", ""), *_lines(ablation)]:
        row = full if not removed else None if difference is None else difference.other
        if row is None:
            writer.writerow(["", "", removed, verdict, *[""] * 8, reason, ""])
            continue
        lost = ("", "") if difference is None else (difference.lost, difference.lost_half)
        saved = ("", "") if difference is None else (difference.saved, difference.saved_half)
        start = (row.trial, row.architecture.id, removed, verdict, row.accuracy, row.seeds)
        cost = (row.latency_ms, row.latency_ratio)
        writer.writerow([*start, *lost, *cost, *saved, reason, row.architecture.describe()])
    return text.getvalue()
