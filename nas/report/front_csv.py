"""The finished trials as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from nas import files
from nas.front import Row, mark_front

FIGURES = ("accuracy", "accuracy_low", "accuracy_high", "latency_ms", "latency_ratio", "ratio_low", "ratio_high")
LAST_FIGURES = ("seeds", "seed_error", "seed_degrees", "front_probability", "unstable", "graph_ratio", "memory_bytes")
CSV_COLUMNS = (
    *("trial", "architecture", *FIGURES, "parameters", "macs", "on_front", "control", "placements"),
    *LAST_FIGURES,
)
"""Columns of ``front.csv``; ``architecture`` is the id, ``placements`` the description in words. ``seed_error`` and
``front_probability`` are empty while the noise of the seed is unknown, ``graph_ratio`` where there is no CUDA graph."""


def write_front_csv(rows: Iterable[Row], path: str | Path) -> None:
    """Write every finished trial as one line of CSV (columns: :data:`CSV_COLUMNS`), in the order of the trials."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in sorted(mark_front(rows), key=lambda row: row.trial):
        figures = [getattr(row, name) for name in FIGURES]
        tail = [row.parameters, row.macs, row.on_front, row.control, row.architecture.describe()]
        last = [getattr(row, name) for name in LAST_FIGURES]
        writer.writerow([row.trial, row.architecture.id, *figures, *tail, *last])
    files.replace(path, text.getvalue().encode())
