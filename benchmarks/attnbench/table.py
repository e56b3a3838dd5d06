"""The table as a file, and as data: every architecture of a small space with its learning curves and what it costs.

A packed table is a gzipped text file: a line of JSON that begins with ``#``, a line of column names, then one line a
training, all tab-separated. Accuracies are counts of correct images, which is exact and short.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

PACKED = Path(__file__).with_name("digits.tsv.gz")
COLUMNS = (
    *("architecture", "seed", "machine", "curve", "losses", "test", "seconds", "ratio", "bare_ms"),
    *("nominal_ms", "parameters", "macs", "memory_bytes", "failure"),
)


@dataclass(frozen=True, kw_only=True)
class Header:
    """What holds for all trainings of a table."""

    protocol: dict[str, Any]
    """The protocol, but for what names machine and software, and with seed 0."""
    space: str
    """Hash of the space."""
    images: dict[str, int]
    """Number of images of train, val and test."""
    machines: list[str]
    """Devices, in words, with the versions of the software."""

    def check(self, other: Header) -> None:
        """Raise unless another table was made in the same way.

        Raises:
            ValueError: If it was not.
        """
        for name in ("protocol", "space", "images"):
            mine, yours = getattr(self, name), getattr(other, name)
            if mine != yours:
                raise ValueError(f"two tables differ in {name}: {mine} and {yours}")

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


@dataclass(frozen=True)
class Training:
    """One architecture, trained with one seed."""

    architecture: str
    """Its id."""
    seed: int
    machine: str
    """Device and software, in words."""
    curve: Sequence[int] = ()
    """Correct validation images after each epoch; empty where the training failed."""
    losses: Sequence[float] = ()
    """Mean training loss of each epoch."""
    test: int | None = None
    """Correct test images after the last epoch."""
    seconds: float = 0.0
    """CPU time of training and timing."""
    ratio: Sequence[float] = ()
    """Latency over that of the bare backbone, and the ends of its 95 % interval; empty but for seed 0."""
    bare_ms: float | None = None
    """Latency of the bare backbone in the same call, in ms."""
    nominal_ms: float | None = None
    """The counted latency, in ms."""
    parameters: int | None = None
    macs: int | None = None
    memory_bytes: int | None = None
    failure: str = ""
    """Why the training failed."""


@dataclass(frozen=True)
class Part:
    """Some of the trainings."""

    header: Header
    rows: list[Training] = field(default_factory=list)


def whole_lines(path: Path) -> list[str]:
    """Return the lines of a file, without a last one that was cut off and has no end; none where there is no file."""
    *whole, _ = path.read_text().split("\n") if path.exists() else [""]
    return whole


def read_lines(path: Path) -> Part | None:
    """Read what the maker has appended: a header, then a training a line. None where there is not even a header."""
    lines = whole_lines(path)
    if not lines:
        return None
    first, *rest = lines
    return Part(Header(**json.loads(first)), [Training(**json.loads(line)) for line in rest])


@contextmanager
def appended(path: Path, header: Header) -> Iterator[TextIO]:
    """Open a file of lines to append to, without half a line at its end, and with a header at its beginning."""
    lines = whole_lines(path)
    with path.open("a") as file:
        file.truncate(sum(len(line.encode()) + 1 for line in lines))
        if not lines:
            file.write(header.to_json() + "\n")
        yield file


def read(path: Path) -> Part:
    """Read a packed table."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        header = Header(**json.loads(file.readline().removeprefix("#")))
        return Part(header, [_training(line, header) for line in csv.DictReader(file, delimiter="\t")])


def pack(parts: Iterable[Part], path: Path) -> str:
    """Write the trainings of all parts into a packed table, each once, and say how many there are.

    Equal contents give equal bytes, so that a repository sees no change where there is none.
    """
    first, *others = parts
    rows: dict[tuple[int, str], Training] = {}
    for part in (first, *others):
        first.header.check(part.header)
        for row in part.rows:
            rows.setdefault((row.seed, row.architecture), row)
    machines = sorted({row.machine for row in rows.values()})
    header = dataclasses.replace(first.header, machines=machines)
    text = io.StringIO(newline="")
    text.write(f"#{header.to_json()}\n")
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(COLUMNS)
    for _, row in sorted(rows.items()):
        writer.writerow([_cell(name, getattr(row, name), machines) for name in COLUMNS])
    path.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
    return f"{path.name}: {len(rows)} trainings, {path.stat().st_size / 1e6:.2f} MB"


def _cell(name: str, value: Any, machines: Sequence[str]) -> str:
    if name == "machine":
        return str(machines.index(value))
    if name == "ratio":
        return " ".join(f"{part:.5f}" for part in value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    return "" if value is None else str(value)


def _training(cells: dict[str, str], header: Header) -> Training:
    """Read one line; what is empty is not known."""
    whole = ("seed", "test", "parameters", "macs", "memory_bytes")
    found: dict[str, Any] = {name: int(cells[name]) if cells[name] else None for name in whole}
    found |= {name: float(cells[name]) if cells[name] else None for name in ("bare_ms", "nominal_ms", "seconds")}
    found |= {name: tuple(map(float, cells[name].split())) for name in ("losses", "ratio")}
    found["curve"] = tuple(map(int, cells["curve"].split()))
    found["machine"] = header.machines[int(cells["machine"])]
    return Training(architecture=cells["architecture"], failure=cells["failure"], **found)
