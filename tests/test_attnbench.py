"""The table of trained architectures: what is written is what is read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from attnbench.table import Header, Part, Training, appended, pack, read, read_lines, whole_lines

HEADER = Header(protocol={"epochs": 3}, space="0" * 16, images={"train": 10, "val": 20, "test": 30}, machines=["one"])
ROWS = [
    Training("b", 0, "one", (3, 5, 9), (2.5, 1.25, 0.5), 14, 1.5, (1.25, 1.2, 1.3), 0.75, 1.5, 100, 2000, 3000),
    Training("a", 0, "one", failure="non-finite loss in epoch 2", ratio=(1.5, 1.4, 1.6), bare_ms=0.5),
    Training("b", 1, "two", (4, 4, 10), (2.25, 1.0, 0.25), 15, 2.0),
]


def write_lines(path: Path, rows: list[Training], cut: int = 0) -> Path:
    text = "\n".join([HEADER.to_json(), *(json.dumps(dataclasses.asdict(row)) for row in rows)]) + "\n"
    path.write_text(text[: len(text) - cut])
    return path


def test_a_packed_table_is_what_was_made(tmp_path: Path) -> None:
    part = read_lines(write_lines(tmp_path / "a.jsonl", ROWS))
    assert part is not None
    assert "3 trainings" in pack([part], tmp_path / "a.tsv.gz")
    packed = read(tmp_path / "a.tsv.gz")
    assert packed.header.machines == ["one", "two"]
    assert packed.rows == sorted(ROWS, key=lambda row: (row.seed, row.architecture))


def test_packing_again_adds_what_is_new_and_keeps_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv.gz"
    pack([Part(HEADER, ROWS[:2])], path)
    before = path.read_bytes()
    changed = dataclasses.replace(ROWS[0], test=0)
    pack([read(path), Part(HEADER, [changed])], path)
    assert path.read_bytes() == before
    pack([read(path), Part(HEADER, ROWS)], path)
    assert len(read(path).rows) == 3


@pytest.mark.parametrize(("cut", "rows"), [(0, 3), (1, 2), (20, 2)])
def test_a_line_that_was_cut_off_is_made_again(tmp_path: Path, cut: int, rows: int) -> None:
    path = write_lines(tmp_path / "a.jsonl", ROWS, cut)
    part = read_lines(path)
    assert part is not None
    assert [row.seconds for row in part.rows] == [row.seconds for row in ROWS[:rows]]
    assert sum(len(line) + 1 for line in whole_lines(path)) <= path.stat().st_size


def test_what_is_appended_after_a_cut_stands_in_a_line_of_its_own(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", ROWS, cut=20)
    with appended(path, HEADER) as file:
        file.write(json.dumps(dataclasses.asdict(ROWS[0])) + "\n")
    part = read_lines(path)
    assert part is not None
    assert [row.seconds for row in part.rows] == [row.seconds for row in (*ROWS[:2], ROWS[0])]


@pytest.mark.parametrize("content", [None, "", '{"protocol": '], ids=["no file", "empty", "half a header"])
def test_without_a_header_it_begins_anew(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "a.jsonl"
    if content is not None:
        path.write_text(content)
    assert read_lines(path) is None
    with appended(path, HEADER):
        pass
    assert path.read_text() == HEADER.to_json() + "\n"
    part = read_lines(path)
    assert part is not None
    assert (part.header, part.rows) == (HEADER, [])


def test_tables_of_other_protocols_do_not_mix(tmp_path: Path) -> None:
    other = dataclasses.replace(HEADER, protocol={"epochs": 9})
    with pytest.raises(ValueError, match="differ in protocol"):
        pack([Part(HEADER, ROWS), Part(other, ROWS)], tmp_path / "a.tsv.gz")
