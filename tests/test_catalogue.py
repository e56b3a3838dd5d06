"""The table of blocks in words: the page on disk, and the verb ``blocks``."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from nas import catalogue
from nas.attention import BLOCKS
from nas.attention.spec import COSTS
from nas.cli import main

ROOT = Path(__file__).parents[1]


def test_the_page_on_disk_is_the_generated_one() -> None:
    on_disk = (ROOT / "docs" / "blocks.md").read_text(encoding="utf-8")
    assert on_disk == catalogue.page(), f"docs/blocks.md is out of date; write it anew: {catalogue.COMMAND}"


def test_the_command_prints_the_page() -> None:
    words = [sys.executable, "-X", "utf8", "-m", "nas.catalogue"]
    printed = subprocess.run(words, cwd=ROOT, capture_output=True, check=True).stdout
    assert printed.decode() == catalogue.page()
    assert catalogue.COMMAND.startswith("python -m nas.catalogue")


def test_every_cost_class_has_words() -> None:
    assert tuple(catalogue.CLASSES) == COSTS


@pytest.mark.parametrize("name", BLOCKS)
def test_the_page_has_what_the_table_has(name: str) -> None:
    spec = BLOCKS[name]
    _, _, rest = catalogue.page().partition(f"\n## {name}\n")
    section = rest.partition("\n## ")[0]
    for text in (spec.title, spec.paper, spec.claim, spec.costly, spec.traps, spec.formula, spec.parameters, spec.macs):
        assert text in section
    for option in spec.options:
        assert f"| `{option}` |" in section


def test_the_pages_tables_are_whole() -> None:
    fields: int | None = None
    for line in catalogue.page().splitlines():
        if not line.startswith("|"):
            fields = None
            continue
        found = len(re.findall(r"(?<!\\)\|", line))
        assert fields in (None, found), line
        fields = found


@pytest.mark.parametrize("channels", [1, 8, 64])
def test_the_listing_names_all(channels: int) -> None:
    text = catalogue.listing(channels, 14)
    for spec in BLOCKS.values():
        assert spec.paper in text
        reason = spec.possible(channels)
        assert reason is None or " ".join(reason.split()) in " ".join(text.split())


@pytest.mark.parametrize("columns", ["80", "100"])
def test_lines_fit_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    texts = [catalogue.listing(64, 14), *(catalogue.entry(name, 64, 14) for name in BLOCKS)]
    lines = [line for text in texts for line in text.splitlines()]
    # One word alone may be longer: an address, or an expression without spaces.
    assert [line for line in lines if len(line) > int(columns) and len(line.split()) > 1] == []


def test_blocks_lists_and_shows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["blocks", "--channels", "512", "--map", "7"]) == 0
    listing = capsys.readouterr().out
    assert "at 512 channels on 7x7 maps" in listing
    assert all(f"\n{name} " in listing for name in BLOCKS)
    assert main(["blocks", "se"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    spec = BLOCKS["se"]
    parameters, macs = spec.count({}, 64, 14, 14)
    assert f"{parameters:,} parameters, {macs:,} MACs" in shown
    assert all(text in shown for text in (spec.formula, spec.claim, spec.costly, spec.traps))


def test_the_start_is_said() -> None:
    for name, spec in BLOCKS.items():
        text = catalogue.entry(name, 64, 14)
        assert ("strength" in text.rpartition("  start")[2]) == (spec.identity_when != {})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ese"], "unknown block 'ese'; did you mean 'se'?"),
        (["--channels", "0"], "channels must be at least 1, but got 0"),
        (["se", "--map", "-1"], "map must be at least 1, but got -1"),
    ],
)
def test_blocks_refuses(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert main(["blocks", *words]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_blocks_needs_no_torch() -> None:
    code = "import sys; from nas.cli import main; main(['blocks']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
