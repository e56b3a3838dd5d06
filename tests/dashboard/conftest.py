"""Studies that the tests of the dashboard look at."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import toy
from boards import flags, make

from nas import dashboard
from nas.study import Study


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of studies that nobody opens, to be copied."""
    return make(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def folder(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("shared") / "studies"))


@pytest.fixture(scope="module")
def app(folder: Path) -> Iterator[Any]:
    study = Study.open("toy", toy.url(folder))
    yield dashboard.app(study, folder, flags=flags)
    study.close()


@pytest.fixture
def own(made: Path, tmp_path: Path) -> Iterator[tuple[Study, Path]]:
    """A study that a test may change, with its folder of studies."""
    folder = Path(shutil.copytree(made, tmp_path / "studies"))
    study = Study.open("toy", toy.url(folder))
    yield study, folder
    study.close()
