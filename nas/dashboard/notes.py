"""The notes of a study and of its trials, in Markdown: the answer, the protocol, the commands; what stands where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from nas.answer import (
    accuracy_text,
    change_text,
    count_text,
    legend,
    ms_text,
    probability_text,
    ratio_text,
    recommend,
)
from nas.architecture import Architecture, Placement
from nas.attention.options import options_text
from nas.command import Commands
from nas.dashboard.markdown import bars, escape, fenced, table
from nas.front import BARE, Row, bare_row, front
from nas.study import End

_OUTCOMES = {
    "stopped": "Stopped early",
    "rejected": "Beyond the limits, not trained",
    "failed": "Failed",
    "cut off": "Cut off",
    "running": "In work",
    "waiting": "Waits for a worker",
}
_NOTES_OF_PAGE = (
    "The plots and the list of best trials that the dashboard draws itself take each trial's first training, and do "
    "not know intervals. The table above takes the mean over all seeds, so the two may differ.",
    "The dashboard's hyperparameter importances ask what tells the best tenth of the trials by one figure (high "
    "accuracy, or low latency) from the others. They have no intervals, and what only some trials have - a block at a "
    "stage, an option of that block - rests on these few: 0 may mean that it was hardly tried.",
)
_LIMITS_OF_PAGE = (
    "The limits are shown as constraints: trials beyond them are grey in the dashboard's plots. Its list of best "
    "trials ignores them."
)


def study_note(
    rows: Iterable[Row],
    facts: Mapping[str, str],
    ends: Sequence[End],
    *,
    commands: Commands,
    page: str = "",
    missing: Sequence[str] = (),
) -> str:
    """Return the note of a study.

    Args:
        rows: The finished trials, with their probabilities.
        facts: What a reader must know about how the figures were made.
        ends: How the trials ended.
        commands: What is commonly done next.
        page: Name of the file that is the study's report, if there is one.
        missing: Names of the figures that are too large for the page.
    """
    rows = list(rows)
    answer = recommend(rows).sentence if rows else "No trial has finished yet."
    parts = [f"> {escape(answer)}"]
    if rows:
        parts += ["### Front", _front_table(rows), _words_on_table(rows)]
    parts += _not_finished(ends)
    parts += ["### How it was measured"]
    parts += ["\n".join(f"- **{escape(name)}**: {escape(value)}" for name, value in facts.items())]
    parts += ["### Commands", fenced(commands.lines())]
    if not commands.begun:
        parts += ["The search goes on with the command that began it, and a larger `--budget`."]
    parts += ["### Reading this page"]
    where = (
        f"The report, with its tables and notes, is {escape(page)} among the artifacts at the foot of the study's page"
    )
    remarks = [f"{where}; the config of each trial on the front is an artifact of that trial."] if page else []
    remarks += [*_NOTES_OF_PAGE, *([_LIMITS_OF_PAGE] if any(end.constraints for end in ends) else [])]
    if missing:
        remarks.append(f"Too large for this page, and left to the report: {escape(', '.join(missing))}.")
    parts += ["\n".join(f"- {remark}" for remark in remarks)]
    return "\n\n".join(parts)


def _front_table(rows: Sequence[Row]) -> str:
    """Return the front, fastest first, and beneath it the controls that are not on it."""
    members = front(rows)
    on_front = {row.trial for row in members}
    beaten = sorted((row for row in rows if row.control and row.trial not in on_front), key=lambda row: -row.accuracy)
    best = recommend(rows).row.trial
    head = ("trial", "accuracy %", "latency ms", "times bare", "parameters", "on front", "blocks by stage")
    cells = [
        (
            f"**{row.trial}**" if row.trial == best else str(row.trial),
            escape(accuracy_text(row)),
            ms_text(row.latency_ms),
            escape(ratio_text(row)),
            count_text(row.parameters),
            probability_text(row) if row.trial in on_front or row.front_probability is not None else "no",
            _named(row),
        )
        for row in [*members, *beaten]
    ]
    return table(head, cells, align="rlrlrr")


def _named(row: Row) -> str:
    words = escape(row.architecture.describe())
    return f"{words} ({escape(row.control)})" if row.control not in ("", BARE) else words


def _words_on_table(rows: Sequence[Row]) -> str:
    members = front(rows)
    beaten = [row for row in rows if row.control and row not in members]
    words = f"{len(members)} of {len(rows)} finished trials are on the front; "
    words += "[low, high] is the 95 % interval; the trial in bold is the recommended one"
    words += ", and the last rows are controls that are not on the front" if beaten else ""
    signs = legend([*members, *beaten])
    return escape(f"{words}. {signs}".strip())


def _not_finished(ends: Sequence[End]) -> list[str]:
    """Return what became of the architectures that were not finished, and the reasons of those that failed."""
    finished = {end.architecture.id for end in ends if end.outcome == "finished"}
    last = {end.architecture.id: end.outcome for end in ends if end.architecture.id not in finished}
    counts = {words: sum(each == outcome for each in last.values()) for outcome, words in _OUTCOMES.items()}
    known = [f"{words.lower()}: {count}" for words, count in counts.items() if count]
    lines = [f"Architectures that are not finished: {'; '.join(known)}."] if known else []
    failed: dict[str, list[int]] = {}
    for end in ends:
        if end.outcome == "failed":
            failed.setdefault(end.reason, []).append(end.trial)
    reasons = sorted(failed.items(), key=lambda item: -len(item[1]))[:5]
    shown = [f"- {_trials(trials)}: {escape(_shortened(reason))}" for reason, trials in reasons]
    return lines + (["Why trials failed:", "\n".join(shown)] if shown else [])


def _trials(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
    return f"trial{'s' if len(numbers) > 1 else ''} {shown}"


def _shortened(text: str, most: int = 300) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


@dataclass(frozen=True, kw_only=True)
class TrialNotes:
    """Writes the notes of the trials of one study."""

    rows: Sequence[Row]
    """The finished trials, with their probabilities."""
    ends: Sequence[End]
    """How all trials ended."""
    stages: Mapping[int, str]
    """Where blocks may stand: the stages of the space, and in words what each is."""

    @cached_property
    def _recommended(self) -> int | None:
        return recommend(self.rows).row.trial if self.rows else None

    def note(self, end: End) -> str:
        """Return the note of one trial."""
        row = next((row for row in self.rows if row.trial == end.trial), None)
        parts = [self._headline(end, row), picture(end.architecture, self.stages)]
        if row is not None:
            parts.append(self._numbers(row))
        if any(excess > 0 for excess in end.constraints.values()):
            parts.append(_beyond(end.constraints))
        if end.curve:
            parts.append(_curve(end.curve))
        if end.evaluation is not None:
            parts.append(escape(_made(end)))
        return "\n\n".join(parts)

    def _headline(self, end: End, row: Row | None) -> str:
        named = f"**{_control(end.control)}**. " if end.control else ""
        if row is not None:
            words = ["**recommended**"] if row.trial == self._recommended else []
            words += ["on the front" if row.on_front else "not on the front"]
            return f"{named}Finished: {', '.join(words)}."
        if end.outcome == "finished":
            same = next((row.trial for row in self.rows if row.architecture.id == end.architecture.id), None)
            return f"{named}Finished: the same architecture as trial {same}, where its figures stand."
        sentence = f"{named}**{_OUTCOMES[end.outcome]}**"
        sentence += f": {escape(_shortened(end.reason, 2000).removeprefix('stopped '))}." if end.reason else "."
        others = [other for other in self.ends if other.architecture.id == end.architecture.id and other is not end]
        later = [other.trial for other in others if other.trial > end.trial and other.outcome != "cut off"]
        if later and end.outcome in ("cut off", "stopped"):
            sentence += f" Its architecture was taken up again in {_trials(later)}."
        return sentence

    def _numbers(self, row: Row) -> str:
        """Return the figures of a finished trial, beside those of the bare backbone."""
        bare = bare_row(self.rows)
        columns = [row] if bare is None or bare is row else [row, bare]
        head = ["", *("this trial" if each is row else f"bare backbone (trial {each.trial})" for each in columns)]
        lines = {
            "accuracy %": [accuracy_text(each) for each in columns],
            "training seeds": [str(each.seeds) for each in columns],
            "latency ms": [ms_text(each.latency_ms) for each in columns],
            "times the bare latency": [ratio_text(each) for each in columns],
            "parameters": [count_text(each.parameters) for each in columns],
            "multiply-accumulates": [count_text(each.macs) for each in columns],
        }
        if all(each.memory_bytes for each in columns):
            lines["memory of a forward pass"] = [f"{each.memory_bytes / 2**20:.1f} MiB" for each in columns]
        if all(each.graph_ratio for each in columns):
            lines["times bare as CUDA graphs"] = [f"{each.graph_ratio:.3f}" for each in columns]
        if row.front_probability is not None:
            lines["probability of being on the front"] = [probability_text(each) for each in columns]
        text = table(head, ([name, *map(escape, cells)] for name, cells in lines.items()))
        changed = change_text(row, bare)
        signs = "; ".join(filter(None, ("[low, high] is the 95 % interval", legend(columns))))
        against = f"Against the bare backbone: {changed}. " if changed else ""
        return f"{text}\n\n{escape(f'{against}{signs}.')}"


def _control(name: str) -> str:
    return "The bare backbone, with which all others are compared" if name == BARE else f"Control: {escape(name)}"


def picture(architecture: Architecture, stages: Mapping[int, str]) -> str:
    """Draw where the blocks stand: a line for each stage, from the input to the output.

    Args:
        architecture: What is drawn.
        stages: Stages in any order, each with what it is in words; those of the architecture are drawn in any case.
    """
    placed: dict[int, list[str]] = {stage: [] for stage in stages}
    for placement in architecture.placements:
        placed.setdefault(placement.stage, []).append(_block(placement))
    width = max((len(words) for words in stages.values()), default=0)
    digits = max((len(str(stage)) for stage in placed), default=0)
    lines = [architecture.backbone, "  input"]
    for stage in sorted(placed):
        lead = f"stage {stage:<{digits}}  {stages.get(stage, ''):<{width}}"
        first, *more = placed[stage] or [""]
        lines.append(f"  {'■' if first else '│'}  {lead}  {first}".rstrip())
        lines += [f"  ■  {'':<{len(lead)}}  {words}" for words in more]
    return fenced([*lines, "  output"])


def _block(placement: Placement) -> str:
    where = "" if placement.position == "after_stage" else f" {placement.position}"
    return f"{placement.block}{where}" + (f"({options_text(placement.options)})" if placement.options else "")


def _beyond(constraints: Mapping[str, float]) -> str:
    words = [f"{escape(name)} by {excess:.1%}" for name, excess in constraints.items() if excess > 0]
    return f"Beyond the limits: {', '.join(words)} of the limit."


def _curve(curve: Sequence[float]) -> str:
    """Return the learning curve as bars and as figures; of a long one, not every figure."""
    percent = [f"{100 * value:.1f}" for value in curve]
    shown = percent if len(percent) <= 12 else [*percent[:5], "...", *percent[-5:]]
    words = f"Validation accuracy % after each of {len(curve)} epochs" if len(curve) > 1 else "Validation accuracy %"
    return f"{words}: `{bars(curve)}` {', '.join(shown)}"


def _made(end: End) -> str:
    """Return how the figures were made: what was timed how often, how long the training took, with what."""
    assert end.evaluation is not None  # an invariant of the caller
    latency = end.evaluation.latency
    words = f"Timed in {latency.n} pairs with the bare backbone, {latency.rounds} rounds, on {latency.device}"
    words += ", while the machine was too busy to time it well" if latency.unstable else ""
    words += f"; trained in {end.evaluation.train_seconds:.1f} s"
    versions = ", ".join(f"{name} {version}" for name, version in end.evaluation.versions.items())
    return f"{words}; {versions}." if versions else f"{words}."
