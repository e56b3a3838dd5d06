"""Command lines of any words: a status, one line or two that say what is wrong, and nothing half-written.

Words are drawn for the flags that the parser itself has, so that a new flag, and a new verb, is tried as well. What
would train, time or draw is cut off where it begins; everything up to there runs. Some here, a thousand where the slow
tests run; NAS_FUZZ_SEED=N looks at others.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import signal
import traceback
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st
from made_config import write_config
from mutations import fuzzing
from test_mutated_json import SPACES, in_time

from nas import cli
from nas.study import run

QUICK, MANY = 150, 1000
STATUSES = (0, 1, 2, 3, 130)
BESIDE = ("-wal", "-shm", ".lock")
"""How files end that databases and locks have beside them, and that hold no result."""
NUMBERS = (
    "0",
    "1",
    "2",
    "3",
    "-1",
    "0.5",
    "1e9",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "9" * 30,
    "9" * 5000,
    "0x10",
    "1_0",
    "٣",
)
NUMBERS += ("2147483648", "9223372036854775807", "", "5%", "1.5M", "True", "one", "1,2", "+1", "1e-320", "-0")
WORDS = (
    "",
    "a",
    "-",
    "--",
    "..",
    "../x",
    "con",
    "nul",
    "con:",
    "a b",
    "a\nb",
    "\0",
    "a\0b",
    "é",
    "图片",
    "\u202e",
    "\x1b[2J",
)
WORDS += (
    "\ud800",
    "\udcff",
    "x" * 300,
    "x" * 40_000,
    "'",
    '"',
    "$(id)",
    "%s",
    "{0}",
    "{",
    "<b>",
    "~",
    "*",
    "se",
    "se,",
    "none",
)
WORDS += (
    "toy",
    "other",
    "knee",
    "fastest",
    "trial:0",
    "trial:99",
    "latency<=1",
    "slowdown<=5%",
    "auto",
    "cpu",
    "cuda:1",
)
WORDS += (
    "digits",
    "test_resnet",
    "resnet18",
    "resnet18.a1_in1k",
    "hf-hub:a/b",
    "float32",
    "bfloat16",
    "identity",
    "sgd",
)
PATHS = (
    "file",
    "folder",
    "link",
    "pipe",
    "best.json",
    "space.json",
    "space.py",
    "bad.json",
    "new",
    "new/deep/er",
    "file/x",
)
PATHS += (
    "/dev/null/x",
    "/proc/nope",
    ".",
    "..",
    "",
    "\0",
    "x" * 300,
    "é/图",
    "a\nb",
    "\ud800",
    "new.json",
    "-",
    "~",
    "loop",
)
PATHS += ("pickle.pth", "weights.safetensors", "/dev/zero", "folder/")
URLS = (
    "sqlite:///studies/studies.db",
    "sqlite:///new.db",
    "sqlite:///file",
    "sqlite://",
    "sqlite:///:memory:",
    "sqlite:///..",
)
URLS += (
    "postgresql+psycopg://user:s3cret@127.0.0.1:1/none",
    "nosuch://u:s3cret@h/d",
    "sqlite:///x.db?key=s3cret",
)
URLS += (
    "://",
    "",
    "\0",
    "sqlite:///\0",
    "sqlite:///file:x?mode=memory&uri=true",
    "mysql://u:s3cret@127.0.0.1:1/x",
    "{}",
    "a:b@c",
)
URLS += (
    "postgresql://u:s3cret{@127.0.0.1:1/x?host=%",
    "sqlite:///folder",
    "sqlite:///new.db?timeout=x",
    "sqlite+nope:///x.db",
)
KINDS: dict[str, tuple[str, ...]] = {"URL": URLS, "NAME_OR_PATH": PATHS + WORDS, "NAME_OR_DIR": PATHS + WORDS}
KINDS |= dict.fromkeys(("DIR", "FILE", "CONFIG", "FILE.json|DIR"), PATHS)


@cache
def flags_of(verb: str) -> list[argparse.Action]:
    (verbs,) = [each for each in cli.parser()._actions if isinstance(each, argparse._SubParsersAction)]
    return list(verbs.choices[verb]._actions)


def value(draw: st.DrawFn, action: argparse.Action) -> str:
    """Draw a value for a flag: mostly of its kind."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.one_of(st.sampled_from(WORDS), st.text(max_size=8)))
    if action.choices is not None:
        return draw(st.sampled_from([*map(str, action.choices), "x"]))
    if action.type is not None:
        return draw(st.one_of(st.sampled_from(NUMBERS), st.integers(0, 40).map(str), st.floats().map(str)))
    return draw(st.sampled_from(KINDS.get(str(action.metavar), WORDS)))


@st.composite
def commands(draw: st.DrawFn) -> list[str]:
    """Draw the words of a command line: a verb, or none, and some of its flags."""
    verb = draw(st.sampled_from([*cli._MODULES, "search", "export", "train"]))
    words = [verb] if verb != "search" or draw(st.booleans()) else []
    actions = flags_of(verb)
    places = [action for action in actions if not action.option_strings]
    flags = [action for action in actions if action.option_strings and "--help" not in action.option_strings]
    needed = [action for action in flags if action.required]
    chosen = [*needed, *draw(st.lists(st.sampled_from(flags), max_size=4))]
    for action in chosen if draw(st.integers(0, 9)) else chosen[:-1]:
        flag = draw(st.sampled_from(action.option_strings))
        if action.nargs == 0:
            words.append(flag)
        else:
            given = value(draw, action)
            words += [f"{flag}={given}"] if draw(st.integers(0, 3)) == 0 else [flag, given]
    for action in places:
        words += [value(draw, action)] if draw(st.integers(0, 9)) else []
    if draw(st.integers(0, 19)) == 0:
        words.insert(draw(st.integers(0, len(words))), draw(st.one_of(st.sampled_from(WORDS), st.text(max_size=8))))
    return words


class Stub:
    """Takes the place of what would take time, and notes that a command got so far."""

    def __init__(self) -> None:
        self.reached = False

    def __call__(self, *_args: Any, **_kwargs: Any) -> Any:
        from nas.evaluation import EvaluationError

        self.reached = True
        raise EvaluationError("stub: this would take time")

    def nothing(self, *_args: Any, **_kwargs: Any) -> None:
        self.reached = True


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user may have it: a study, a config, spaces, files and links of all sorts."""
    here = tmp_path_factory.mktemp("begun")
    (here / "studies").mkdir()
    study = toy.create(here / "studies")
    run(study, toy.evaluate, space=toy.space(), budget=5, sampler="random")
    study.close()
    write_config(here / "best.json")
    (here / "space.json").write_text(SPACES[0].to_json())
    (here / "space.py").write_text(
        "from nas.space import SearchSpace as S\nSPACE = S(backbones=('test_resnet',), blocks=('se',))"
    )
    (here / "bad.json").write_text("{")
    (here / "file").write_text("a file")
    (here / "pickle.pth").write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")
    (here / "weights.safetensors").write_bytes(b"\x80\x04.")
    (here / "folder").mkdir()
    return here


def copied(begun: Path, sandbox: Path) -> Path:
    """Return a fresh copy of the folder, deep enough that ``..`` stays within the sandbox."""
    shutil.rmtree(sandbox / "a", ignore_errors=True)
    here = sandbox / "a" / "b"
    shutil.copytree(begun, here)
    (here / "link").symlink_to("nowhere/at/all")
    (here / "loop").symlink_to("loop")
    os.mkfifo(here / "pipe")
    return here


def files_in(sandbox: Path) -> dict[str, int | None]:
    """Return what is not a folder, with the sizes of regular files."""
    found: dict[str, int | None] = {}
    for folder, _, names in os.walk(sandbox):
        for name in names:
            path = Path(folder, name)
            if not name.endswith(BESIDE):
                found[str(path)] = path.stat().st_size if path.is_file() else None
    return found


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """Cut off what takes time: training, timing, drawing, serving, and loading the same images again and again."""
    from nas import backbones, costs, data, placement, ready, report, run, timing, trainer, work
    from nas.dashboard import server
    from nas.export import folder
    from nas.study import waiting
    from nas.train import full

    stub = Stub()
    load = data.load
    kept = cache(load)

    def load_once(source: str, **given: Any) -> Any:
        usual = source == "digits" and (given.get("resolution") or 32) <= 64
        return (kept if usual else load)(source, **given)

    monkeypatch.setattr(data, "load", load_once)
    monkeypatch.setattr(ready, "_check_all", lambda *_: None)
    monkeypatch.setattr(ready.Ready, "time_reference", stub)
    monkeypatch.setattr(waiting.time, "sleep", stub)
    monkeypatch.setattr(work, "reopen", stub)
    monkeypatch.setattr(run, "write_files", stub.nothing)
    monkeypatch.setattr(report, "write_pictures", lambda *_: stub.nothing() or [])
    monkeypatch.setattr(trainer.Trainer, "train", stub)
    monkeypatch.setattr(timing.Timer, "check", stub)
    read = placement.pretrained

    def pretrained(backbone: str, **given: Any) -> Any:
        return read(backbone, **given) if given.get("checkpoint") is not None else stub()  # not from the network

    monkeypatch.setattr(placement, "pretrained", pretrained)
    monkeypatch.setattr(costs, "_Bench", stub)
    monkeypatch.setattr(full, "_run", stub)
    monkeypatch.setattr(folder, "_fill", stub)
    monkeypatch.setattr(server.Server, "serve_forever", stub.nothing)
    monkeypatch.setattr(server.os, "nice", lambda _: 0)
    monkeypatch.setattr(backbones, "survey", lambda name: backbones.Support(backbone=name, refusal="not looked at"))
    monkeypatch.delenv(cli.STORAGE_VARIABLE, raising=False)
    before = signal.getsignal(signal.SIGTERM)
    yield stub
    signal.signal(signal.SIGTERM, before)


def check_command(words: list[str], begun: Path, sandbox: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    here = copied(begun, sandbox)
    monkeypatch.chdir(here)
    before = files_in(sandbox)
    stub.reached = False
    out, err = io.StringIO(), io.StringIO()
    with in_time(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = cli.main(words)
        except SystemExit as ended:  # argparse ends the process itself
            status = ended.code if isinstance(ended.code, int) else -1
        except Exception:
            pytest.fail(f"{words}: {traceback.format_exc()}")
    said = err.getvalue()
    assert status in STATUSES, (words, status)
    assert not (here / "executed").exists()
    assert "s3cret" not in out.getvalue() + said, words
    assert not [name for name in files_in(sandbox) if name.endswith(".tmp") or ".nas-export-" in name], words
    if status == 2 or (status == 1 and "doctor" not in words):  # which says that something is wrong with a study
        last = said.splitlines()[-1]
        assert last.startswith("run_search.py"), (words, said)
        assert len(last) < 2600, words
        assert "stub: " in last or not stub.reached or status == 1 or "--debug" in words, (words, said)
    if status == 2 and not stub.reached:
        assert len(said.splitlines()) <= 4 or "--debug" in words, (words, said)
        assert "Traceback" not in said or "--debug" in words
        assert files_in(sandbox) == before, words


class TestCommands:
    """Of any words."""

    @fuzzing(QUICK)
    @given(commands())
    def test_a_few(
        self, begun: Path, tmp_path: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch, words: list[str]
    ) -> None:
        check_command(words, begun, tmp_path, stub, monkeypatch)

    @pytest.mark.slow
    @fuzzing(MANY)
    @given(commands())
    def test_many(
        self, begun: Path, tmp_path: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch, words: list[str]
    ) -> None:
        check_command(words, begun, tmp_path, stub, monkeypatch)
