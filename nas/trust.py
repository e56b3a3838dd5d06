"""What full trainings say about a search: how well its proxy ranked, what following it costs; as text and as CSV.

Pure functions over rows and replicates: needs neither torch nor Optuna.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from nas.answer import accuracy_text, count_text, ratio_text
from nas.front import BARE, Row
from nas.ranking import RELIABLE, Correlation, Regret, ceiling, correlate, regret, top_recall, verdict
from nas.seeds import Replicate, SeedNoise, estimate

PROXY = "proxy accuracy"
CSV_COLUMNS = (
    *("trial", "architecture", "role", "proxy_accuracy", "proxy_seeds", "test_accuracy", "test_error", "val_accuracy"),
    *("seeds", "epochs", "latency_ms", "latency_ratio", "parameters", "macs", "tests", "placements"),
)
"""Columns of ``verify.csv``: accuracies are 0 to 1, ``tests`` has the test accuracy of each seed."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One architecture that was trained fully."""

    row: Row
    """The finished trial of the search."""
    recommended: bool
    """Whether the search recommends it."""
    replicates: tuple[Replicate, ...]
    """Its full trainings, at least one, all with a test accuracy."""

    @property
    def tests(self) -> list[float]:
        """Test accuracy of each training, 0 to 1."""
        return [each.test_accuracy for each in self.replicates if each.test_accuracy is not None]

    @property
    def test(self) -> float:
        """Mean test accuracy, 0 to 1."""
        return fmean(self.tests)

    @property
    def val(self) -> float:
        """Mean validation accuracy of the same trainings, 0 to 1."""
        return fmean(each.accuracy for each in self.replicates)

    @property
    def role(self) -> str:
        """What it is to the search, in words."""
        words = ["bare backbone"] if self.row.control == BARE else [self.row.control] if self.row.control else []
        words += ["recommended"] if self.recommended else []
        return ", ".join([*words, "front" if self.row.on_front else "dominated"])


@dataclass(frozen=True, kw_only=True)
class Optimism:
    """By how much validation accuracy exceeds test accuracy, in accuracy (0 to 1)."""

    value: float
    """Mean over architectures of mean validation minus mean test accuracy."""
    half_width: float
    """Half the 95 % interval for the choice of both splits' images, which are the same for all architectures."""
    count: int
    """Number of architectures."""


@dataclass(frozen=True, kw_only=True)
class Trust:
    """What full trainings say about a search."""

    entries: tuple[Entry, ...]
    """The architectures, the best full test accuracy first."""
    scores: Mapping[str, tuple[Correlation, Correlation]]
    """Spearman's and Kendall's correlation with the full test accuracy, by ranker."""
    recalls: Mapping[int, float]
    """How many of the full top k the proxy's top k holds, by k."""
    regret: Regret | None
    """What taking the recommended architecture costs; ``None`` where it could not be trained."""
    optimism: Mapping[str, Optimism]
    """For the members of the front, which were selected on the validation split, and for the dominated ones."""
    noise: SeedNoise | None
    """Noise of the seed of the full trainings' test accuracy; ``None`` with one seed each."""
    ceiling: float | None
    """Highest correlation that this noise leaves to any ranker."""

    @property
    def sentence(self) -> str:
        """Return the verdict in one sentence."""
        (spearman, _), count = self.scores[PROXY], len(self.entries)
        word = verdict(spearman)
        reasons = {
            "reliable": f"surely above {RELIABLE}",
            "weak": f"above chance, but not surely above {RELIABLE}",
            "not usable here": "which chance alone may give",
        }
        sentence = f"The proxy is {word}: Spearman's correlation of its ranking with that of full trainings is "
        sentence += f"{_correlation_text(spearman)} over {count} architectures, {reasons[word]}"
        if spearman.value is None:
            sentence = f"The proxy is {word}: of {count} architectures, all look the same to it, or all are"
        sure = {name: score.value or 0.0 for name, (score, _) in self.scores.items() if (score.low or 0.0) > 0}
        best = max(sure, key=lambda name: sure[name], default=PROXY)
        if best != PROXY and sure[best] > (spearman.value or 0.0):
            sentence += f"; {best} alone would rank them with {sure[best]:.2f}"
        if word != "reliable" and self.ceiling is not None and self.ceiling < RELIABLE:
            sentence += "; but fully trained they hardly differ by more than seeds do, so there is little to rank"
        return f"{sentence}."


def assess(entries: Sequence[Entry], top: int) -> Trust:
    """Work out what full trainings say about a search.

    Args:
        entries: The architectures that were trained, at least two.
        top: The largest k of the top-k recall, besides 1 and 3; only those below the number of architectures count.
    """
    entries = sorted(entries, key=lambda entry: (-entry.test, entry.row.trial))
    rankers = {
        PROXY: [entry.row.accuracy for entry in entries],
        "parameters": [float(entry.row.parameters) for entry in entries],
        "MACs": [float(entry.row.macs) for entry in entries],
        "latency": [entry.row.latency_ms for entry in entries],
    }
    tests, means = [entry.tests for entry in entries], [entry.test for entry in entries]
    taken = [index for index, entry in enumerate(entries) if entry.recommended]
    groups = {"front": [entry for entry in entries if entry.row.on_front]}
    groups["dominated"] = [entry for entry in entries if not entry.row.on_front]
    return Trust(
        entries=tuple(entries),
        scores={name: correlate(values, tests) for name, values in rankers.items()},
        recalls={k: top_recall(rankers[PROXY], means, k) for k in sorted({1, 3, top}) if k < len(entries)},
        regret=regret(tests, taken[0]) if taken else None,
        optimism={name: _optimism(group) for name, group in groups.items() if group},
        noise=estimate(tests),
        ceiling=ceiling(tests),
    )


def _optimism(entries: Sequence[Entry]) -> Optimism:
    val, test = fmean(entry.val for entry in entries), fmean(entry.test for entry in entries)
    one = entries[0].replicates[0]
    variance = val * (1 - val) / one.val_images + test * (1 - test) / one.test_images
    return Optimism(value=val - test, half_width=1.96 * math.sqrt(variance), count=len(entries))


def report(trust: Trust, *, title: str, facts: Mapping[str, str], failures: Sequence[str] = ()) -> str:
    """Return the trust report as Markdown.

    Args:
        trust: What was found.
        title: Heading of the report.
        facts: What a reader needs to judge the figures.
        failures: What could not be trained, and why.
    """
    parts = [f"# {title}", trust.sentence, "\n".join(f"- {name}: {value}" for name, value in facts.items())]
    parts += ["## Architectures", _architectures(trust), "## Ranking", _ranking(trust)]
    parts += ["## What following the proxy costs", "\n".join(f"- {line}" for line in _costs(trust))]
    if failures:
        parts += ["## Not trained", "\n".join(f"- {line}" for line in failures)]
    return "\n\n".join(parts) + "\n"


def _architectures(trust: Trust) -> str:
    error = "±se" if trust.noise is not None else "(one seed)"
    header = ("trial", "role", "proxy val %", f"full test % {error}", "full val %", "latency ratio", "params")
    lines = []
    for entry in trust.entries:
        row = entry.row
        test = f"{100 * entry.test:.2f}"
        if trust.noise is not None:
            test += f" ±{100 * trust.noise.error(len(entry.tests)):.2f}"
        figures = (accuracy_text(row), test, f"{100 * entry.val:.2f}", ratio_text(row), count_text(row.parameters))
        lines.append((str(row.trial), entry.role, *figures))
    blocks = [f"- trial {entry.row.trial}: {entry.row.architecture.describe()}" for entry in trust.entries]
    return "\n".join([table(header, lines), "", *blocks])


def _ranking(trust: Trust) -> str:
    header = ("ranked by", "Spearman [95 %]", "Kendall tau-b [95 %]")
    lines = [(name, *map(_correlation_text, pair)) for name, pair in trust.scores.items()]
    notes = ["Intervals: percentiles of a bootstrap over architectures and seeds."]
    dropped = {name: first.dropped for name, (first, _) in trust.scores.items() if first.dropped}
    if dropped:
        words = ", ".join(f"{count} by {name}" for name, count in dropped.items())
        notes.append(f"Resamples without a value, left out: {words}.")
    if trust.ceiling is not None:
        notes.append(f"The noise of the full trainings leaves any ranker a correlation of about {trust.ceiling:.2f}.")
    if verdict(trust.scores[PROXY][0]) != "reliable":
        notes.append("More architectures (--top, --others) narrow the intervals.")
    return "\n".join([table(header, lines), "", *notes])


def _costs(trust: Trust) -> list[str]:
    """Return recall, regret, optimism and noise, one line each."""
    lines = [
        f"Of the full top {k}, the proxy's top {k} holds {found:.3g} (by chance {k * k / len(trust.entries):.2g})."
        for k, found in trust.recalls.items()
    ]
    if trust.regret is None:
        lines.append("The recommended architecture could not be trained, so its regret is unknown.")
    else:
        low, high = trust.regret.low, trust.regret.high
        interval = "" if low is None or high is None else f" [{100 * low:.2f}, {100 * high:.2f}]"
        lines.append(
            f"Regret of the recommended architecture: {100 * trust.regret.value:.2f}{interval} points of test accuracy "
            "below the best of these."
        )
    for name, optimism in trust.optimism.items():
        lines.append(
            f"Optimism, full validation minus test accuracy, {name} ({optimism.count}): {100 * optimism.value:+.2f} "
            f"±{100 * optimism.half_width:.2f} points (95 %, choice of images)."
        )
    if trust.noise is not None:
        lines.append(f"Seed noise of the full test accuracy: {trust.noise.describe()}.")
    return lines


def _correlation_text(correlation: Correlation) -> str:
    if correlation.value is None:
        return "none: all the same"
    if correlation.low is None or correlation.high is None:
        return f"{correlation.value:.2f}"
    return f"{correlation.value:.2f} [{correlation.low:.2f}, {correlation.high:.2f}]"


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose columns are aligned, so that it can be read on a terminal too."""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    rows = [header, ["-" * width for width in widths], *lines]
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |" for row in rows
    )


def csv_text(trust: Trust) -> str:
    """Return one line of CSV for each architecture (columns: :data:`CSV_COLUMNS`), the best full accuracy first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for entry in trust.entries:
        row = entry.row
        error = "" if trust.noise is None else trust.noise.error(len(entry.tests))
        full = (entry.test, error, entry.val, len(entry.tests), entry.replicates[0].epochs)
        cost = (row.latency_ms, row.latency_ratio, row.parameters, row.macs)
        tests = " ".join(map(str, entry.tests))
        start = (row.trial, row.architecture.id, entry.role, row.accuracy, row.seeds)
        writer.writerow([*start, *full, *cost, tests, row.architecture.describe()])
    return text.getvalue()
