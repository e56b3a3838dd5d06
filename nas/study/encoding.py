"""Architectures of a search space as vectors of choices, and as rows of features that say what two have in common."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.architecture import Architecture, Placement
from nas.space import ResolvedSpace

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

SHARES = {"stage": 1.0, "block": 1.0, "block of stage": 0.5, "option": 0.5, "option of stage": 0.25, "position": 0.25}
"""Prior variance of the effect that each kind of feature has, relative to one another."""


class Encoding:
    """A vector names, for each stage of one backbone, a row of that stage's table; row 0 of each is no block.

    With several backbones the tables of a stage lie below each other, and a vector says by its first entry which
    backbone it is of.
    """

    def __init__(self, space: ResolvedSpace) -> None:
        """List what may stand at each stage, and number the features."""
        self.backbones = tuple(space.sites)
        self.stages = [[[None, *options] for options in space.by_stage(backbone)] for backbone in self.backbones]
        self.length = max(len(stages) for stages in self.stages)
        self._columns: dict[Any, int] = {}
        self._weights: list[float] = []
        self._vectors: dict[str, Ints | None] = {}
        self._index = [
            [{option: row for row, option in enumerate(options)} for options in stages] for stages in self.stages
        ]

    @cached_property
    def tables(self) -> list[list[Floats]]:
        """Features of what may stand at each stage, by backbone and stage: (rows, features)."""
        found = [[[self._features(option) for option in options] for options in stages] for stages in self.stages]
        width = len(self._columns)
        tables: list[list[Floats]] = []
        for stages in found:
            tables.append([])
            for options in stages:
                table = np.zeros((len(options), width))
                for row, columns in enumerate(options):
                    for column in columns:
                        table[row, column] += np.sqrt(self._weights[column])
                tables[-1].append(table)
        return tables

    def _features(self, placement: Placement | None) -> list[int]:
        """Return the columns of a placement's features."""
        if placement is None:
            return []
        stage, block, position = placement.stage, placement.block, placement.position
        found: list[tuple[str, tuple[Any, ...], float]] = [
            ("stage", (stage,), 1.0),
            ("block", (block,), 1.0),
            ("block of stage", (stage, block), 1.0),
            ("position", (stage, position), 1.0),
        ]
        for name, value in placement.options.items():
            part = 1 / len(placement.options)
            found.append(("option", (block, name, value), part))
            found.append(("option of stage", (stage, block, name, value), part))
        return [self._column((kind, *rest), SHARES[kind] * part) for kind, rest, part in found]

    def _column(self, key: Any, weight: float) -> int:
        if key not in self._columns:
            self._columns[key] = len(self._columns)
            self._weights.append(weight)
        return self._columns[key]

    def rows(self, vectors: Ints) -> Floats:
        """Return the features of vectors, (n, features): the sum over the stages."""
        rows = np.zeros((len(vectors), len(self.tables[0][0][0])))
        for backbone, tables in enumerate(self.tables):
            mine = vectors[:, 0] == backbone
            for stage, table in enumerate(tables):
                rows[mine] += table[vectors[mine, stage + 1]]
        return rows

    def vector(self, identifier: str, architecture: Callable[[], Architecture]) -> Ints | None:
        """Return the vector of an architecture, which is made only if its id is new; None if the space lacks it."""
        if identifier not in self._vectors:
            self._vectors[identifier] = self._encode(architecture())
        return self._vectors[identifier]

    def _encode(self, architecture: Architecture) -> Ints | None:
        if architecture.backbone not in self.backbones:
            return None
        number = self.backbones.index(architecture.backbone)
        vector = np.zeros(self.length + 1, dtype=np.int64)
        vector[0] = number
        for placement in architecture.placements:
            for stage, index in enumerate(self._index[number]):
                if placement in index:
                    vector[stage + 1] = index[placement]
                    break
            else:
                return None
        return vector

    def architecture(self, vector: Ints) -> Architecture:
        """Return the architecture of a vector."""
        number = int(vector[0])
        options = [stages[row] for stages, row in zip(self.stages[number], vector[1:].tolist(), strict=False)]
        placements = tuple(option for option in options if option is not None)
        return Architecture(backbone=self.backbones[number], placements=placements)

    def draw(self, count: int, empty: float, generator: np.random.Generator) -> Ints:
        """Return random vectors: a stage stays empty so often, else all blocks are as likely, and all their options."""
        vectors = np.zeros((count, self.length + 1), dtype=np.int64)
        vectors[:, 0] = generator.integers(len(self.backbones), size=count)
        for number in range(len(self.backbones)):
            mine = np.flatnonzero(vectors[:, 0] == number)
            for stage in range(len(self.stages[number])):
                vectors[mine, stage + 1] = self.draw_stage(number, stage, len(mine), empty, generator)
        return vectors

    def draw_stage(self, backbone: int, stage: int, count: int, empty: float, generator: np.random.Generator) -> Ints:
        """Return random rows of one stage's table."""
        edges = self._likelihood[backbone][stage]
        if len(edges) == 0:
            return np.zeros(count, dtype=np.int64)
        drawn = 1 + np.searchsorted(edges, generator.random(count), side="right")
        return np.where(generator.random(count) < empty, 0, np.minimum(drawn, len(edges)))

    @cached_property
    def _likelihood(self) -> list[list[Floats]]:
        """Cumulative probabilities of the rows after the first: each block as likely as the others."""
        found: list[list[Floats]] = []
        for stages in self.stages:
            found.append([])
            for options in stages:
                names = [option.block for option in options if option is not None]
                share = np.array([1 / names.count(name) for name in names])
                found[-1].append(np.cumsum(share / share.sum()) if names else share)
        return found

    def neighbours(self, vector: Ints) -> Ints:
        """Return all vectors that differ from one in one stage, (n, 1 + stages)."""
        found = []
        for stage, options in enumerate(self.stages[int(vector[0])]):
            others = np.delete(np.arange(len(options)), vector[stage + 1])
            changed = np.repeat(vector[None], len(others), axis=0)
            changed[:, stage + 1] = others
            found.append(changed)
        return np.concatenate(found)


_ENCODINGS: dict[str, Encoding] = {}


def encoding_of(space: ResolvedSpace) -> Encoding:
    """Return a space's encoding, made once."""
    key = space.hash
    if key not in _ENCODINGS:
        if len(_ENCODINGS) >= 4:
            _ENCODINGS.clear()
        _ENCODINGS[key] = Encoding(space)
    return _ENCODINGS[key]
