"""Full training in processes of its own: killed at any moment, asked to end, and several that train one network."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from made_config import LIMIT, few_digits, protocol_of, write_config
from safetensors.torch import load_file

from nas import export, proxy
from nas.train.keeping import read_curve

ROOT = Path(__file__).parents[1]
FLAGS = ["--limit", str(LIMIT), "--device", "cpu", "--mixup", "0.3", "--reprob", "0.5", "--ema", "0.9"]


def words(config: Path, out: Path, *more: str) -> list[str]:
    return ["run_search.py", "train", str(config), "--out", str(out), *FLAGS, *more]


def started(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finished(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def wait_for_epochs(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while len(read_curve(out / "architecture-seed1000" / "summary.csv")) < count:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.01)


def losses(out: Path) -> list[tuple[str, str]]:
    rows = read_curve(out / "architecture-seed1000" / "summary.csv")
    return [(row["train_loss"], row["eval_top1"]) for row in rows]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path / "best.json")


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_curve(config: Path, tmp_path: Path) -> None:
    whole, cut = words(config, tmp_path / "whole", "--epochs", "12"), words(config, tmp_path / "cut", "--epochs", "12")
    finished(whole)
    for epochs in (2, 7):
        process = started(cut)
        wait_for_epochs(tmp_path / "cut", epochs, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert len(losses(tmp_path / "cut")) < 12  # it was in the middle
    finished(cut)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    ours, theirs = (load_file(tmp_path / name / "weights.safetensors") for name in ("cut", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
def test_who_is_asked_to_end_says_how_to_go_on(config: Path, tmp_path: Path) -> None:
    process = started(words(config, tmp_path / "out", "--epochs", "300"))
    wait_for_epochs(tmp_path / "out", 2, process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.rstrip().endswith("interrupted; the same command goes on where this one stopped")
    assert "Traceback" not in said


@pytest.mark.slow
def test_two_processes_train_one_network(config: Path, tmp_path: Path) -> None:
    two = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    whole = [*two, *words(config, tmp_path / "whole", "--epochs", "4")]
    finished(whole)
    folder = tmp_path / "whole"
    assert sorted(path.name for path in folder.iterdir() if path.name != ".lock") == [
        *("architecture-seed1000", "recipe.json", "train.json", "train.md", "weights.safetensors")
    ]
    assert json.loads((folder / "recipe.json").read_text())["processes"] == 2
    # Both parts of the test split arrive, each image once: the weights have that accuracy in one process, too.
    model = export.build(*export.read(config))
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    splits = few_digits()
    (training,) = json.loads((folder / "train.json").read_text())["trainings"]
    assert training["images"] == len(splits.test)
    assert training["test_accuracy"] == proxy.accuracy(model, splits.test, splits.search(), protocol_of())
    # One of them is killed, which ends both; together they go on to the same curve.
    again = [*two, *words(config, tmp_path / "cut", "--epochs", "4")]
    process = started(again)
    wait_for_epochs(tmp_path / "cut", 1, process)
    workers = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    os.kill(workers[-1], signal.SIGKILL)
    process.communicate(timeout=120)
    assert process.returncode != 0
    finished(again)
    assert losses(tmp_path / "cut") == losses(folder)
    # In one process the curve is another one: batch normalisation sees half a batch in each of two.
    refused = subprocess.run(
        [sys.executable, *words(config, folder, "--epochs", "4")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "processes 2 (now 1)" in refused.stderr
