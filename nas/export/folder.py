"""A folder that holds one network in several forms, and the proof that they are one: written, refreshed, checked."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas import strict_json
from nas.architecture import Architecture
from nas.export import page, standalone
from nas.export.config import CONFIG, WEIGHTS, ConfigError, alone_in, read, write

PROOF_SCHEMA = 1
"""Version of the proof's form."""
PROOF = "proof.json"
ALWAYS = (CONFIG, "model.py", "reference.safetensors", "README.md")
"""Files that every folder has, beside the proof."""
OPTIONAL = (WEIGHTS, "model.onnx", "model.onnx.data")
"""Files that a folder may have."""
SECONDS = 2.0
"""Longest sampling of the latencies, in seconds."""
_STAGING = ".nas-export-"
_LOCK = f"{_STAGING}lock"
_KEYS = {"schema", "id", "program", "files", "figures", "seal"}


class FolderError(ValueError):
    """A folder cannot be written, or is not what it was when it was proved; the message says which file and what."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What came of a check."""

    architecture: Architecture
    """What the folder holds."""
    figures: dict[str, Any]
    """The proof's figures, found anew."""
    notes: tuple[str, ...]
    """What could not be checked, or is beside what was exported."""


def export(
    content: dict[str, Any],
    out: str | Path,
    *,
    weights: str | Path | None = None,
    onnx: bool = False,
    seconds: float = SECONDS,
    on_start: Callable[[], object] | None = None,
) -> dict[str, Any]:
    """Write a folder, after proving that the files in it are one network, or leave everything as it was.

    A folder that holds an export of the same architecture is refreshed: its weights stay, unless others are given, and
    its ``model.onnx`` is written anew. A folder with this architecture's config, but no proof, is filled if it has no
    file of a name that an export writes, but for weights. Any other folder that is not empty is refused.

    Args:
        content: The config, as :func:`nas.export.config` returns it.
        out: The folder.
        weights: Trained weights of the whole network: a .safetensors file, or a state dict that torch has saved.
        onnx: Whether ``model.onnx`` is written, too.
        seconds: Longest sampling of the latencies, in seconds; 0 for none.
        on_start: Called once nothing is known any more that would forbid it, before the work begins.

    Returns:
        The proof's figures, as JSON values.

    Raises:
        FolderError: If the folder cannot be written, or holds something else.
        nas.export.proof.ProofError: If the files are not one network, or the weights are not of it.
        nas.export.onnx_file.OnnxError: If ONNX is wanted and cannot be written here.
        ConfigError: If the config is none, or another export writes into the folder.
        ValueError: If the network cannot be built.
    """
    out = Path(out)
    existed = out.exists()
    _check_place(out, content["id"])
    _check_seconds(seconds)
    if weights is not None and not Path(weights).is_file():
        raise FolderError(f"there is no file {weights} with weights")
    try:
        with alone_in(out, _LOCK):
            old = _check_place(out, content["id"], onnx)  # once more, as another export may just have ended
            onnx = onnx or "model.onnx" in old
            before = _hash_if_there(out / WEIGHTS)
            if weights is None and before is not None:
                weights = out / WEIGHTS
            if onnx:
                from nas.export import onnx_file

                onnx_file.check_exporter()
            if on_start is not None:
                on_start()
            with _staging(out) as staging:
                figures = _fill(staging, content, Path(weights) if weights is not None else None, onnx, seconds)
                _move(staging, out, old, before)
    finally:
        if not existed:
            with suppress(OSError):  # it holds something
                out.rmdir()
    return figures


def _check_seconds(seconds: float) -> None:
    if not 0 <= seconds < math.inf:
        raise FolderError(f"the seconds of a latency must be at least 0 and finite, but got {seconds}")


def _check_place(out: Path, wanted: str, onnx: bool = False) -> frozenset[str]:
    """Refuse what is no folder, or holds anything but this architecture; return the names that its proof lists."""
    if not out.exists():
        return frozenset()
    if not out.is_dir():
        raise FolderError(f"cannot write {out}: it is no folder")
    if all(path.name.startswith(_STAGING) for path in out.iterdir()):
        return frozenset()
    try:
        found, _ = read(out / CONFIG)
    except ConfigError as error:
        raise FolderError(
            f"cannot write {out}: the folder holds something else than an export; give a new one with --out"
        ) from error
    if found.id != wanted:
        raise FolderError(
            f"cannot write {out}: it holds another architecture, {found.id} ({found.describe()}) and not {wanted}; "
            "give a new folder with --out"
        )
    try:
        said = strict_json.load(out / PROOF)
        listed = said["files"] if set(said) == _KEYS else ()
        old = frozenset(listed) & {*ALWAYS, *OPTIONAL} | ({PROOF} if listed else frozenset())
    except (OSError, ValueError, LookupError, TypeError):  # no proof, or not one of an export
        old = frozenset()
    written = (*ALWAYS[1:], PROOF, *(OPTIONAL[1:] if onnx else ()))
    foreign = [name for name in written if name not in old and os.path.lexists(out / name)]
    foreign += [WEIGHTS] if os.path.lexists(out / WEIGHTS) and not (out / WEIGHTS).is_file() else []
    if foreign:
        raise FolderError(
            f"cannot write {out}: no export has written its {', '.join(foreign)}, which would be replaced; move that "
            "away, or give a new folder with --out"
        )
    return old


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    for path in out.glob(f"{_STAGING}*"):  # somebody was killed: none alive is here, besides the holder of the lock
        if path.name != _LOCK:
            shutil.rmtree(path, ignore_errors=True)
    path = Path(tempfile.mkdtemp(prefix=_STAGING, dir=out))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _fill(folder: Path, content: dict[str, Any], weights: Path | None, onnx: bool, seconds: float) -> dict[str, Any]:
    """Write all files of an export into a folder, and return the figures of their proof."""
    from safetensors.torch import save

    from nas.export import onnx_file, proof

    write(content, folder / CONFIG)
    architecture, content = read(folder / CONFIG)
    subject = proof.Subject(architecture=architecture, content=content, folder=folder)
    text = standalone.source(architecture, content)
    (folder / "model.py").write_text(text, encoding="utf-8")
    if weights is not None:
        model = subject.build()
        proof.load_weights(model, weights)
        if weights.name == WEIGHTS:
            shutil.copyfile(weights, folder / WEIGHTS)  # bit by bit, with what a training has noted in it
        else:
            # clones, as tensors that share memory cannot be written
            state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            (folder / WEIGHTS).write_bytes(save(state))
        subject = dataclasses.replace(subject, weights=folder / WEIGHTS)
    (folder / "reference.safetensors").write_bytes(save(proof.reference(subject)))
    if onnx:
        onnx_file.write(subject.build(subject.weights), subject.images("images", 3), folder / "model.onnx")
    figures = proof.prove(subject, seconds=seconds, onnx=onnx)
    (folder / "README.md").write_text(page.page(architecture, content, figures, _present(folder)), encoding="utf-8")
    listed = {name: _hash(folder / name) for name in (*ALWAYS, *_present(folder))}
    said = {
        "schema": PROOF_SCHEMA,
        "id": architecture.id,
        "program": standalone.program(),
        "files": dict(sorted(listed.items())),
        "figures": figures,
    }
    (folder / PROOF).write_text(_sealed(said), encoding="utf-8")
    return figures


def _move(staging: Path, out: Path, old: frozenset[str], before: str | None) -> None:
    """Move an export to where it belongs; its proof comes first.

    If this process is killed, the proof says whose folder it is, so that the export can be repeated; and as it lists a
    hash of each file, it stands for no others. What an ``old`` export has written goes. Weights are never removed, and
    are replaced only if their sha256 is the one ``before``: a training may have ended meanwhile.
    """
    now = _hash_if_there(out / WEIGHTS)
    if now != before:
        raise FolderError(
            f"{out / WEIGHTS} was written while this export ran, perhaps by a training; nothing was changed: export "
            "once more, with the new weights"
        )
    for name in old - {WEIGHTS}:
        if not (staging / name).exists():
            (out / name).unlink(missing_ok=True)
    if now is not None and now == _hash_if_there(staging / WEIGHTS):
        (staging / WEIGHTS).unlink()  # they lie where they belong, and so cannot replace what comes just now
    for name in (PROOF, *ALWAYS, *OPTIONAL):
        if (staging / name).exists():
            os.replace(staging / name, out / name)


def check(folder: str | Path, *, seconds: float = SECONDS, trust: bool = False) -> Checked:
    """Check that a folder is what it was when it was exported, and repeat its proof.

    ``model.py`` is executed only if it is, letter by letter, what this program writes for ``architecture.json``, or if
    it is trusted; the other files are only read.

    Args:
        folder: The folder.
        seconds: Longest sampling of the latencies, in seconds; 0 for none.
        trust: Whether a ``model.py`` that another version wrote is executed, too.

    Raises:
        FolderError: If a file is missing, or was changed.
        ConfigError: If ``architecture.json`` cannot be read.
        nas.export.proof.ProofError: If the files are not one network.
        ValueError: If the network cannot be built, or another file cannot be read.
    """
    folder = Path(folder)
    _check_seconds(seconds)
    said = _read_proof(folder)
    _check_hashes(folder, said["files"])
    architecture, content = read(folder / CONFIG)
    if architecture.id != said["id"]:
        raise FolderError(f"{folder / PROOF} is about {said['id']}, but architecture.json holds {architecture.id}")
    notes = [f"{name} is beside what was exported" for name in _others(folder, said["files"])]
    same = (folder / "model.py").read_text(encoding="utf-8") == standalone.source(architecture, content)
    if not same:
        if said["program"] == standalone.program():
            raise FolderError(
                f"{folder / 'model.py'} is not what is written for architecture.json: one of the two was changed"
            )
        by = ", ".join(f"{name} {version}" for name, version in said["program"].items() if name != "source")
        ran = "it was executed all the same" if trust else "it was not executed; --trust executes it"
        notes.append(f"model.py was written by another version of this program ({by}), whose text is another: {ran}")
    from nas.export import proof

    weights = folder / WEIGHTS if WEIGHTS in said["files"] else None
    subject = proof.Subject(architecture=architecture, content=content, folder=folder, weights=weights)
    if weights is None and (folder / WEIGHTS).is_file():
        proof.load_weights(subject.build(), folder / WEIGHTS)
        notes.append(f"{WEIGHTS} came later; it fits. To make it part of the proof, {_again(folder)}")
    figures = proof.prove(subject, seconds=seconds, runs_code=same or trust, onnx="model.onnx" in said["files"])
    return Checked(architecture=architecture, figures=figures, notes=tuple(notes))


def _check_hashes(folder: Path, hashes: dict[str, str]) -> None:
    for name, expected in hashes.items():
        path = folder / name
        if not path.is_file():
            raise FolderError(f"{path} is missing: the proof was made with it")
        if _hash(path) != expected:
            hint = f"; if that was meant, as after a training, {_again(folder)}" if name == WEIGHTS else ""
            raise FolderError(f"{path} was changed since the proof was made: its sha256 is another one{hint}")


def _again(folder: Path) -> str:
    """Return how weights become a part of the proof."""
    evidence = read(folder / CONFIG)[1]["evidence"]
    words = f"export into the folder again: run_search.py export --out {shlex.quote(str(folder))}"
    try:
        return f"{words} --pick trial:{int(evidence['trial'])} --study {shlex.quote(evidence['study'])}"
    except (LookupError, TypeError, ValueError):  # a config that no study has written
        return words


def _read_proof(folder: Path) -> dict[str, Any]:
    """Read a proof strictly: nothing but what was written comes through."""
    if not folder.is_dir():
        raise FolderError(f"{folder} is no folder; give one that run_search.py export has written")
    path = folder / PROOF
    try:
        text = strict_json.read(path)
        said = strict_json.loads(text)
    except FileNotFoundError as error:
        raise FolderError(f"{path} is missing: {folder} is no export, or not a whole one") from error
    except (OSError, strict_json.JsonError) as error:
        raise FolderError(f"{path} cannot be read, it was changed: {error}") from error
    if not isinstance(said, dict) or set(said) != _KEYS or text != _sealed(said).encode():
        raise FolderError(f"{path} was changed since it was written: its seal is another one")
    if said["schema"] != PROOF_SCHEMA:
        raise FolderError(
            f"{path} has schema {strict_json.short(said['schema'])}, but this version reads {PROOF_SCHEMA}"
        )
    names, known = said["files"], {*ALWAYS, *OPTIONAL}
    if not isinstance(names, dict) or not set(ALWAYS) <= set(names) <= known or not isinstance(said["program"], dict):
        raise FolderError(f"{path} must list {', '.join(ALWAYS)} and none but these and {', '.join(OPTIONAL)}")
    return said


def _sealed(said: dict[str, Any]) -> str:
    """Return a proof as text, with a hash of all else in it: what changes by accident shows."""
    rest = {name: value for name, value in said.items() if name != "seal"}
    seal = hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    return json.dumps({**rest, "seal": seal}, indent=2, sort_keys=True) + "\n"


def _present(folder: Path) -> list[str]:
    return [name for name in OPTIONAL if (folder / name).exists()]


def _others(folder: Path, listed: dict[str, str]) -> list[str]:
    """Return what lies in a folder beside the export, but for what Python, editors and ``train`` leave behind."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    own = {*listed, PROOF, WEIGHTS, "__pycache__"} | (
        {"train"} if (folder / "train" / "recipe.json").exists() else set()
    )
    return [name for name in names if name not in own]


def _hash_if_there(path: Path) -> str | None:
    return _hash(path) if path.is_file() else None


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for part in iter(lambda: file.read(1 << 20), b""):
            digest.update(part)
    return digest.hexdigest()
