"""The table of trained architectures: what is written is what is read."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from attnbench.table import Header, Part, Training, pack, read, read_lines

HEADER = Header(protocol={"epochs": 3}, space="0" * 16, images={"train": 10, "val": 20, "test": 30}, machines=["one"])
ROWS = [
    Training("b", 0, "one", (3, 5, 9), (2.5, 1.25, 0.5), 14, 1.5, (1.25, 1.2, 1.3), 0.75, 1.5, 100, 2000, 3000),
    Training("a", 0, "one", failure="non-finite loss in epoch 2", ratio=(1.5, 1.4, 1.6), bare_ms=0.5),
    Training("b", 1, "two", (4, 4, 10), (2.25, 1.0, 0.25), 15, 2.0),
]


def write_lines(path: Path, rows: list[Training], cut: int = 0) -> Path:
    import json

    text = "\n".join([HEADER.to_json(), *(json.dumps(dataclasses.asdict(row)) for row in rows)]) + "\n"
    path.write_text(text[: len(text) - cut])
    return path


def test_a_packed_table_is_what_was_made(tmp_path: Path) -> None:
    part = read_lines(write_lines(tmp_path / "a.jsonl", ROWS))
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


def test_a_line_that_was_cut_off_is_made_again(tmp_path: Path) -> None:
    assert len(read_lines(write_lines(tmp_path / "a.jsonl", ROWS, cut=20)).rows) == 2


def test_tables_of_other_protocols_do_not_mix(tmp_path: Path) -> None:
    other = dataclasses.replace(HEADER, protocol={"epochs": 9})
    with pytest.raises(ValueError, match="differ in protocol"):
        pack([Part(HEADER, ROWS), Part(other, ROWS)], tmp_path / "a.tsv.gz")
