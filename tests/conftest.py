"""What all tests share."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# One thread: the tests compute little, and threads that spin for each other make them many times slower on a busy
# machine. Set before torch is imported, and inherited by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# tests/rows.py and tests/study/toy.py are imported by several test files; the kill tests run toy.py as a script.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "study")]
# Benchmarks with logic of their own are tested, too.
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
