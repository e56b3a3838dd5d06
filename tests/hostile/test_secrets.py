"""A password in a database's address, or a key in its query, shows nowhere: not on the screen, and in no file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import toy

from nas import cli
from nas.command import naming
from nas.secret import hidden, secrets, shown
from nas.study import Study, run
from nas.study.storage import StorageError, connect_existing

ROOT = Path(__file__).parents[2]
POSTGRES = "postgresql+psycopg://user:s3cret@127.0.0.1:1/none"
URLS = (
    POSTGRES,
    "postgresql+psycopg://user:s3cret%21@127.0.0.1:1/none?connect_timeout=2",
    "postgresql://user:s3cret@127.0.0.1:1/none",
    "sqlite:///studies/none.db?key=s3cret",
    "sqlite:///studies/studies.db?key=s3cret",
    "nosuch+thing://user:s3cret@host/name",
    "postgresql+psycopg:user:s3cret@host/name",
    "user:s3cret@host",
    "postgresql+psycopg://user:s3cret{@127.0.0.1:1/none",
    "postgresql+psycopg://user:s3cret@127.0.0.1:none/x",
)
VERBS = ("search", "report", "dashboard", "explain", "verify", "retime", "export")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("postgresql://u:pw@h:5432/d", "postgresql://u:***@h:5432/d"),
        ("postgresql://u:p@w:x@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("sqlite:////home/me@work/studies.db", "sqlite:////home/me@work/studies.db"),
        ("sqlite:///x.db?key=abc&cipher=aes&bare", "sqlite:///x.db?key=***&cipher=***&***"),
        ("studies.db", "studies.db"),
        ("postgres:u:pw@h", "postgres:***@h"),
        ("u:p?w@h/d?x=y", "u:***@h/d"),
        ("postgresql://u:p?w@h/d", "postgresql://u:***@h/d"),
    ],
)
def test_what_is_shown_of_an_address(text: str, found: str) -> None:
    assert shown(text) == found


def test_addresses_within_a_text_are_found() -> None:
    text = "cannot reach 'postgresql+psycopg://u:pw@h/d' or (mysql://a:b@c/d?ssl=e), says https://x.org/y"
    wanted = "cannot reach 'postgresql+psycopg://u:***@h/d' or (mysql://a:***@c/d?ssl=*** says https://x.org/y"
    assert hidden(text) == wanted


def test_secrets_of_a_known_address_are_found_in_other_words() -> None:
    url = "postgresql://u:s3%63ret%21@h/d?sslpassword=hunter22&sslmode=require"
    assert secrets(url) == {"s3%63ret%21", "s3cret!", "hunter22"}
    assert hidden("FATAL: s3cret! is wrong; hunter22 too; SSL is required", [url]) == (
        "FATAL: *** is wrong; *** too; SSL is required"
    )
    assert hidden("a word", ["postgresql://u:wo@h/d"]) == "a word"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def everything(folder: Path, capsys: pytest.CaptureFixture[str]) -> bytes:
    """Return all that was printed, and all that was written."""
    printed = capsys.readouterr()
    written = b"".join(path.read_bytes() + str(path).encode() for path in folder.rglob("*") if path.is_file())
    return (printed.out + printed.err).encode() + written


@pytest.mark.parametrize("debug", [False, True], ids=["plain", "debug"])
@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "search"])
def test_no_verb_shows_it(here: Path, capsys: pytest.CaptureFixture[str], verb: str, url: str, debug: bool) -> None:
    status = cli.main([verb, "--storage", url, *(["--debug"] if debug else [])])
    said = everything(here, capsys)
    assert status == 2, said
    assert b"s3cret" not in said
    assert said.strip()


@pytest.mark.parametrize("url", URLS)
def test_a_search_does_not_show_it(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    from nas import ready

    monkeypatch.setattr(ready, "_check_all", lambda *_: None)  # what comes before the database, and takes long
    quick = ["--limit", "300", "--resolution", "16", "--epochs", "1"]
    assert cli.main([*quick, "--debug", "--storage", url]) == 2
    assert b"s3cret" not in everything(here, capsys)


@pytest.mark.parametrize("flag", ["--database", "--storag-e", "-x"])
def test_a_flag_that_is_none_does_not_show_it(here: Path, capsys: pytest.CaptureFixture[str], flag: str) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", f"{flag}={POSTGRES}"])
    assert ended.value.code == 2
    assert b"s3cret" not in everything(here, capsys)


def test_the_environment_names_the_database(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cli.STORAGE_VARIABLE, POSTGRES)
    assert cli.main(["report", "--debug"]) in (1, 2)
    said = everything(here, capsys)
    assert b"127.0.0.1:1" in said
    assert b"s3cret" not in said
    (here / "studies").mkdir()
    toy.create(here / "studies").close()
    assert cli.main(["export", "--storage", "sqlite:///studies/studies.db"]) == 2  # the flag comes first
    assert b"study 'toy' has no finished trial yet" in everything(here, capsys)
    monkeypatch.setenv(cli.STORAGE_VARIABLE, "")
    assert cli.main(["export"]) == 2
    assert b"study 'toy' has no finished trial yet" in everything(here, capsys)


def test_whoever_uses_the_library_sees_no_password_either(here: Path) -> None:
    for url in URLS:
        with pytest.raises(StorageError) as caught:
            connect_existing(url)
        assert "s3cret" not in str(caught.value)


def test_what_a_study_writes_does_not_hold_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A study in a database elsewhere, whose address has what could be a secret: files, commands and pages."""
    from nas import dashboard
    from nas.run import write_files

    url = f"sqlite:///{here / 'elsewhere.db'}?timeout=31.4159"
    study = Study.create("toy", url, space=toy.space(), protocol=toy.PROTOCOL)
    run(study, toy.evaluate, space=toy.space(), budget=3, sampler="random")
    write_files(study, here / "studies" / "toy")
    dashboard.app(study, here / "studies", flags=lambda name: naming(name, "studies", is_elsewhere=True))
    study.close()
    assert b"31.4159" not in everything(here, capsys)
    assert "--storage URL" in (here / "studies" / "toy" / "report.html").read_text()


def test_lists_of_processes_need_not_show_it(here: Path) -> None:
    words = [sys.executable, str(ROOT / "run_search.py"), "report"]
    ended = subprocess.run(
        words, env={**os.environ, "NAS_STORAGE": POSTGRES}, capture_output=True, text=True, check=False, timeout=120
    )
    assert ended.returncode == 2
    assert "postgresql+psycopg://user:***@127.0.0.1:1/none" in ended.stderr
    assert "s3cret" not in ended.stderr + ended.stdout
