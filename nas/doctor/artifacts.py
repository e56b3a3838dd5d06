"""Are the files of a study there, whole, and those of its database? Which are left over?"""

from __future__ import annotations

import csv
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from nas import export
from nas.answer import recommend
from nas.export.config import ConfigError
from nas.front import Row
from nas.seeds import FURTHER
from nas.study import Study
from nas.study.checkup import Finding, broken, mendable, needed, sound
from nas.study.inventory import Inventory

PAGES = ("report.html", "pareto.html")
WRITTEN_AGAIN = "the study's files are written again"
LEFT_SECONDS = 60.0
"""So long a temporary file must not have changed to be taken for one that a dead process has left."""
LEFT_ELSEWHERE_SECONDS = 3600.0
"""The same where nothing is known of the process: it may be one of another machine."""
STOPPED = "stopped"
"""Name of the folder that holds trainings which may be gone on with."""
_COUNTED = re.compile(r"<h2>Front: \d+ of (\d+) finished trials</h2>")
_PROCESS = re.compile(r"\.(\d+)(?:\.\d+)?\.tmp$")


def check_files(study: Study, folder: Path, held: Inventory, *, is_live: bool, build: bool) -> Iterator[Finding]:
    """Check the files of a study.

    Args:
        study: The study.
        folder: Its folder.
        held: What it has in its database.
        is_live: Whether a search is at work, which writes the files from time to time.
        build: Whether to build the network of best.json, too: takes torch.
    """
    rows = study.rows()
    for finding in (
        _check_pages(folder, rows),
        _check_front(folder / "front.csv", rows),
        _check_best(folder / "best.json", rows, build=build),
    ):
        if is_live and finding.is_mendable:
            yield sound(finding.check, f"{finding.words}: the search that is at work writes it")
        else:
            yield finding
    yield _check_split(study, folder / "split.json")
    yield _check_stopped(folder, held)
    yield _check_temporary(folder)


def _check_pages(folder: Path, rows: list[Row]) -> Finding:
    """Check that the pages are there and of as many finished trials as the database has."""
    for name in PAGES:
        try:
            text = (folder / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return mendable("pages", f"{name} is missing in {folder}", WRITTEN_AGAIN)
        except (OSError, ValueError) as error:
            return mendable("pages", f"{name} cannot be read: {type(error).__name__}: {error}", WRITTEN_AGAIN)
        counted = _COUNTED.search(text)
        count = int(counted[1]) if counted else 0
        if "</html>" not in text[-64:] or count != len(rows):
            words = f"{name} shows {count} of {len(rows)} finished trials, or is not whole"
            return mendable("pages", words, WRITTEN_AGAIN)
    return sound("pages", f"{' and '.join(PAGES)}, of {len(rows)} finished trials")


def _check_front(path: Path, rows: list[Row]) -> Finding:
    """Check that front.csv has the finished trials of the database, with their accuracies and the front."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            said = {_told(line) for line in csv.DictReader(file)}
    except FileNotFoundError:
        return mendable("front.csv", f"missing in {path.parent}", WRITTEN_AGAIN)
    except (OSError, ValueError, csv.Error, KeyError, TypeError) as error:
        return mendable("front.csv", f"cannot be read: {type(error).__name__}: {error}", WRITTEN_AGAIN)
    known = {(row.trial, row.architecture.id, row.accuracy, row.on_front) for row in rows}
    if said != known:
        count = len(known ^ said)
        return mendable("front.csv", f"and the database differ in {count} rows, of {len(known)}", WRITTEN_AGAIN)
    return sound("front.csv", f"{len(known)} rows, those of the database")


def _told(line: dict[str, str]) -> tuple[int, str, float, bool]:
    return int(line["trial"]), line["architecture"], float(line["accuracy"]), line["on_front"] == "True"


def _check_best(path: Path, rows: list[Row], *, build: bool) -> Finding:
    """Check that best.json loads, is what the study recommends, and builds the network whose figures it has."""
    name = "best.json"
    if not rows:
        return sound(name, "none yet, as no trial has finished")
    try:
        architecture, content = export.read(path)
    except ConfigError as error:
        return mendable(name, str(error), WRITTEN_AGAIN)
    if (best := recommend(rows).row.architecture).id != architecture.id:
        known = "no trial of the study" if architecture.id not in {row.architecture.id for row in rows} else "another"
        words = f"holds {architecture.id}, {known}; the study recommends {best.id}"
        return mendable(name, words, WRITTEN_AGAIN)
    words = f"{architecture.id}, which the study recommends"
    if not build:
        return sound(name, words)
    expected = content["evidence"].get("parameters")
    try:
        found = sum(parameter.numel() for parameter in export.build(architecture, content).parameters())
    except Exception as error:  # timm and torch fail in many ways where the backbone is another
        told = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return broken(name, f"does not build: {told}", "install the version of timm that the study was made with")
    if found != expected:
        cure = "install the versions of torch and timm that the study was made with"
        return broken(name, f"builds a network of {found} parameters, but {expected} were recorded", cure)
    return sound(name, f"{words}; it builds, with the recorded {found} parameters")


def _check_split(study: Study, path: Path) -> Finding:
    """Check that split.json says how the data were cut that the study is bound to."""
    name, cure = "split.json", "the data are read again, and their split is written"
    if study.inputs is None:
        return sound(name, "none: nobody noted which data these were")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        kept = found["hash"]
    except FileNotFoundError:
        return mendable(name, f"missing in {path.parent}", cure)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return mendable(name, f"cannot be read: {type(error).__name__}: {error}", cure)
    if kept != study.protocol.data_hash:
        return mendable(name, f"is of data {kept}, but the study was made on {study.protocol.data_hash}", cure)
    return sound(name, f"of the data that the study is bound to, {kept}")


def _check_stopped(folder: Path, held: Inventory) -> Finding:
    name = "stopped trainings"
    if left := list(left_trainings(folder, held)):
        return mendable(name, f"{len(left)} files of trainings that nothing will go on with", "they are removed")
    count = len(list((folder / STOPPED).glob("*.pt")))
    return sound(name, f"{count} files, each of a training that may go on" if count else "no files")


def left_trainings(folder: Path, held: Inventory) -> Iterator[Path]:
    """Yield the files of stopped trainings that belong to no trial which may go on. Ask under the study's lock."""
    wanted = needed(held)
    for path in sorted((folder / STOPPED).glob("*.pt")):
        if path.name.startswith(FURTHER):  # of a further seed: no trial tells whether that will be gone on with
            continue
        if path.name.split("-")[0].split(".")[0] not in wanted:  # a file's name begins with the architecture's id
            yield path


def _check_temporary(folder: Path) -> Finding:
    left = list(left_temporaries(folder))
    if left:
        return mendable("temporary files", f"{len(left)} that crashes have left: {_names(left)}", "they are removed")
    return sound("temporary files", "none left")


def left_temporaries(folder: Path) -> Iterator[Path]:
    """Yield the temporary files in a study's folder that processes have left which are gone."""
    for path in sorted(folder.rglob(".*.tmp")):
        try:
            age = time.time() - path.stat().st_mtime
        except OSError:  # it has just been renamed
            continue
        match = _PROCESS.search(path.name)
        patience = LEFT_SECONDS if match and _is_gone(int(match[1])) else LEFT_ELSEWHERE_SECONDS
        if age > patience:
            yield path


def _is_gone(process: int) -> bool:
    """Tell whether a process of this machine is known to have ended."""
    if os.name != "posix":  # elsewhere the question would end it
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _names(paths: Iterable[Path]) -> str:
    names = [path.name for path in paths]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
