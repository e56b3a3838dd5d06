"""Configs, architectures, exported folders and spaces in JSON that were changed: refused in words, or read as they are.

A few hundred examples of each here, and 20,000 where the slow tests run. NAS_FUZZ_SEED=N looks at others.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import toy
from hypothesis import given
from made_config import write_config
from mutations import changed, fuzzing

import nas
from nas import export, placement
from nas.architecture import Architecture, Placement
from nas.export import folder as folders
from nas.export import proof, standalone
from nas.space import SearchSpace, restored

QUICK = 300
MANY = {"architecture": 4000, "config": 6000, "space": 6000, "stored": 4000}
"""Examples where the slow tests run: some 1 to 4 ms each."""
SECONDS = 20
"""Longest that one example may take: anything beyond is a hang."""
PLACEMENTS = (
    Placement(stage=1, block="cbam", options={"kernel_size": 3}),
    Placement(stage=2, block="gc"),
    Placement(stage=3, block="eca", position="in_residual", init="identity"),
    Placement(stage=4, block="se", options={"reduction": 4}, init="identity"),
)
SPACES = (
    SearchSpace(backbones=("test_resnet",), blocks=("se", "eca", "simam")),
    SearchSpace(
        backbones=("toy", "toy2"),
        blocks={"se": {"reduction": (4, 16)}, "cbam": {}, "shuffle": {"groups": (None, 8)}, "gc": {}},
        stages=(1, 2),
        positions=("after_stage", "in_residual"),
        init="paper",
        max_blocks=2,
    ),
)


class Hang(BaseException):
    """An example took too long; no reader may catch this."""


@contextmanager
def in_time() -> Iterator[None]:
    """Raise :class:`Hang` unless what is within ends soon."""

    def over(_signal: int, _frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def refused_or_read(read: Callable[[], Any]) -> Any:
    """Return what is read, or None if it is refused as it should be: a ValueError with words, and not too many."""
    with in_time():
        try:
            return read()
        except ValueError as error:
            words = str(error)
    assert words.strip()
    assert "Traceback" not in words
    assert len(words) < 10_000
    return None


@cache
def original() -> dict[str, Any]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = write_config(Path(folder, "best.json"), placements=PLACEMENTS)
        content: dict[str, Any] = json.loads(path.read_text())
    content["evidence"] = {"study": "toy", "trial": 3, "limit": 200, "accuracy": 0.9, "latency": {"ratio": 1.1}}
    return content


def check_architecture(text: bytes) -> None:
    found = refused_or_read(lambda: Architecture.from_json(text.decode(errors="replace")))
    if found is not None:
        assert Architecture.from_json(found.to_json()) == found


def check_config(path: Path, text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read a config, and build what can be read; without data, as a network of any size may stand there."""
    path.write_bytes(text)
    found = refused_or_read(lambda: export.read(path))
    if found is not None:
        assert found[0].id == found[1]["id"]
        with monkeypatch.context() as patch:
            patch.setattr(placement, "create", partial(placement.create, device="meta"))
            refused_or_read(lambda: nas.load(path))
    export.check_replaceable(path) if found is not None else refused_or_read(lambda: export.check_replaceable(path))
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == text


def check_space(text: bytes) -> None:
    found = refused_or_read(lambda: SearchSpace.from_json(text))
    if found is not None:
        assert SearchSpace.from_json(found.to_json()) == found
        stages = dict.fromkeys(found.backbones, toy.STAGES)
        resolved = refused_or_read(lambda: found.resolve(stages))
        if resolved is not None:
            assert resolved.size() >= 1
            resolved.sample(lambda name, options: options[-1])


def check_stored(text: bytes) -> None:
    """Read a resolved space as a study keeps it."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return  # Optuna keeps JSON that can be read
    found = refused_or_read(lambda: restored(data, {"toy": toy.STAGES, "toy2": toy.STAGES}))
    if found is not None:
        with in_time():
            found.sample(lambda name, options: options[-1])
            found.controls()


def stored() -> list[dict[str, Any]]:
    return [toy.space().to_dict(), toy.space(positions=("replace", "in_residual")).to_dict()]


class TestQuick:
    """A few examples, always the same."""

    @fuzzing(QUICK)
    @given(changed([original()["architecture"]]))
    def test_architectures(self, text: bytes) -> None:
        check_architecture(text)

    @fuzzing(QUICK)
    @given(changed([original()]))
    def test_configs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
        check_config(tmp_path / "best.json", text, monkeypatch)

    @fuzzing(QUICK)
    @given(changed([space.to_dict() for space in SPACES]))
    def test_spaces(self, text: bytes) -> None:
        check_space(text)

    @fuzzing(QUICK)
    @given(changed(stored()))
    def test_stored_spaces(self, text: bytes) -> None:
        check_stored(text)


@pytest.mark.slow
class TestMany:
    """The same, at length."""

    @fuzzing(MANY["architecture"])
    @given(changed([original()["architecture"]]))
    def test_architectures(self, text: bytes) -> None:
        check_architecture(text)

    @fuzzing(MANY["config"])
    @given(changed([original()]))
    def test_configs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
        check_config(tmp_path / "best.json", text, monkeypatch)

    @fuzzing(MANY["space"])
    @given(changed([space.to_dict() for space in SPACES]))
    def test_spaces(self, text: bytes) -> None:
        check_space(text)

    @fuzzing(MANY["stored"])
    @given(changed(stored()))
    def test_stored_spaces(self, text: bytes) -> None:
        check_stored(text)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported folder, proved."""
    out = tmp_path_factory.mktemp("exported") / "best"
    model = placement.build(Architecture.from_dict(original()["architecture"]), num_classes=10, in_channels=1)
    canonical = Architecture.from_dict(original()["architecture"]).canonical(placement.stages(model))
    content = {**original(), "architecture": canonical.to_dict(), "id": canonical.id}
    folders.export(content, out, seconds=0)
    return out


def resealed(out: Path, name: str, text: bytes) -> None:
    """Write a file into an exported folder, and make the proof say that it belongs there, as an attacker would."""
    (out / name).write_bytes(text)
    if name == folders.PROOF:
        try:
            said = json.loads(text)
            (out / name).write_text(folders._sealed(said), encoding="utf-8")
        except (ValueError, RecursionError, AttributeError):
            return  # it stays as it is
        return
    said = json.loads((out / folders.PROOF).read_text())
    said["files"][name] = folders._hash(out / name)
    (out / folders.PROOF).write_text(folders._sealed(said), encoding="utf-8")


def check_folder(exported: Path, tmp_path: Path, name: str, text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "copy"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(exported, out)
    resealed(out, name, text)
    before = {path: path.read_bytes() for path in out.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(placement, "create", partial(placement.create, device="meta"))
        patch.setattr(proof, "prove", lambda *_, **__: {"figures": "not found anew"})
        patch.setattr(standalone, "source", lambda *_: (exported / "model.py").read_text())
        refused_or_read(lambda: folders.check(out, seconds=0))
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


@fuzzing(100)
@given(changed([original()]))
def test_exported_folders_with_another_config(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes
) -> None:
    check_folder(exported, tmp_path, "architecture.json", text, monkeypatch)


PROOF = {
    "schema": 1,
    "id": "0" * 12,
    "program": {"nas": "0.1.0", "timm": "1", "source": "0"},
    "files": {**dict.fromkeys(folders.ALWAYS, "0" * 64), "../../x": "0" * 64},
    "figures": {},
    "seal": "",
}


@fuzzing(100)
@given(changed([PROOF]))
def test_exported_folders_with_another_proof(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes
) -> None:
    check_folder(exported, tmp_path, folders.PROOF, text, monkeypatch)
