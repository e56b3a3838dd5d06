"""Print what pip-audit has found: ``python .ci/audit.py AUDIT.json``. The status is 0 whatever that is; see .ci/run."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def summary(found: dict) -> list[str]:
    """Return the lines to print: weaknesses first, then what could not be looked up."""
    packages = found.get("dependencies", [])
    unknown = [each["name"] for each in packages if "skip_reason" in each]
    weak = [(each, known) for each in packages for known in each.get("vulns", [])]
    lines = [
        f"{each['name']} {each['version']}: {known['id']}"
        f" (fixed in {', '.join(known.get('fix_versions') or ['no version yet'])})"
        for each, known in weak
    ]
    lines.append(f"{len(packages) - len(unknown)} of {len(packages)} packages audited, {len(weak)} known weaknesses")
    if unknown:
        shown = ", ".join(unknown[:5]) + (" ..." if len(unknown) > 5 else "")
        lines.append(f"not audited, as the service does not know them or cannot be reached: {shown}")
    return lines


if __name__ == "__main__":
    print("\n".join(summary(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))))
