"""The README's commands parse, its Python runs, and its tree names every file."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from nas.cli import parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(text: str, language: str) -> list[str]:
    # Fences in order, so that the end of one is not taken for the beginning of a block without a language.
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return [content for name, content in found if name == language]


def commands() -> list[str]:
    """Return every call of run_search.py in the documentation."""
    lines = [line for page in PAGES for block in blocks(page.read_text(), "bash") for line in block.splitlines()]
    parts = [part.split("#")[0].strip() for line in lines for part in line.split("&&")]
    return sorted({part for part in parts if "run_search.py" in part})


@pytest.mark.parametrize("command", commands())
def test_every_command_parses(command: str) -> None:
    words = shlex.split(command)
    words = words[words.index("run_search.py") + 1 :] if "run_search.py" in words else []
    if not words or words[0].startswith("-"):
        words.insert(0, "search")
    if "--help" not in words:
        parser().parse_args(words)


def test_there_are_commands_to_parse() -> None:
    assert len(commands()) >= 4


@pytest.mark.parametrize("number", range(len(blocks(README, "python"))))
def test_the_python_runs(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks(README, "python")[number], "README.md", "exec"), {})


def test_the_tree_names_every_file() -> None:
    (tree,) = [block for block in blocks(README, "") if "run_search.py" in block and "nas/" in block]
    files = [
        ROOT / "run_search.py",
        *ROOT.glob("nas/**/*.py"),
        *ROOT.glob("search_spaces/*.py"),
        *ROOT.glob("benchmarks/**/*.py"),
    ]
    missing = [path.name for path in files if path.name != "__init__.py" and path.name not in tree]
    assert missing == []
    named = re.findall(r"\b(\w+\.py)\b", tree)
    assert sorted(set(named) - {path.name for path in files}) == []


def test_the_set_up_commands_name_what_pyproject_offers() -> None:
    assert "pip install -e ." in README
    assert 'pip install -e ".[dev]"' in README
    assert "dev = [" in (ROOT / "pyproject.toml").read_text()


def test_links_to_files_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
