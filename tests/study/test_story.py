"""What the pages tell of a study, gathered from its database."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import toy
from test_judge import PROTOCOL, Trainings, search

from nas import report
from nas.evaluation import Cost
from nas.limits import BeyondLimitsError, Limits
from nas.study import Study, run


def create(folder: Path, limits: Limits | None = None, **inputs: object) -> Study:
    return Study.create("toy", toy.url(folder), space=toy.space(), protocol=PROTOCOL, limits=limits, inputs=inputs)


def test_a_story_holds_what_the_study_says(tmp_path: Path) -> None:
    study = create(tmp_path, command="python run_search.py --budget 30")
    outcome, _ = search(study)
    assert outcome.stopped > 0
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "verify.md").write_text("# Can toy be trusted?")
    (folder / "retime-here.md").write_text("# toy on another device")
    (folder / "notes.md").write_text("not ours")
    story = report.tell(study, folder)
    assert [row.trial for row in story.rows] == [row.trial for row in study.rows()]
    assert story.stages == ((0, "layer0"), (1, "layer1"), (2, "layer2"), (3, "layer3"))
    assert len(story.stopped) == outcome.stopped
    assert set(story.curves) == {row.trial for row in story.rows}
    assert set(story.spent) >= set(story.curves)
    assert story.checks == ("# Can toy be trusted?", "# toy on another device")
    lines = story.commands.lines()
    assert f"python run_search.py --budget 30 --study toy --studies {tmp_path}" in lines
    assert f"python run_search.py export --study toy --studies {tmp_path} --out best" in lines
    assert story.protocol["epochs"] == "4"
    assert report.drawable(story) == list(report.FIGURES)


def test_what_was_turned_away_is_told_with_its_latency(tmp_path: Path) -> None:
    limits = Limits(slowdown=0.07)
    study = create(tmp_path, limits)
    whole = Trainings(None)

    def evaluate(architecture):  # type: ignore[no-untyped-def]
        evaluation = whole(architecture)
        fields = {field.name: getattr(evaluation, field.name) for field in dataclasses.fields(Cost)}
        cost = Cost(**fields)
        study.store.put_cost(architecture, study.protocol.latency_hash, cost)
        if architecture.placements and limits.words(cost):
            raise BeyondLimitsError(limits, cost)
        return evaluation

    run(study, evaluate, space=toy.space(), budget=6, sampler="random")
    story = report.tell(study)
    assert story.limits == limits
    assert len(story.turned) == len(study.rejected()) > 0
    assert all(each.latency_ms > 1.07 for each in story.turned)
    assert story.facts["Limits"] == "at most +7.0% latency"
    figure = report.figures(story)["pareto"]
    assert "beyond the limits, not trained" in {trace.name for trace in figure.data}


def test_a_study_without_trials_has_a_story(tmp_path: Path) -> None:
    story = report.tell(create(tmp_path))
    assert story.rows == []
    assert story.answer is None
    assert story.picks == []
    assert story.effects is None
    report.write_report(story, tmp_path / "report.html")
    assert "No trial has finished yet." in (tmp_path / "report.html").read_text()


def test_only_commands_for_which_there_is_something_are_told(tmp_path: Path) -> None:
    empty = create(tmp_path)
    assert [line.split()[2] for line in report.tell(empty).commands.lines()[1::2]] == ["dashboard"]
    run(empty, Trainings(None), space=toy.space(), budget=8, sampler="random")
    story = report.tell(empty)
    assert story.answer is not None
    verbs = {line.split()[2] for line in story.commands.lines() if not line.startswith("#")}
    assert verbs >= {"export", "verify", "retime", "report", "dashboard"}
    assert ("explain" in verbs) == bool(story.answer.row.architecture.placements)
