"""The command line: exit statuses, one-line errors, nothing half-written."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toy

from nas import cli
from nas.cli import main
from nas.study import Study, run

ROOT = Path(__file__).parents[1]
QUICK = ["--limit", "300", "--resolution", "16", "--epochs", "1", "--batch-size", "32", "--latency-seconds", "0.02"]
QUICK += ["--repeats", "1"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def study(here: Path) -> Study:
    (here / "studies").mkdir()
    made = toy.create(here / "studies")
    run(made, toy.evaluate, space=toy.space(), budget=6, sampler="random")
    return made


def image_folder(folder: Path, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    from PIL import Image

    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(12):
            Image.new("RGB", (16, 16), (20 * index, 100 * number, 30)).save(folder / name / f"{index}.png")
    return folder


def failing(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command line that must be refused; return what it says."""
    try:
        status = main(words)
    except SystemExit as error:  # argparse ends the process itself
        status = int(error.code or 0)
    captured = capsys.readouterr()
    assert status == 2
    assert captured.out == ""
    *before, last = captured.err.splitlines()
    assert all(line.startswith(("going on with ", "trying every block ")) for line in before)
    return last


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--budget", "0"], "the budget must be at least 1 trial, but got 0"),
        (["--budget", "-3"], "the budget must be at least 1 trial, but got -3"),
        (["--budget", "many"], "invalid int value: 'many'"),
        (["--backbone", "resnet81"], "timm knows no backbone 'resnet81'; the nearest: "),
        (["--backbone", "inception_v3", "--resolution", "16"], "does not run on images of 1 x 16 x 16"),
        (["--positions", "before"], "position must be one of after_stage, in_residual, replace, but got 'before'"),
        (["--rungs", "3,1"], "rungs must be epochs in ascending order, from 1, but got (3, 1)"),
        (["--rungs", "soon"], "rungs must be auto, usual, none, or epochs such as 1,3,9, but got 'soon'"),
        (["--rungs", "1,2"], "the default sampler takes one rung, half of the epochs for example, but got '1,2'"),
        (["--rungs", "usual"], "the default sampler takes one rung: auto is half of the epochs"),
        (["--rungs", "3"], "rungs must lie before the end of the training, which has 3 epochs, but got 3"),
        (["--risk", "0.7"], "the risk must be between 0 and 0.5"),
        (["--patience", "0"], "patience must be at least 1 trial, but got 0"),
        (["--max-blocks", "0"], "--max-blocks must be at least 1, but got 0"),
        (["--positions", "replace"], "test_resnet has no position replace at any of the stages"),
        (["--model-kwargs", "drop_path_rate"], "--model-kwargs takes NAME=VALUE, such as drop_path_rate=0.1, but got"),
        (["--model-kwargs", "drop path=0"], "--model-kwargs takes NAME=VALUE"),
        (["--model-kwargs", "depth=1", "depth=2"], "--model-kwargs has depth twice"),
        (["--model-kwargs", "dpeth=1"], "timm cannot build test_resnet for 1-channel images, dpeth=1: TypeError"),
        (["--model-kwargs", "in_chans=3"], "the model argument in_chans follows from the data and the flags"),
        (["--checkpoint", "no.pth"], "there is no checkpoint no.pth"),
        (["--checkpoint", "no.pth", "--pretrained"], "not allowed with argument"),
        (["--freeze-backbone"], "can be frozen: give --pretrained, --checkpoint or --warm-start"),
        (["--block-lr-factor", "0"], "--block-lr-factor must be positive and finite, but got 0.0"),
        (["--space", "defualt"], "unknown space 'defualt'; did you mean 'default'"),
        (["--data", "no/such/folder"], "no/such/folder"),
        (["--device", "tpu"], "device must be one of auto, "),
        (["--sampler", "bayes"], "sampler must be one of auto, additive, gp, tpe, nsga2, random, but got 'bayes'"),
        (["--study", "../up"], "a study's name must be letters"),
        (["--optimizer", "lion"], "optimizer must be one of sgd, adamw, but got 'lion'"),
        (["--max-slowdown", "5"], "argument --max-slowdown: write 5% for 5 per cent, or 500%"),
        (["--max-slowdown", "abc"], "argument --max-slowdown: invalid share, such as 5%, value: 'abc'"),
        (["--max-params", "infM"], "argument --max-params: invalid count, such as 11700000 or 11.7M, value: 'infM'"),
        (["--max-params", "12X"], "argument --max-params: invalid count"),
        (["--max-params", "0.5"], "argument --max-params: invalid count"),
        (["--max-params", "0"], "a limit of parameters must be a positive finite number, but got 0"),
        (["--studies", ""], "the folder of studies needs a name"),
        (["--frob", "3"], "unrecognized arguments: --frob 3; run_search.py search --help lists what there is"),
        (["export", "--frob"], "unrecognized arguments: --frob; run_search.py export --help lists what there is"),
        (["retime", "--verb", "3"], "unrecognized arguments: --verb 3; run_search.py retime --help lists what there"),
        (["frob"], "run_search.py --help lists what there is"),
        (["--latency-precision", "int4"], "argument --latency-precision: invalid choice: 'int4'"),
        (["--precision", "int4"], "precision must be one of float32, bfloat16, but got 'int4'"),
        (["--epochs", "0"], "epochs must be at least 1, but got 0"),
        (["--batch-size", "0"], "--batch-size must be at least 1, but got 0"),
        (["--learning-rate", "-1"], "--learning-rate must be positive and finite, but got -1.0"),
        (["--learning-rate", "0"], "--learning-rate must be positive and finite, but got 0.0"),
        (["--learning-rate", "inf"], "--learning-rate must be positive and finite, but got inf"),
        (["--weight-decay", "nan"], "--weight-decay must be at least 0 and finite, but got nan"),
        (["--latency-seconds", "0"], "--latency-seconds must be positive and finite, but got 0.0"),
        (["--batch-size", "1"], "--batch-size must be at least 2"),
        (["--seed", "99999999999"], "the seed must be at least 0 and below 2**32, but got 99999999999"),
        (["--resolution", "4"], "resolution"),
        (["--seed", "-1"], "seed"),
        (["--storage", "studies.db"], "storage must be a database URL"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["exprot"], "invalid choice: 'exprot'"),
        (["export"], "no database"),
        (["dashboard"], "no database"),
    ],
)
def test_wrong_use_is_one_line_and_writes_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert message in failing(words, capsys)
    assert list(here.iterdir()) == []


def test_bad_image_folders(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "empty").mkdir()
    assert "empty" in failing(["--data", "empty"], capsys)
    image_folder(here / "one", ("cat",))
    assert "class" in failing(["--data", "one"], capsys)
    broken = image_folder(here / "broken")
    (broken / "dog" / "3.png").write_bytes((broken / "dog" / "3.png").read_bytes()[:40])
    assert "3.png" in failing(["--data", "broken"], capsys)
    assert sorted(path.name for path in here.iterdir()) == ["broken", "empty", "one"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("SPACE = 1", "must define SPACE = SearchSpace(...)"),
        ("SPACE =", "failed: SyntaxError"),
        (
            "from nas.space import SearchSpace as S\nSPACE = S(backbones=('test_resnet',), blocks=('sse',))",
            "unknown block 'sse'",
        ),
        (
            "from nas.space import SearchSpace as S\nSPACE = S(backbones=('test_resnet',), blocks={'se': {'r': (4,)}})",
            "'r'",
        ),
        (
            "from nas.space import SearchSpace as S\n"
            "SPACE = S(backbones=('test_resnet',), blocks={'shuffle': {'groups': (64,)}})",
            "stage 0 (act1, 32 channels) of test_resnet: ",
        ),
        (
            "from nas.space import SearchSpace as S\n"
            "SPACE = S(backbones=('test_resnet',), stages=(9,), blocks=('se',))",
            "test_resnet has no stage 9; its stages: 0, 1, 2, 3, 4",
        ),
    ],
)
def test_bad_spaces(here: Path, capsys: pytest.CaptureFixture[str], content: str, message: str) -> None:
    (here / "mine.py").write_text(content)
    assert message in failing(["--space", "mine.py"], capsys)
    assert not (here / "studies").exists()


def test_a_database_of_something_else(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "notes.db").write_text("not a database at all, but long enough to look like one")
    assert "is not an SQLite database" in failing([*QUICK, "--storage", "sqlite:///notes.db"], capsys)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may write into a read-only folder")
def test_a_read_only_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "locked").mkdir(mode=0o500)
    assert "cannot" in failing([*QUICK, "--studies", "locked"], capsys)


def test_a_folder_that_nobody_may_write(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "file").write_text("")
    assert "cannot write into the folder file/deep" in failing([*QUICK, "--studies", "file/deep"], capsys)
    storage = ["--storage", "sqlite:///file/deep/studies.db"]
    assert "cannot make the folder file/deep" in failing([*QUICK, *storage], capsys)


def test_a_read_only_database(
    study: Study, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study.close()
    connect = sqlite3.connect

    def read_only(path: Path, **arguments: object) -> sqlite3.Connection:
        return connect(f"file:{path}?mode=ro", uri=True)

    # The superuser may write whatever the file's mode says, so SQLite itself has to refuse.
    monkeypatch.setattr("nas.database.sqlite3.connect", read_only)
    message = failing([*QUICK, "--study", "toy"], capsys)
    assert "cannot write the database studies/studies.db: attempt to write a readonly database" in message


def test_debug_shows_the_traceback(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--budget", "0", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_export_of_the_only_study(study: Study, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export"]) == 0
    assert "wrote best.json: trial " in capsys.readouterr().out
    assert (here / "best.json").is_file()


@pytest.mark.parametrize("pick", ["knee", "accuracy", "fastest", "trial:2", "latency<=1.12"])
def test_export_picks(study: Study, here: Path, pick: str) -> None:
    assert main(["export", "--study", "toy", "--pick", pick, "--out", "deep/picked.json"]) == 0
    assert (here / "deep" / "picked.json").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--study", "tyo"], "no study 'tyo' in the database; its studies: toy"),
        (["--pick", "best"], "best"),
        (["--pick", "trial:99"], "99"),
        (["--pick", "latency<=0.1"], "0.1"),
        (["--out", "studies"], "cannot write studies"),
        (["--out", "/"], "cannot write /"),
    ],
)
def test_export_refuses(
    study: Study, here: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert message in failing(["export", *words], capsys)
    assert not (here / "best.json").exists()


def test_export_keeps_links_and_spares_pipes(study: Study, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "link.json").symlink_to("real.json")
    assert main(["export", "--out", "link.json"]) == 0
    assert (here / "link.json").is_symlink()
    assert (here / "real.json").is_file()
    capsys.readouterr()
    os.mkfifo(here / "pipe")
    assert "is no regular file" in failing(["export", "--out", "pipe"], capsys)


def test_a_default_name_is_always_a_folder_name() -> None:
    from nas.settings import Settings

    names = {Settings(data=data).study_name for data in ("pets", "图片", "圖片", "_x", "a" * 150, "a" * 151, "my pets")}
    assert len(names) == 7
    assert "default-pets" in names


def test_export_asks_which_study(study: Study, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy.create(here / "studies", "other").close()
    assert "--study must name a study; the database has: other, toy" in failing(["export"], capsys)
    assert "study 'other' has no finished trial yet" in failing(["export", "--study", "other"], capsys)


def test_the_dashboard_refuses_a_port_that_cannot_be(
    study: Study, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dashboard", "--port", "99999"]) == 2
    assert "the port must be between 1 and 65535, but got 99999" in capsys.readouterr().err


def test_the_dashboard_refuses_a_port_in_use(study: Study, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["dashboard", "--port", str(port)]) == 2
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


def test_the_dashboard_serves_the_study(study: Study, here: Path) -> None:
    import json
    import socket
    import urllib.request

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, str(ROOT / "run_search.py"), "dashboard", "--port", str(port)]
    process = subprocess.Popen(words, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(f"http://127.0.0.1:{port}/dashboard/studies/")
        for _ in range(300):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies/1", timeout=10) as reply:
                    found = json.load(reply)
                break
            except OSError:
                assert process.poll() is None
                time.sleep(0.1)
        assert found["objective_names"] == ["accuracy", "latency_ms"]
        assert len(found["trials"]) == 6
    finally:
        process.kill()
        process.communicate()


def test_a_search_ends_with_the_answer(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = image_folder(here / "pets")
    quick = [word for word in QUICK if word not in ("--limit", "300")]
    words = ["--budget", "2", "--data", str(data), *quick, "--sampler", "random"]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert "bare backbone" in printed.out
    assert "python run_search.py export --study default-pets --out best" in printed.out
    assert "2/2" in printed.err
    assert main(["export"]) == 0
    assert main(words) == 0  # and once more: nothing is left to do


@pytest.mark.slow
def test_the_real_search_survives_three_kills(here: Path) -> None:
    words = [sys.executable, str(ROOT / "run_search.py"), "--budget", "7", *QUICK, "--sampler", "random"]

    def finished() -> set[str]:
        try:
            opened = Study.open("default-digits", "sqlite:///studies/studies.db")
        except ValueError:
            return set()
        ids = {row.architecture.id for row in opened.rows()}
        opened.close()
        return ids

    for target in (1, 3, 5):
        with Path("stderr.txt").open("w") as said:
            process = subprocess.Popen(words, stderr=said)
        while len(finished()) < target:
            assert process.poll() is None, Path("stderr.txt").read_text()
            time.sleep(0.05)
        before = finished()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert before <= finished()
    ended = subprocess.run(words, check=False, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 0, ended.stderr
    opened = Study.open("default-digits", "sqlite:///studies/studies.db")
    assert len(opened.rows()) == len(finished()) == 7
    assert opened.tally().running == opened.tally().waiting == 0


def test_help_is_quick_to_import_and_names_the_verbs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert all(verb in printed for verb in ("search", "export", "dashboard"))


@pytest.mark.parametrize(("wish", "ignored"), [(signal.SIGINT, False), (signal.SIGTERM, True)])
@pytest.mark.slow
def test_a_wish_to_end_ends_with_130_and_loses_nothing(here: Path, wish: signal.Signals, ignored: bool) -> None:
    words = [sys.executable, str(ROOT / "run_search.py"), "--budget", "50", *QUICK, "--sampler", "random"]
    # A shell lets its background processes ignore Ctrl-C, and they inherit that.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    try:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    database = here / "studies" / "default-digits" / "front.csv"
    while not database.exists() or len(database.read_text().splitlines()) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(wish)
    printed, said = process.communicate(timeout=120)
    assert process.returncode == 130
    if wish == signal.SIGINT:  # what was in training was finished
        assert "stopping when what is in training now is done; Ctrl-C again stops at once" in said
        assert re.search(r"^stopped after \d+ of 50 trainings; the same command goes on$", printed, re.MULTILINE)
        assert "bare backbone" in printed
    else:
        assert "the same command goes on where this one stopped" in said
        assert printed == ""
    assert "Traceback" not in said
    opened = Study.open("default-digits", "sqlite:///studies/studies.db")
    assert opened.tally().running == 0
    assert opened.tally().finished >= 1
    shutil.rmtree(here / "studies")


@pytest.mark.parametrize(
    ("text", "count"), [("11700000", 11_700_000), ("1e6", 10**6), ("2.01M", 2_010_000), ("8.2M", 8_200_000)]
)
def test_counts_are_read_as_they_are_written(text: str, count: int) -> None:
    assert cli.parser().parse_args(["search", "--max-params", text]).max_params == count
