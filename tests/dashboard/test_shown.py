"""What the dashboard shows of a study, and that it keeps up with it."""

from __future__ import annotations

import datetime
import json
import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest
import toy
from boards import SPACE, ask, flags

from nas import dashboard, report
from nas.dashboard import content as contents
from nas.dashboard.content import MOST_BYTES, plots_of
from nas.study import Study, run


def test_a_study_has_note_plots_and_artifacts(app: Any) -> None:
    shown = ask(app, "/api/studies/1").json
    assert shown["note"]["body"].startswith("> ")
    assert "run_search.py verify --study toy" in shown["note"]["body"]
    plots = [plot["id"] for plot in shown["plotly_graph_objects"]]
    assert plots[0] == "nas-00-accuracy-against-latency"
    assert [plot[:6] for plot in plots] == [f"nas-{number:02}" for number in range(len(report.TITLES))]
    figure = json.loads(shown["plotly_graph_objects"][0]["graph_object"])
    assert figure["layout"]["title"]["text"] == "Accuracy against latency"
    assert "template" not in figure["layout"]
    files = {artifact["filename"]: artifact["mimetype"] for artifact in shown["artifacts"]}
    assert files == {"report.html": "text/html", "front.csv": "text/csv", "verify.md": "text/markdown"}


def test_every_trial_has_a_note_that_says_what_became_of_it(app: Any) -> None:
    trials = ask(app, "/api/studies/1").json["trials"]
    words = {
        "Complete": ("Finished: ",),
        "Fail": ("**Failed**: ",),
        "Pruned": ("**Stopped early**: ", "**Beyond the limits, not trained**: "),
    }
    seen = set()
    for trial in trials:
        note = trial["note"]["body"]
        (found,) = [each for each in words[trial["state"]] if each in note.splitlines()[0]]
        assert "\n  input\n" in note
        seen.add(found)
    assert seen == {each for several in words.values() for each in several}
    (failed, *_) = [trial["note"]["body"] for trial in trials if trial["state"] == "Fail"]
    assert r"no \<b\>luck\</b\> \| with" in failed


def test_the_configs_of_the_front_are_artifacts_of_its_trials(app: Any, folder: Path) -> None:
    study = Study.open("toy", toy.url(folder))
    on_front = {row.trial: row.architecture.id for row in study.rows() if row.on_front}
    study.close()
    trials = ask(app, "/api/studies/1").json["trials"]
    offered = {trial["number"]: trial["artifacts"] for trial in trials if trial["artifacts"]}
    assert set(on_front) <= set(offered)
    for number, identifier in on_front.items():
        (artifact,) = offered[number]
        assert artifact["filename"] == f"trial-{number}.json"
        config = ask(app, f"/artifacts/1/{trials[number]['trial_id']}/{artifact['artifact_id']}")
        assert (config.json["id"], config.json["evidence"]["trial"]) == (identifier, number)


def test_constraints_are_seen(app: Any) -> None:
    trials = ask(app, "/api/studies/1").json["trials"]
    rejected = [trial for trial in trials if "Beyond the limits" in trial["note"]["body"]]
    assert rejected
    assert all(trial["constraints"][0] > 0 for trial in rejected)
    assert all(trial["constraints"][0] <= 0 for trial in trials if trial["state"] == "Complete")


def test_other_studies_of_the_database_are_shown_too(app: Any, folder: Path) -> None:
    assert "No trial has finished yet" in ask(app, "/api/studies/2").json["note"]["body"]
    optuna.create_study(study_name="foreign", storage=toy.url(folder))
    try:
        shown = ask(app, "/api/studies/3")
        assert (shown.status, shown.json["note"]["body"]) == (200, "")
    finally:
        optuna.delete_study(study_name="foreign", storage=toy.url(folder))
    assert ask(app, "/api/studies/99").status == 404


@pytest.mark.filterwarnings("ignore:Some regimes for parameter", "ignore:PedAnovaImportanceEvaluator computes")
def test_importances_are_those_of_high_accuracy_and_low_latency(app: Any, folder: Path) -> None:
    study = optuna.load_study(study_name="toy", storage=toy.url(folder))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()

    def importances(sign: int, objective: int) -> dict[str, float]:
        return optuna.importance.get_param_importances(
            study, evaluator=evaluator, target=lambda trial: sign * trial.values[objective]
        )

    shown = ask(app, "/api/studies/1/param_importances").json["param_importances"]
    accuracy, latency = ({each["name"]: each["importance"] for each in several} for several in shown)
    assert accuracy == pytest.approx(importances(-1, 0))
    assert accuracy != pytest.approx(importances(1, 0))  # which Optuna's own plot shows
    assert latency == pytest.approx(importances(1, 1))


def test_a_file_that_is_gone_is_not_found(own: tuple[Study, Path]) -> None:
    study, folder = own
    app = dashboard.app(study, folder, flags=flags)
    (page,) = [each for each in ask(app, "/api/studies/1").json["artifacts"] if each["filename"] == "report.html"]
    (folder / "toy" / "report.html").unlink()
    assert ask(app, f"/artifacts/1/{page['artifact_id']}").status == 404


def test_what_is_shown_keeps_up_with_the_study(own: tuple[Study, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    study, folder = own
    monkeypatch.setattr("nas.dashboard.desk.LEAST_SECONDS", 0.0)
    monkeypatch.setattr("nas.dashboard.desk.SHARE", 1e9)
    app = dashboard.app(study, folder, flags=flags)
    before = len(study.rows())
    assert f"of {before} finished" in ask(app, "/api/studies/1").json["note"]["body"]
    worker = Study.open("toy", toy.url(folder))
    run(worker, toy.evaluate, space=SPACE, budget=10, sampler="random", seed=1)
    worker.close()
    (folder / "toy" / "best.json").write_text("{}")
    shown = ask(app, "/api/studies/1").json
    assert f"of {before + 1} finished" in shown["note"]["body"]
    assert "best.json" in {artifact["filename"] for artifact in shown["artifacts"]}


def test_what_has_not_changed_is_not_worked_out_again(own: tuple[Study, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    study, folder = own
    monkeypatch.setattr("nas.dashboard.desk.LEAST_SECONDS", 0.0)
    monkeypatch.setattr("nas.dashboard.desk.SHARE", 1e9)
    made = []
    monkeypatch.setattr(
        "nas.dashboard.desk.content", lambda *rest, **more: made.append(1) or contents.content(*rest, **more)
    )
    app = dashboard.app(study, folder, flags=flags)
    for _ in range(3):
        ask(app, "/api/studies/1")
    assert made == [1]


def test_a_study_that_cannot_be_read_is_served_all_the_same(
    own: tuple[Study, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study, folder = own
    with sqlite3.connect(folder / "studies.db") as connection:
        connection.execute("DELETE FROM nas_evaluations")
    monkeypatch.setattr("nas.dashboard.desk.LEAST_SECONDS", 0.0)
    monkeypatch.setattr("nas.dashboard.desk.SHARE", 1e9)
    app = dashboard.app(study, folder, flags=flags)
    for _ in range(2):
        shown = ask(app, "/api/studies/1")
    assert shown.status == 200
    assert "notes and plots cannot be worked out: KeyError" in shown.json["note"]["body"]
    assert capsys.readouterr().err.count("cannot be worked out") == 1


class Drawn:
    """Stands for a figure."""

    def __init__(self, points: int, length: int) -> None:
        trace = {"x": [1 / 3] * points, "y": [0.5] * points, "hovertext": ["h" * length] * points}
        self.content = {"data": [trace, {"x": [1], "hovertext": ["kept"]}], "layout": {"legend": {"y": -0.1}}}

    def to_json(self) -> str:
        return json.dumps(self.content)


def test_plots_are_small() -> None:
    named = {"Small": Drawn(3, 10), "Wordy": Drawn(1000, 1000), "Huge!": Drawn(100_000, 1)}
    plots, missing = plots_of(named)
    assert list(plots) == ["nas-00-small", "nas-01-wordy"]
    assert missing == ["Huge!"]
    assert all(len(text) <= MOST_BYTES for text in plots.values())
    small, wordy = (json.loads(text) for text in plots.values())
    assert small["data"][0]["x"] == [0.333333] * 3
    assert "hovertext" in small["data"][0]
    assert "hovertext" not in wordy["data"][0]
    assert wordy["data"][1]["hovertext"] == ["kept"]


@pytest.mark.filterwarnings("ignore:Some regimes for parameter:UserWarning")  # as the server does
def test_importances_are_shown_of_a_study_that_goes_on(tmp_path: Path) -> None:
    """The dashboard keeps trials for two seconds, and failed when the first one with some parameter ended meanwhile."""
    space = toy.space(blocks=("cbam", "se"), stages=(1, 2))
    study = toy.create(tmp_path, resolved=space)
    run(study, toy.evaluate, space=space, budget=2, sampler="random")
    app = dashboard.app(Study.open("toy", toy.url(tmp_path)), tmp_path, flags=flags)
    assert ask(app, "/api/studies/1/param_importances").status == 200
    before = {name for trial in study._trials() for name in trial.params}
    run(study, toy.evaluate, space=space, budget=12, sampler="random")
    assert {name for trial in study._trials() for name in trial.params} > before
    # One page has asked meanwhile, so that what is kept differs from what was shown, and from what there is now.
    app._app._inmemory_cache._trials_cache[1] = app._app._inmemory_cache._trials_cache[1] + study._trials()[2:3]
    app._app._inmemory_cache._trials_last_fetched_at[1] = datetime.datetime.now()
    answer = ask(app, "/api/studies/1/param_importances")
    assert answer.status == 200
    shown = {each["name"] for each in answer.json["param_importances"][0]}
    assert shown
    assert shown <= {name for trial in study._trials() for name in trial.params}
    study.close()
