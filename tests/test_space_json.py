"""Search spaces as JSON: the same as in Python, read strictly, and never executed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import toy

from nas import space
from nas.space import SearchSpace
from nas.space.declaration import MOST_VARIANTS

WHOLE = SearchSpace(
    backbones=("toy",),
    blocks={"se": {"reduction": (4, 16)}, "shuffle": {"groups": (None, 8)}, "simam": {"lambda_": (0.001,)}, "eca": {}},
    stages=(1, 2),
    positions=("after_stage", "in_residual"),
    init="paper",
    max_blocks=1,
)
LEAST: dict[str, Any] = {"backbones": ["toy"], "blocks": ["se", "eca"]}


def test_what_is_written_is_read_back() -> None:
    for declared in (WHOLE, SearchSpace(**{name: tuple(value) for name, value in LEAST.items()})):
        again = SearchSpace.from_json(declared.to_json())
        assert again == declared
        assert again.resolve({"toy": toy.STAGES}).hash == declared.resolve({"toy": toy.STAGES}).hash


def test_a_file_may_leave_out_what_has_a_default(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps(LEAST))
    assert space.load(str(tmp_path / "mine.json")) == SearchSpace(backbones=("toy",), blocks=("se", "eca"))
    with_null = {**LEAST, "schema": 1, "stages": None, "max_blocks": None}
    assert SearchSpace.from_dict(with_null) == SearchSpace.from_dict(LEAST)


@pytest.mark.parametrize("name", space.names())
def test_the_spaces_that_come_along_have_a_json_form(name: str) -> None:
    declared = space.load(name)
    assert SearchSpace.from_json(declared.to_json()) == declared


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block": ["se"]}, "a search space has the unknown key 'block'; did you mean 'blocks'\\?; known: backbones, "),
        ({"blocks": None}, "blocks must be a list of names, or map names to options, but got None"),
        ({"blocks": [["se"]]}, "blocks must be a list of names, or map names to options, but got"),
        ({"blocks": ["se", "se"]}, "blocks must be distinct, but got"),
        ({"blocks": []}, "blocks must name at least one block"),
        ({"blocks": ["sse"]}, "unknown block 'sse'; did you mean"),
        ({"blocks": {"se": {"reduction": 4}}}, "se.reduction must be a tuple of values, at least one, but got 4"),
        ({"blocks": {"se": {"reduction": [True]}}}, "se: reduction must be an integer >= 1, but got True; choices:"),
        ({"blocks": {"se": {"reduction": [{}]}}}, "se: reduction must be an integer >= 1, but got {}; choices:"),
        ({"blocks": {"se": {"r": [4]}}}, "se has no option 'r'"),
        ({"backbones": "toy"}, "backbones must be a list, but got 'toy'"),
        ({"backbones": [["toy"]]}, "backbones must be names of timm models"),
        ({"backbones": []}, "backbones must be a tuple of distinct entries, at least one"),
        ({"stages": [1.0]}, "stages must be integers >= 0, but got 1.0"),
        ({"stages": [True]}, "stages must be integers >= 0, but got True"),
        ({"positions": ["before"]}, "position must be one of after_stage, in_residual, replace, but got 'before'"),
        ({"positions": None}, "positions must be a list, but got None"),
        ({"init": ["paper"]}, "init must be one of paper, identity, but got \\['paper'\\]"),
        ({"max_blocks": "2"}, "max_blocks must be an integer >= 1, or None for no bound, but got '2'"),
        ({"schema": 2}, "schema must be 1, but got 2"),
        ({"schema": True}, "schema must be 1, but got True"),
    ],
)
def test_what_is_wrong_is_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchSpace.from_json(json.dumps({**LEAST, **changes}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a search space must be JSON, but Expecting value"),
        ("[]", "a search space must be a JSON object, but got \\[\\]"),
        ('{"blocks": ["se"]}', "a search space lacks the key 'backbones'; needed: backbones, blocks"),
        ('{"blocks": ["se"], "blocks": ["eca"], "backbones": ["toy"]}', "the key 'blocks' stands twice in one object"),
        ('{"max_blocks": NaN}', "NaN is no number of JSON"),
        ('{"max_blocks": 1e999}', "the number '1e999' is too large"),
        ('{"max_blocks": 99999999999999999999}', "the integer '99999999999999999999' must be at least -2"),
        ('{"max_blocks": ' + "9" * 9000 + "}", "the integer '999.*\\.\\.\\. must be at least -2"),
        ("[" * 100 + "]" * 100, "it is nested more than 64 deep"),
        ("[" * 100_000, "it is nested more than 64 deep"),
        ('{"init": "\\ud800"}', "is not Unicode"),
        ("{'backbones': ['toy']}", "a search space must be JSON, but Expecting property name"),
    ],
)
def test_json_is_read_strictly(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchSpace.from_json(text)


def test_more_values_than_can_be_looked_at_are_refused() -> None:
    many = {"gam": {"reduction": [*range(1, 200)], "kernel_size": [*range(1, 201, 2)]}}
    with pytest.raises(ValueError, match=f"the values of gam must make at most {MOST_VARIANTS} combinations, but make"):
        SearchSpace.from_dict({**LEAST, "blocks": many})


def test_a_file_is_read_and_never_executed(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(f"__import__('pathlib').Path({str(tmp_path / 'executed')!r}).touch()")
    with pytest.raises(ValueError, match="the space file .*mine.json: a search space must be JSON"):
        space.load(str(tmp_path / "mine.json"))
    assert not (tmp_path / "executed").exists()


def test_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "large.json").write_bytes(b" " * (16 * 2**20 + 1))
    (tmp_path / "mine.txt").write_text("{}")
    for name, message in (
        ("none.json", "no space file .*; give a file, or one of: channel_only, default"),
        ("pipe.json", "no space file"),
        ("folder.json", "no space file"),
        ("large.json", "it is larger than 16 MiB"),
        ("mine.txt", r"a space file must be JSON \(.json\) or Python \(.py\), but got"),
    ):
        with pytest.raises(ValueError, match=message):
            space.load(str(tmp_path / name))
