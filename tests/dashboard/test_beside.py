"""A search beside an open dashboard, both started as people do."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import toy
from boards import dump

from nas.study import Study

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def serve(folder: Path, *more: str) -> tuple[subprocess.Popen[str], str]:
    """Start the dashboard as people do, and return the process and its address."""
    port = str(free_port())
    words = [sys.executable, str(ROOT / "run_search.py"), "dashboard", "--studies", str(folder), "--port", port, *more]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.readline()
    assert said.startswith(f"http://127.0.0.1:{port}/dashboard/studies/"), said + process.communicate()[1]
    return process, f"http://127.0.0.1:{port}"


def note_of(address: str) -> str:
    """Return the note of a study, as its page gets it."""
    with urllib.request.urlopen(address, timeout=30) as reply:
        return str(json.load(reply)["note"]["body"])


@pytest.mark.slow
def test_a_search_beside_an_open_dashboard_ends_without_an_error(tmp_path: Path) -> None:
    study = toy.create(tmp_path)
    number = study.number
    study.close()
    process, address = serve(tmp_path, "--study", "toy")
    try:
        words = [sys.executable, str(Path(toy.__file__)), str(tmp_path), "40", "0.1"]
        paths = os.pathsep.join(path for path in sys.path if path)
        (tmp_path / "hold").touch()
        search = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths})
        asked, seen = 0, set()
        while search.poll() is None:
            with urllib.request.urlopen(f"{address}/api/studies/{number}", timeout=30) as reply:
                shown = json.load(reply)
            seen.add(len(shown["trials"]))
            asked += 1
            if asked == 5:
                (tmp_path / "hold").unlink()
        assert (search.returncode, search.communicate()[1]) == (0, "")
        assert asked >= 5
        assert min(seen) <= 1
        before = dump(tmp_path)
        deadline = time.monotonic() + 90
        while "of 40 finished" not in note_of(f"{address}/api/studies/{number}"):
            assert time.monotonic() < deadline, "the dashboard looks again after some seconds"
            time.sleep(1)
        wanted = urllib.request.Request(f"{address}/api/studies/{number}", method="DELETE")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(wanted, timeout=30)
        assert refused.value.code == 403
        refused.value.close()
        assert dump(tmp_path) == before
    finally:
        process.terminate()
        said = process.communicate(timeout=30)[1]
    assert (process.returncode, said) == (0, "")
    opened = Study.open("toy", toy.url(tmp_path))
    assert len(opened.rows()) == 40
    assert opened.failures() == []
    opened.close()
