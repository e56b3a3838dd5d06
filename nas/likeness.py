"""What architectures have in common: as covariances of figures that are sums of effects of what they are made of.

Shapes: R architectures (rows), P distinct placements, C cells.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from nas.architecture import Architecture, Placement

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Cell = tuple[int, str, str]
"""Stage, block and position."""
EFFECTS = ("any", "block", "site", "cell", "option", "double", "crowd")
"""Kinds of effects: what any placement brings, what a block does anywhere, what any block does at a site (a position of
a stage), what this block does there, what each value of an option changes, what two placements do to each other, and
what each further placement of an architecture brings less."""


def cell_of(placement: Placement) -> Cell:
    """Return the cell of the map that a placement belongs to."""
    return placement.stage, placement.block, placement.position


def tried(architectures: Sequence[Architecture]) -> dict[Cell, list[Placement]]:
    """Return the distinct placements of each cell, by stage, block and position."""
    found: dict[Cell, dict[Placement, None]] = {}
    for architecture in architectures:
        for placement in architecture.placements:
            found.setdefault(cell_of(placement), {})[placement] = None
    return {cell: list(found[cell]) for cell in sorted(found)}


class Likeness:
    """What rows have in common, with each other and with cells: covariances for each kind at a variance of 1."""

    def __init__(self, architectures: Sequence[Architecture]) -> None:
        """Find out what the architectures are made of."""
        cells = tried(architectures)
        singles = [placement for placements in cells.values() for placement in placements]
        index = {placement: number for number, placement in enumerate(singles)}
        holds, mean = np.zeros((len(architectures), len(singles))), np.zeros((len(cells), len(singles)))
        for number, architecture in enumerate(architectures):
            holds[number, [index[placement] for placement in architecture.placements]] = 1
        for number, placements in enumerate(cells.values()):
            mean[number, [index[placement] for placement in placements]] = 1 / len(placements)
        kinds = {"any": _of_any, "block": _of_block, "site": _of_site, "cell": _of_cell, "option": _of_options}
        tables = {kind: _table(singles, keys) for kind, keys in kinds.items()}
        self.features = {kind: (holds @ table, mean @ table) for kind, table in tables.items()}
        """Of each kind that adds up: features of rows, (R, features), and mean ones of cells, (C, features)."""
        of_cell = holds @ (mean.T > 0)
        together = of_cell @ of_cell.T
        self._double = together * (together - 1) / 2  # so many pairs of cells do two rows share
        self._found: dict[tuple[str, bytes], Floats] = {}
        self.count: Floats = holds.sum(1)
        """Number of placements, (R,)."""
        names = np.array([architecture.backbone for architecture in architectures])
        self.same: Floats = (names[:, None] == names).astype(np.float64)
        """Whether two rows have one backbone, (R, R)."""

    def between(self, kind: str, some: Ints) -> Floats:
        """Return the covariance of some rows, (some, some)."""
        key = kind, some.tobytes()
        if key not in self._found:
            if kind == "double":
                self._found[key] = self._double[np.ix_(some, some)]
            elif kind == "crowd":
                self._found[key] = np.outer(further := np.maximum(self.count - 1, 0)[some], further)
            else:
                rows = self.features[kind][0][some]
                self._found[key] = rows @ rows.T
        return self._found[key]


Keys = list[Hashable]


def _table(singles: Sequence[Placement], keys: Callable[[Placement], Keys]) -> Floats:
    """Return the features of placements, (P, features), of squares that sum to 1: each key is one."""
    columns: dict[Hashable, int] = {}
    found = [[columns.setdefault(key, len(columns)) for key in keys(placement)] for placement in singles]
    table = np.zeros((len(singles), max(1, len(columns))))
    for number, each in enumerate(found):
        table[number, each] = len(each) ** -0.5
    return table


def _of_any(_: Placement) -> Keys:
    return [None]


def _of_block(placement: Placement) -> Keys:
    return [placement.block]


def _of_site(placement: Placement) -> Keys:
    return [placement.stage, (placement.stage, placement.position)]


def _of_cell(placement: Placement) -> Keys:
    return [(placement.stage, placement.block), cell_of(placement)]


def _of_options(placement: Placement) -> Keys:
    """Return the values of the options: each wherever the block stands, and in the cell."""
    values: list[tuple[str, object]] = [*placement.options.items(), ("init", placement.init)]
    everywhere: Keys = [(placement.block, *value) for value in values]
    here: Keys = [(cell_of(placement), *value) for value in values]
    return everywhere + here
