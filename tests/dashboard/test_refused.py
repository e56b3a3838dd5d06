"""Neither a page elsewhere nor a click does harm: what the dashboard refuses, and what it sends along."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from boards import ask, dump

from nas import dashboard
from nas.dashboard.shelf import FOLDER, Shelf
from nas.database import StorageError
from nas.study import Study


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("DELETE", "/api/studies/1", {}),
        ("POST", "/api/studies/1/rename", {"study_name": "mine"}),
        ("POST", "/api/studies", {"study_name": "mine", "directions": ["minimize"]}),
        ("PUT", "/api/studies/1/note", {"version": 1, "body": "mine"}),
        ("PUT", "/api/studies/1/1/note", {"version": 1, "body": "mine"}),
        ("POST", "/api/trials/1/tell", {"state": "Fail"}),
        ("POST", "/api/trials/1/user-attrs", {"user_attrs": {"architecture": "x"}}),
        ("POST", "/api/artifacts/1", {"file": "data:text/plain;base64,YQ==", "filename": "a.txt"}),
        ("DELETE", "/api/artifacts/1/aaaa", None),
        ("POST", "/incompatible-rdb-schema", None),
        ("OPTIONS", "/api/studies/1", None),
    ],
)
def test_read_only_every_change_is_refused(app: Any, folder: Path, method: str, path: str, body: object) -> None:
    before = dump(folder)
    answer = ask(app, path, method, body)
    assert answer.status == 403
    assert "open read-only; run_search.py dashboard --edit" in answer.json["reason"]
    assert dump(folder) == before
    assert ask(app, path.rstrip("/") + "//", method, body).status == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:8080", "x@evil.example", "[::2]:8080", "", "["]
)
def test_other_names_of_this_machine_are_refused(app: Any, host: str) -> None:
    answer = ask(app, "/api/studies/1", HTTP_HOST=host)
    assert answer.status == 403
    assert "answers to 127.0.0.1, localhost, ::1 only" in answer.json["reason"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9000", "127.0.0.1:1", "[::1]:8080"])
def test_this_machine_is_answered_also_through_a_tunnel(app: Any, host: str) -> None:
    assert ask(app, "/api/meta", HTTP_HOST=host).status == 200


def test_artifacts_run_as_strangers(app: Any) -> None:
    (page,) = [each for each in ask(app, "/api/studies/1").json["artifacts"] if each["filename"] == "report.html"]
    answer = ask(app, f"/artifacts/1/{page['artifact_id']}")
    assert answer.body == b"<script>document.title = 'x'</script>"
    assert answer.header("access-control-allow-origin") == []
    (policy,) = answer.header("content-security-policy")
    assert policy.startswith("sandbox allow-scripts allow-downloads; default-src 'none'")
    assert answer.header("x-content-type-options") == ["nosniff"]


def test_the_page_can_send_nothing_away_and_be_framed_by_nobody(app: Any) -> None:
    policies = "; ".join(ask(app, "/dashboard/studies/1").header("content-security-policy"))
    assert all(rule in policies for rule in ("connect-src 'self'", "form-action 'self'", "frame-ancestors 'none'"))


def test_plots_of_the_bundled_library_offer_no_upload() -> None:
    import optuna_dashboard

    bundle = (Path(optuna_dashboard.__file__).parent / "public" / "bundle.js").read_text(encoding="utf-8")
    assert 'plotlyServerURL:{valType:"string",dflt:""}' in bundle  # where it would be sent; unset, there is no button
    assert "sendChartToCloud" not in bundle


@pytest.mark.filterwarnings("ignore:Some regimes for parameter")
def test_browsing_changes_nothing(app: Any, folder: Path) -> None:
    before = dump(folder)
    pages = ["/", "/dashboard", "/api/meta", "/api/studies", "/api/studies/1", "/api/studies/1/param_importances"]
    pages += ["/csv/1", "/api/studies/1/plot/timeline", "/api/studies/1/plot/edf"]
    for page in pages:
        assert ask(app, page).status in (200, 302), page
    assert dump(folder) == before
    assert not (folder / FOLDER).exists()


def test_the_shelf_stays_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    shelf = Shelf(tmp_path / "shelf", editable=True)
    for name in ("../secret", "/etc/passwd", "..", ""):
        with pytest.raises(FileNotFoundError, match="hexadecimal"):
            shelf.open_reader(name)
        with pytest.raises(FileNotFoundError, match="hexadecimal"):
            shelf.remove(name)
    closed = Shelf(tmp_path, editable=False)
    with pytest.raises(PermissionError, match="--edit"):
        closed.remove("abc")
    with pytest.raises(PermissionError, match="--edit"):
        closed.write("abc", io.BytesIO(b"x"))


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_that_cannot_be(own: tuple[Study, Path], port: int) -> None:
    with pytest.raises(StorageError, match=f"the port must be between 1 and 65535, but got {port}"):
        dashboard.address(own[0], port)
