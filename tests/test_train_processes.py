"""Full training in processes of its own: killed at any moment, asked to end, and several that train one network.

Run as a script, this file is the command line whose training stops at a step and waits: so a test, and no clock,
decides where a training is killed. The script takes the number of the step, counted from its own start; the file that
each process writes when it stands there, to which its rank is added; and the words of the command line.
"""

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

from nas import cli, export, proxy
from nas.train import loop
from nas.train.keeping import read_curve

ROOT = Path(__file__).parents[1]
FLAGS = ["--limit", str(LIMIT), "--device", "cpu", "--mixup", "0.3", "--reprob", "0.5", "--ema", "0.9"]
PATIENCE = 600
"""Seconds after which what hangs is given up; decides no test that works."""


def words(config: Path, out: Path, *more: str) -> list[str]:
    return ["train", str(config), "--out", str(out), *FLAGS, *more]


def finished(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def standing(
    steps: int, standing_at: Path, arguments: list[str], *, launcher: tuple[str, ...] = (), processes: int = 1
) -> tuple[subprocess.Popen[str], list[int]]:
    """Start a training, wait until all its processes stand at a step, and return it and their ids, by rank."""
    process = subprocess.Popen(
        [sys.executable, *launcher, __file__, str(steps), str(standing_at), *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    files = [Path(f"{standing_at}{rank}") for rank in range(processes)]
    deadline = time.monotonic() + PATIENCE
    while not all(file.exists() for file in files):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process, [int(file.read_text()) for file in files]


def stand_at(step: int, standing_at: str) -> None:
    """Let the training of this process write its id at a step, and wait there for its end."""
    descend, left = loop._Stepper._descend, [step]

    def counted(self: loop._Stepper, loss: torch.Tensor) -> None:
        left[0] -= 1
        if not left[0]:
            path = Path(standing_at + os.environ.get("RANK", "0"))
            beside = path.with_suffix(".half")
            beside.write_text(str(os.getpid()))
            beside.rename(path)
            time.sleep(PATIENCE)
            raise SystemExit("nobody ended this training")
        descend(self, loss)

    loop._Stepper._descend = counted  # type: ignore[method-assign]


def losses(out: Path) -> list[tuple[str, str]]:
    rows = read_curve(out / "architecture-seed1000" / "summary.csv")
    return [(row["train_loss"], row["eval_top1"]) for row in rows]


def steps_of(epochs: int) -> int:
    """Return the steps of so many epochs: 32 images each, and what is left over is dropped."""
    return epochs * (len(few_digits().train) // protocol_of().batch_size)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path / "best.json")


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_curve(config: Path, tmp_path: Path) -> None:
    whole, cut = words(config, tmp_path / "whole", "--epochs", "6"), words(config, tmp_path / "cut", "--epochs", "6")
    finished(["run_search.py", *whole])
    for epochs, done in ((1, 1), (3, 4)):  # it is killed in the epoch after
        process, _ = standing(steps_of(epochs) + 2, tmp_path / f"after{done}-", cut)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert len(losses(tmp_path / "cut")) == done
    finished(["run_search.py", *cut])
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    ours, theirs = (load_file(tmp_path / name / "weights.safetensors") for name in ("cut", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
def test_who_is_asked_to_end_says_how_to_go_on(config: Path, tmp_path: Path) -> None:
    process, _ = standing(steps_of(1) + 2, tmp_path / "standing", words(config, tmp_path / "out", "--epochs", "3"))
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert said.rstrip().endswith("interrupted; the same command goes on where this one stopped")
    assert "Traceback" not in said


@pytest.mark.slow
def test_two_processes_train_one_network(config: Path, tmp_path: Path) -> None:
    two = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    finished([*two, "run_search.py", *words(config, tmp_path / "whole", "--epochs", "3")])
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
    again = words(config, tmp_path / "cut", "--epochs", "3")
    process, workers = standing(steps_of(1) + 1, tmp_path / "rank", again, launcher=two, processes=2)
    os.kill(workers[1], signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    assert len(losses(tmp_path / "cut")) == 1
    finished([*two, "run_search.py", *again])
    assert losses(tmp_path / "cut") == losses(folder)
    # In one process the curve is another one: batch normalisation sees half a batch in each of two.
    alone = [sys.executable, "run_search.py", *words(config, folder, "--epochs", "3")]
    refused = subprocess.run(alone, cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "processes 2 (now 1)" in refused.stderr


if __name__ == "__main__":
    stand_at(int(sys.argv[1]), sys.argv[2])
    raise SystemExit(cli.main(sys.argv[3:]))
