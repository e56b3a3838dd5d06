"""Folders of studies for the tests of the dashboard, and a browser without a socket."""

from __future__ import annotations

import io
import json
import sqlite3
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import toy

from nas.architecture import Architecture
from nas.evaluation import Evaluation, EvaluationError
from nas.limits import BeyondLimitsError, Limits
from nas.rungs import StoppedError
from nas.study import Study, run

LIMITS = Limits(slowdown=0.115)
"""Two blocks of the toy add 10 to 11 %, three add at least 15 %."""
SPACE = toy.space(blocks=("se", "eca", "cbam", "simam"), stages=(1, 2, 3))


def evaluate(architecture: Architecture) -> Evaluation:
    """Evaluate as the toy does, but for what is beyond the limits, and what has certain blocks."""
    evaluation = toy.evaluate(architecture)
    if architecture.placements and max(LIMITS.excess(evaluation).values()) > 0:
        raise BeyondLimitsError(LIMITS, evaluation)
    blocks = {placement.block for placement in architecture.placements}
    if "simam" in blocks:
        raise EvaluationError(f"no <b>luck</b> | with {architecture.id}")
    if "eca" in blocks:
        raise StoppedError("stopped after epoch 1 at 12.0 %", [0.12], evaluation)
    return evaluation


def flags(name: str) -> str:
    return f"--study {name}"


@dataclass
class Answer:
    """What the application answered."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name]


def ask(app: Any, path: str, method: str = "GET", body: object = None, **more: str) -> Answer:
    """Call a WSGI application as a browser on this machine would, without a socket."""
    sent = b"" if body is None else json.dumps(body).encode()
    found: dict[str, Any] = {}
    environ = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "HTTP_HOST": "127.0.0.1:8080",
        "HTTP_ACCEPT_ENCODING": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8080",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(sent)),
        "wsgi.input": io.BytesIO(sent),
        "wsgi.errors": sys.stderr,
        "wsgi.url_scheme": "http",
        **more,
    }

    def start(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> None:
        found.update(status=int(status[:3]), headers=headers)

    chunks = app(environ, start)
    content = b"".join(chunks)
    if hasattr(chunks, "close"):
        chunks.close()
    return Answer(found["status"], found["headers"], content)


def dump(folder: Path) -> list[str]:
    with sqlite3.connect(folder / "studies.db") as connection:
        return list(connection.iterdump())


def make(folder: Path) -> Path:
    """Make a folder of studies: one of the toy with every kind of trial, and one that has not begun."""
    study = Study.create("toy", toy.url(folder), space=SPACE, protocol=toy.PROTOCOL, limits=LIMITS)
    run(study, evaluate, space=SPACE, budget=9, sampler="random", seed=1)
    study.close()
    toy.create(folder, "begun").close()
    (folder / "toy").mkdir()
    (folder / "toy" / "report.html").write_text("<script>document.title = 'x'</script>")
    (folder / "toy" / "front.csv").write_text("trial\n0\n")
    (folder / "toy" / "verify.md").write_text("# verified\n")
    (folder / "toy" / "secret.txt").write_text("not shown")
    return folder
