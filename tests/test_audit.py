"""What is printed of an audit of the dependencies."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "audit.py"
WEAK = {"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2", "3"]}, {"id": "CVE-2"}]}
SOUND: dict[str, Any] = {"name": "b", "version": "1", "vulns": []}
SKIPPED = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("packages", "lines"),
    [
        ([SOUND], ["1 of 1 packages audited, 0 known weaknesses"]),
        (
            [SOUND, WEAK],
            [
                "a 1: CVE-1 (fixed in 2, 3)",
                "a 1: CVE-2 (fixed in no version yet)",
                "2 of 2 packages audited, 2 known weaknesses",
            ],
        ),
        (
            [SKIPPED],
            [
                "0 of 1 packages audited, 0 known weaknesses",
                "not audited, as the service does not know them or cannot be reached: c",
            ],
        ),
    ],
)
def test_weaknesses_are_printed_and_fail_nothing(tmp_path: Path, packages: list[Any], lines: list[str]) -> None:
    (tmp_path / "audit.json").write_text(json.dumps({"dependencies": packages}))
    words = [sys.executable, str(SCRIPT), str(tmp_path / "audit.json")]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines() == lines
