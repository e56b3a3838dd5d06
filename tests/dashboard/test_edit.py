"""With --edit, notes and artifacts are stored and may be changed; nothing else may."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
import toy
from boards import ask, dump, flags

from nas import dashboard
from nas.dashboard.attributes import YOURS, is_ours
from nas.dashboard.shelf import FOLDER
from nas.study import Study


def test_edit_stores_what_is_shown_for_other_programs(own: tuple[Study, Path]) -> None:
    import optuna_dashboard

    study, folder = own
    read_only = ask(dashboard.app(study, folder, flags=flags), "/api/studies/1").json
    study.close()
    study = Study.open("toy", toy.url(folder))
    app = dashboard.app(study, folder, flags=flags, editable=True)
    stored = ask(app, "/api/studies/1").json
    plain = ask(optuna_dashboard.wsgi(toy.url(folder)), "/api/studies/1").json
    assert stored["note"]["body"] == plain["note"]["body"]
    assert stored["note"]["body"].startswith(read_only["note"]["body"])
    assert [trial["note"] for trial in stored["trials"]] == [trial["note"] for trial in plain["trials"]]
    assert [each["filename"] for each in plain["artifacts"]] == [each["filename"] for each in stored["artifacts"]]
    drawn = {plot["id"]: plot["graph_object"] for plot in plain["plotly_graph_objects"]}
    assert drawn == {plot["id"]: plot["graph_object"] for plot in read_only["plotly_graph_objects"]}
    for artifact in plain["artifacts"]:
        assert is_ours(artifact["artifact_id"])
        assert (folder / FOLDER / artifact["artifact_id"]).read_bytes()
    before = dump(folder)
    dashboard.app(study, folder, flags=flags, editable=True)
    assert dump(folder) == before  # nothing new: nothing written
    study.close()


def test_edit_lets_notes_and_artifacts_be_changed_and_nothing_else(own: tuple[Study, Path]) -> None:
    study, folder = own
    app = dashboard.app(study, folder, flags=flags, editable=True)
    note = ask(app, "/api/studies/1").json["note"]
    mine = {"version": note["version"] + 1, "body": note["body"] + "\nmine, all mine"}
    saved = ask(app, "/api/studies/1/note", "PUT", mine)
    assert (saved.status, saved.json) == (200, {})  # the dashboard's own 204 is a failure to its page
    upload = {"file": "data:text/plain;base64,aGVsbG8=", "filename": "hello.txt"}
    made = ask(app, "/api/artifacts/1", "POST", upload)
    assert made.status == 201
    kept = folder / FOLDER / made.json["artifact_id"]
    assert kept.read_bytes() == b"hello"
    again = dashboard.app(study, folder, flags=flags, editable=True)
    body = ask(again, "/api/studies/1").json["note"]["body"]
    assert body.count(YOURS) == 1
    assert body.rstrip().endswith("mine, all mine")
    read_only = dashboard.app(Study.open("toy", toy.url(folder)), folder, flags=flags)
    assert ask(read_only, "/api/studies/1").json["note"]["body"].rstrip().endswith("mine, all mine")
    assert ask(read_only, f"/artifacts/1/{kept.name}").body == b"hello"
    assert ask(app, f"/api/artifacts/1/{kept.name}", "DELETE").status == 200
    assert not kept.exists()
    before = dump(folder)
    for method, path in (
        ("DELETE", "/api/studies/1"),
        ("POST", "/api/studies/1/rename"),
        ("POST", "/api/trials/1/tell"),
    ):
        answer = ask(app, path, method, {"study_name": "x", "state": "Fail"})
        assert (answer.status, "the search's alone" in answer.json["reason"]) == (403, True)
    assert dump(folder) == before


def test_edit_needs_a_place_for_the_files(own: tuple[Study, Path]) -> None:
    study, folder = own
    (folder / FOLDER).write_text("in the way")
    before = dump(folder)
    with pytest.raises(ValueError, match="cannot write into the folder"):
        dashboard.app(study, folder, flags=flags, editable=True)
    assert dump(folder) == before


def test_edit_refuses_other_pages(own: tuple[Study, Path]) -> None:
    study, folder = own
    app = dashboard.app(study, folder, flags=flags, editable=True)
    note = {"version": ask(app, "/api/studies/1").json["note"]["version"] + 1, "body": "theirs"}
    for origin in ("http://evil.example", "null", "http://127.0.0.1:9", "http://["):
        answer = ask(app, "/api/studies/1/note", "PUT", note, HTTP_ORIGIN=origin)
        assert (answer.status, "only the dashboard's own page" in answer.json["reason"]) == (403, True)
    assert ask(app, "/api/studies/1/note", "PUT", note, HTTP_ORIGIN="http://127.0.0.1:8080").status == 200


def test_a_config_that_left_the_front_is_no_longer_offered(own: tuple[Study, Path]) -> None:
    study, folder = own
    app = dashboard.app(study, folder, flags=flags, editable=True)
    offered = [trial["trial_id"] for trial in ask(app, "/api/studies/1").json["trials"] if trial["artifacts"]]
    with sqlite3.connect(folder / "studies.db") as connection:
        (key, text) = connection.execute("SELECT architecture_id, json FROM nas_evaluations").fetchall()[-1]
        best = {**json.loads(text), "accuracy": 0.99, "accuracy_low": 0.99, "accuracy_high": 0.99}
        best["latency"] |= {"ratio": 0.5, "ratio_low": 0.49, "ratio_high": 0.51}
        connection.execute("UPDATE nas_evaluations SET json = ? WHERE architecture_id = ?", (json.dumps(best), key))
    study.close()
    study = Study.open("toy", toy.url(folder))
    app = dashboard.app(study, folder, flags=flags, editable=True)
    left = [trial["trial_id"] for trial in ask(app, "/api/studies/1").json["trials"] if trial["artifacts"]]
    assert len(offered) > len(left) == 1
    study.close()
