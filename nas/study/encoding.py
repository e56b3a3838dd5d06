"""Architectures of a search space as vectors of choices, and as rows of features that say what two have in common."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.architecture import Architecture, Placement
from nas.space import ResolvedSpace

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

SHARES = {"stage": 0.5, "block": 0.5, "block of stage": 1.0, "option": 0.15, "option of stage": 0.1, "position": 0.25}
"""Prior variance of the effect that each kind of feature has, relative to one another.

What a block does at one stage counts most: a model that expects it to do the same wherever it stands gives up a block
that hurts at the first stages that it was seen at, although it may be the best one at another.
"""


class Encoding:
    """A vector names, for each stage of the backbone, a row of that stage's table; row 0 of each is no block."""

    def __init__(self, space: ResolvedSpace) -> None:
        """List what may stand at each stage.

        Raises:
            ValueError: If the space has several backbones, whose stages have nothing to do with each other.
        """
        if len(space.sites) != 1:
            raise ValueError(f"an encoding takes one backbone, but the space has {', '.join(space.sites)}")
        (self.backbone,) = space.sites
        # In an order of their own: equal spaces may list their blocks in different ones.
        self.stages: list[list[Placement | None]] = [
            [None, *sorted(options, key=repr)] for options in space.by_stage(self.backbone)
        ]
        self._most = space.most(self.backbone)
        self._index = [{option: row for row, option in enumerate(options)} for options in self.stages]
        self._columns: dict[Any, int] = {}
        self._weights: list[float] = []
        self._vectors: dict[str, Ints | None] = {}
        self._overlaps: dict[tuple[int, int], Floats] = {}

    @cached_property
    def tables(self) -> list[Floats]:
        """Features of what may stand at each stage: (rows, features)."""
        found = [[self._features(option) for option in options] for options in self.stages]
        scales = np.sqrt(self._weights)
        tables = []
        for options in found:
            table = np.zeros((len(options), len(scales)))
            for row, columns in enumerate(options):
                table[row, columns] = scales[columns]
            tables.append(table)
        return tables

    @cached_property
    def weights(self) -> Floats:
        """Prior variance of the effect of each feature, (features,)."""
        found: Floats = np.concatenate(self.tables).max(axis=0) ** 2
        return found

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
        rows = np.zeros((len(vectors), self.tables[0].shape[1]))
        for stage, table in enumerate(self.tables):
            rows += table[vectors[:, stage]]
        return rows

    def projected(self, rows: Floats) -> list[Floats]:
        """Return what :meth:`products` adds up: each stage's table times rows, (options of the stage, n) each."""
        return [table @ rows.T for table in self.tables]

    @staticmethod
    def products(vectors: Ints, projected: Sequence[Floats]) -> Floats:
        """Return the inner products of the features of vectors with rows, (n, rows), without making these features.

        There are hundreds of features, of which a vector has few, and thousands of vectors a proposal.
        """
        total: Floats = projected[0][vectors[:, 0]]
        for stage in range(1, len(projected)):
            total += projected[stage][vectors[:, stage]]
        return total

    def norms(self, vectors: Ints) -> Floats:
        """Return the squared norms of the features of vectors, (n,)."""
        total = np.zeros(len(vectors))
        for (one, first), (other, second) in itertools.combinations_with_replacement(enumerate(self.tables), 2):
            if (one, other) not in self._overlaps:
                self._overlaps[one, other] = (1 if one == other else 2) * first @ second.T
            total += self._overlaps[one, other][vectors[:, one], vectors[:, other]]
        return total

    def vector(self, identifier: str, architecture: Callable[[], Architecture]) -> Ints | None:
        """Return the vector of an architecture, which is made only if its id is new; None if the space lacks it."""
        if identifier not in self._vectors:
            self._vectors[identifier] = self._encode(architecture())
        return self._vectors[identifier]

    def _encode(self, architecture: Architecture) -> Ints | None:
        if architecture.backbone != self.backbone:
            return None
        vector = np.zeros(len(self.stages), dtype=np.int64)
        for placement in architecture.placements:
            found = [(stage, index[placement]) for stage, index in enumerate(self._index) if placement in index]
            if not found:
                return None
            ((stage, row),) = found
            vector[stage] = row
        return vector

    def architecture(self, vector: Ints) -> Architecture:
        """Return the architecture of a vector."""
        options = [options[row] for options, row in zip(self.stages, vector.tolist(), strict=True)]
        placements = tuple(option for option in options if option is not None)
        return Architecture(backbone=self.backbone, placements=placements)

    def draw(self, count: int, empty: float, generator: np.random.Generator) -> Ints:
        """Return random vectors: a stage stays empty so often, else all blocks are as likely, and all their options."""
        columns = []
        for edges in self._likelihood:
            drawn = 1 + np.searchsorted(edges, generator.random(count), side="right")
            columns.append(np.where(generator.random(count) < empty, 0, np.minimum(drawn, len(edges))))
        return self.bounded(np.stack(columns, axis=1), generator)

    def bounded(self, vectors: Ints, generator: np.random.Generator) -> Ints:
        """Return the vectors with so many stages in use as the space allows at most: the others are emptied at random.

        Where the space has no bound, nothing is drawn, and the vectors are returned as they are.
        """
        if self._most >= len(self.stages):
            return vectors
        order = np.where(vectors > 0, generator.random(vectors.shape), np.inf)
        rank = order.argsort(axis=1).argsort(axis=1)
        kept: Ints = np.where(rank < self._most, vectors, 0)
        return kept

    @cached_property
    def _likelihood(self) -> list[Floats]:
        """Cumulative probabilities of the rows after the first: each block as likely as the others."""
        found = []
        for options in self.stages:
            names = [option.block for option in options if option is not None]
            share = np.array([1 / names.count(name) for name in names])
            found.append(np.cumsum(share / share.sum()) if names else share)
        return found

    def neighbours(self, vector: Ints) -> Ints:
        """Return all vectors of the space that differ from one in one stage, (n, stages)."""
        found = []
        for stage, options in enumerate(self.stages):
            others = np.delete(np.arange(len(options)), vector[stage])
            changed = np.repeat(vector[None], len(others), axis=0)
            changed[:, stage] = others
            found.append(changed)
        every = np.concatenate(found)
        within: Ints = every[(every > 0).sum(axis=1) <= self._most]
        return within


_ENCODINGS: dict[str, Encoding] = {}


def encoding_of(space: ResolvedSpace) -> Encoding:
    """Return a space's encoding, made once."""
    key = space.hash
    if key not in _ENCODINGS:
        if len(_ENCODINGS) >= 4:
            _ENCODINGS.clear()
        _ENCODINGS[key] = Encoding(space)
    return _ENCODINGS[key]
