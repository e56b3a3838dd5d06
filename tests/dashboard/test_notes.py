"""The notes: the answer, the figures with their spread, where blocks stand, why a trial ended; no name is Markdown."""

from __future__ import annotations

import dataclasses
import re

import pytest
from rows import make_row

from nas.architecture import Architecture, Placement
from nas.cli import parser
from nas.command import COMMANDS, Commands
from nas.dashboard.attributes import YOURS, with_theirs
from nas.dashboard.markdown import bars, escape, fenced, table
from nas.dashboard.notes import TrialNotes, picture, study_note
from nas.evaluation import Evaluation, Latency
from nas.front import Row, mark_front
from nas.study import End

STAGES = {1: "layer1, 64 channels", 2: "layer2, 128 channels", 10: "layer10, 256 channels"}


def known(accuracy: float = 0.8) -> list[Row]:
    rows = [make_row(0, 0.7, 2.0, "bare"), make_row(1, accuracy, 2.2), make_row(2, 0.6, 2.4, "se everywhere")]
    return mark_front(dataclasses.replace(row, front_probability=0.5, memory_bytes=3 * 2**20) for row in rows)


def end(row: Row, **changed: object) -> End:
    latency = Latency(
        median_ms=2.2,
        low_ms=2.1,
        high_ms=2.3,
        bare_ms=2.0,
        ratio=1.1,
        ratio_low=1.09,
        ratio_high=1.11,
        n=40,
        rounds=5,
        batch_size=1,
        device="a|b",
        unstable=row.trial == 1,
    )
    evaluation = Evaluation(
        latency=latency,
        reference_ms=2.0,
        parameters=row.parameters,
        macs=row.macs,
        nominal_ms=2.1,
        accuracy=row.accuracy,
        accuracy_low=row.accuracy_low,
        accuracy_high=row.accuracy_high,
        curve=(0.1, 0.5, row.accuracy),
        train_seconds=12.34,
        versions={"torch": "2.6.0"},
    )
    given = {"outcome": "finished", "evaluation": evaluation, "curve": evaluation.curve, "constraints": {}, **changed}
    return End(trial=row.trial, key=row.trial + 1, architecture=row.architecture, control=row.control, **given)  # type: ignore[arg-type]


def plain(note: str) -> str:
    """Return a note as it is read: without escapes, and with ordinary spaces."""
    return re.sub(r"\\([^\w\s])", r"\1", note).replace("\N{NO-BREAK SPACE}", " ")


def test_the_study_note_has_answer_front_protocol_and_commands() -> None:
    rows = known()
    facts = {"Data": "digits, 10 classes", "Latency": "batch 1 on cpu|gpu"}
    ends = [end(row) for row in rows]
    note = study_note(rows, facts, ends, commands=Commands(flags="--study mine"), page="report.html")
    read = plain(note)
    assert read.startswith("> Take trial 1 (1: se(reduction=16); 2: se(reduction=16)): 80.0 [77.4, 82.4] % accuracy")
    assert re.search(r"\| \*\*1\*\* +\| 80\.0 \[77\.4, 82\.4\] +\| 2\.200 +\| 1\.100 \[1\.089, 1\.111\]", read)
    assert "2 of 3 finished trials are on the front" in read
    assert re.search(r"\| 2 .* \(se everywhere\) \|", read)
    assert "- **Latency**: batch 1 on cpu|gpu" in read
    assert "python run_search.py export --study mine --out best\n" in note
    assert "The report, with its tables and notes, is report.html among the artifacts" in note
    assert "Architectures that are not finished" not in note
    assert "constraints" not in note


def test_the_study_note_of_a_study_that_has_just_begun() -> None:
    note = study_note([], {"Study": "mine"}, [], commands=Commands(flags="--study mine"))
    assert note.startswith("> No trial has finished yet.\n\n### How it was measured")


def test_the_study_note_says_what_was_not_finished_and_why() -> None:
    rows = known()
    other = dataclasses.replace(rows[1], trial=3, architecture=Architecture(backbone="resnet18"))
    lost = {"evaluation": None, "curve": ()}
    ends = [
        *(end(row) for row in rows[1:]),
        end(dataclasses.replace(rows[1], trial=4), outcome="stopped", reason="later finished", **lost),
        end(other, outcome="failed", reason="out of memory on `cuda:0`", constraints={"slowdown": 0.2}, **lost),
    ]
    note = study_note(rows, {}, ends, commands=Commands(), missing=["A large one"])
    assert "Architectures that are not finished: failed: 1." in note
    assert "- trial 3: out of memory on \\`cuda:0\\`" in note
    assert "grey in the dashboard's plots" in note
    assert "Too large for this page, and left to the report: A large one." in note


def test_commands_are_verbs_and_flags_of_the_command_line() -> None:
    whole = parser()
    lines = [line for line in Commands(flags="--study mine --studies 'my dir'").lines() if not line.startswith("#")]
    assert len(lines) == len(COMMANDS)
    for line, (verb, *_) in zip(lines, COMMANDS, strict=True):
        words = line.removeprefix("python run_search.py ").replace("'my dir'", "there").split()
        assert whole.parse_args(words).verb == verb


def test_the_note_of_a_finished_trial_stands_beside_the_bare_backbone() -> None:
    rows = known()
    ends = [end(row) for row in rows]
    read = plain(TrialNotes(rows=rows, ends=ends, stages=STAGES).note(ends[1]))
    assert read.startswith("Finished: **recommended**, on the front.")
    assert "  ■  stage 1   layer1, 64 channels    se(reduction=16)\n" in read
    assert "  │  stage 10  layer10, 256 channels\n" in read
    assert re.search(r"this trial +\| bare backbone \(trial 0\)", read)
    assert re.search(r"accuracy % +\| 80\.0 \[77\.4, 82\.4\] +\| 70\.0 \[67\.1, 72\.8\] \|", read)
    assert re.search(r"times the bare latency +\| 1\.100 \[1\.089, 1\.111\] +\| 1\.000 \[0\.990, 1\.010\] \|", read)
    assert re.search(r"memory of a forward pass +\| 3\.0 MiB +\| 3\.0 MiB \|", read)
    assert re.search(r"probability of being on the front +\| 50 % +\| 50 % \|", read)
    assert "Against the bare backbone: parameters +0.0%, MACs +0.0%, latency +10.0%." in read
    assert "after each of 3 epochs: `▁▅█` 10.0, 50.0, 80.0" in read
    assert "Timed in 40 pairs with the bare backbone, 5 rounds, on a|b, while the machine was too busy" in read
    assert "trained in 12.3 s; torch 2.6.0." in read


def test_the_note_of_the_bare_backbone_compares_it_with_nothing() -> None:
    rows = known()
    ends = [end(row) for row in rows]
    note = plain(TrialNotes(rows=rows, ends=ends, stages=STAGES).note(ends[0]))
    assert note.startswith("**The bare backbone, with which all others are compared**. Finished: on the front.")
    assert "Against the bare backbone" not in note
    assert "bare backbone (trial" not in note


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"outcome": "failed", "reason": "a <b> | *c*\nd"}, r"**Failed**: a \<b\> \| \*c\* d."),
        ({"outcome": "stopped", "reason": "stopped after epoch 4"}, "**Stopped early**: after epoch 4."),
        (
            {"outcome": "rejected", "reason": "5 ms", "constraints": {"latency_ms": 0.25, "slowdown": -0.1}},
            "**Beyond the limits, not trained**: 5 ms.",
        ),
        ({"outcome": "cut off", "reason": "interrupted"}, "**Cut off**: interrupted. Its architecture was taken up"),
        ({"outcome": "running"}, "**In work**."),
        ({"outcome": "waiting"}, "**Waits for a worker**."),
    ],
)
def test_the_note_of_another_trial_says_what_became_of_it(changed: dict[str, object], words: str) -> None:
    row = make_row(5, 0.8, 2.2)
    this = end(row, evaluation=None, **{"curve": (), **changed})
    later = end(dataclasses.replace(row, trial=6), evaluation=None, outcome="running", curve=())
    note = TrialNotes(rows=[], ends=[this, later], stages={}).note(this)
    assert note.startswith(words)
    assert "se(reduction=16)" in note
    assert ("Beyond the limits: latency\\_ms by 25.0% of the limit." in note) == (changed["outcome"] == "rejected")


def test_the_note_of_a_repeated_architecture_names_the_trial_that_has_its_figures() -> None:
    rows = known()
    again = end(dataclasses.replace(rows[1], trial=9))
    note = TrialNotes(rows=rows, ends=[again], stages=STAGES).note(again)
    assert note.startswith("Finished: the same architecture as trial 1, where its figures stand.")


def test_the_picture_shows_every_place_of_a_stage() -> None:
    architecture = Architecture(
        backbone="a`b",
        placements=(
            Placement(stage=2, block="se", position="in_residual"),
            Placement(stage=2, block="simam"),
            Placement(stage=3, block="none", position="replace"),
        ),
    )
    assert picture(architecture, {1: "first"}).splitlines() == [
        "```",
        "a`b",
        "  input",
        "  │  stage 1  first",
        "  ■  stage 2         simam(lambda_=0.0001)",
        "  ■                  se in_residual(reduction=16)",
        "  ■  stage 3         none replace",
        "  output",
        "```",
    ]


def test_names_are_no_markdown() -> None:
    evil = "<img src=x> [a](http://b) *c* `d` | e\n# f"
    assert re.sub(r"\\[^\w\s]", "", escape(evil)) == "img src=x ahttp://b c d  e  f"
    assert table(["a", "b"], [[escape("x|y"), "z"]]).splitlines()[2].count(" | ") == 1
    assert fenced(["```", "rm -rf\n```` x"]) == "`````\n```\nrm -rf ```` x\n`````"


def test_bars_span_the_values() -> None:
    assert bars([0.0, 0.5, 1.0]) == "▁▅█"
    assert bars([0.3, 0.3]) == "▁▁"


def test_what_a_person_wrote_stays_beneath_the_note() -> None:
    assert with_theirs("new", "") == "new"
    room = with_theirs("old", "", room=True)
    assert room.startswith("old\n")
    assert room.endswith(f"{YOURS}\n")
    assert with_theirs("new", room) == "new"
    assert with_theirs("new", room + "\nmine") == f"new\n\n---\n\n{YOURS}\n\nmine\n"
    assert with_theirs("new", with_theirs("old", room + "\nmine")) == with_theirs("new", room + "\nmine")
    assert with_theirs("new", "all mine").endswith(f"{YOURS}\n\nall mine\n")


def test_the_command_that_began_the_search_stands_first() -> None:
    lines = Commands(flags="--study mine", begun="python run_search.py --budget 50 --seed 0").lines()
    assert lines[1] == "python run_search.py --budget 50 --seed 0 --study mine"
    assert Commands(flags="--study mine").lines()[1].startswith("python run_search.py export --study mine")
