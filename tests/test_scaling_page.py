"""The examples of docs/scaling.md, tried as far as can be without a cluster."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from nas.cli import parser
from nas.study.ledger import MOST_DEATHS
from nas.study.worker import BEAT_SECONDS, GRACE_SECONDS

PAGE = (Path(__file__).parents[1] / "docs" / "scaling.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
(BATCH,) = (text for _, text in BLOCKS if "#SBATCH" in text)
(JOB,) = (text for language, text in BLOCKS if language == "yaml")

needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def verb_of(words: list[str]) -> tuple[str, Any]:
    """Parse a call of the program; return its verb and its flags."""
    assert words[:2] == ["python", "run_search.py"]
    arguments = parser().parse_args(words[2:])
    return arguments.verb, arguments


def run_by_bash(script: str, folder: Path, **environment: str) -> list[str]:
    """Run a script with a python that tells its words and does nothing else; return the words."""
    python = folder / "python"
    python.write_text('#!/bin/sh\nfor word in python "$@"; do echo "$word"; done\n')
    python.chmod(0o755)
    (folder / "srun").write_text('#!/bin/sh\nexec "$@"\n')
    (folder / "srun").chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], env={"PATH": path, **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


@needs_bash
@pytest.mark.parametrize("text", [text for language, text in BLOCKS if language == "bash"])
def test_bash_can_read_it(text: str) -> None:
    assert subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False).stderr == ""


@needs_bash
def test_the_first_task_of_the_array_searches_and_the_others_work_on_its_study(tmp_path: Path) -> None:
    (array,) = re.findall(r"^#SBATCH --array=0-(\d+)$", BATCH, flags=re.MULTILINE)
    tasks = [verb_of(run_by_bash(BATCH, tmp_path, SLURM_ARRAY_TASK_ID=str(number))) for number in range(int(array) + 1)]
    assert [verb for verb, _ in tasks] == ["search"] + ["worker"] * int(array)
    assert len({(arguments.study, arguments.storage) for _, arguments in tasks}) == 1


@needs_bash
def test_the_first_pod_of_the_job_searches_and_the_others_work_on_its_study(tmp_path: Path) -> None:
    job = yaml.safe_load(JOB)
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] > 1
    (container,) = spec["template"]["spec"]["containers"]
    volumes = {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    secret = {each["name"]: each["valueFrom"]["secretKeyRef"]["key"] for each in container["env"]}
    assert secret == {"NAS_STORAGE": "storage", "PGPASSWORD": "password"}
    script = shlex.join([*container["command"], *container["args"]])
    pods = [
        verb_of(run_by_bash(script, tmp_path, JOB_COMPLETION_INDEX=str(number), NAS_STORAGE="postgresql://db/nas"))
        for number in range(spec["completions"])
    ]
    assert [verb for verb, _ in pods] == ["search"] + ["worker"] * (len(pods) - 1)
    assert {arguments.storage for _, arguments in pods} == {"postgresql://db/nas"}
    assert {arguments.study for _, arguments in pods} == {"night"}


def test_its_figures_are_those_of_the_program() -> None:
    plain = " ".join(PAGE.split())
    assert f"after {GRACE_SECONDS:.0f} seconds without a sign of life (workers give one every ten)" in plain
    assert BEAT_SECONDS == 10
    assert "three where twenty others ended without a death, after six where only four did" in plain
    assert MOST_DEATHS == 3
    assert "waits until the study is there, for ten minutes or" in plain
    assert parser().parse_args(["worker"]).wait == 600
