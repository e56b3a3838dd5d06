"""An architecture as data: a backbone and the attention blocks that are placed in it. Needs neither torch nor timm."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from nas import strict_json
from nas.attention import BLOCKS, INITS, spec_of
from nas.attention.options import OptionValue, nearest, options_text
from nas.attention.widths import is_int
from nas.strict_json import short

SCHEMA = 1
"""Version of the JSON form; a reader refuses a version that it does not know."""
POSITIONS = ("after_stage", "in_residual", "replace")
"""Where in a stage a block can stand; the places of a position each get a block with weights of its own.

``after_stage``
    Behind the stage, on its output map.
``in_residual``
    At the end of every residual branch in the stage, before it is added to what bypasses it.
``replace``
    In place of every attention module that the backbone itself brings along in the stage.
"""
NONE = "none"
"""The block of a placement that takes built-in attention out; in a search space the choice of placing nothing."""


def check_position(position: object) -> None:
    """Raise unless there is such a position.

    Raises:
        ValueError: If there is none, with those that there are.
    """
    if position not in POSITIONS:
        raise ValueError(f"position must be one of {', '.join(POSITIONS)}, but got {position!r}")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One depth of a backbone at which the map's resolution or width changes (an entry of timm's ``feature_info``)."""

    index: int
    """Position in timm's ``feature_info``, from 0."""
    name: str
    """Path of the stage's module in the backbone."""
    channels: int
    """Channels of the stage's output map."""
    reduction: int
    """Input resolution divided by the map's resolution."""
    layout: str = "NCHW"
    """Order of the map's axes."""
    branches: tuple[int, ...] = ()
    """Channels of the map at the end of each residual branch in the stage, in order of execution."""
    slots: tuple[int, ...] = ()
    """Channels of the map at each attention module that the backbone itself brings along in the stage."""
    refusal: str = ""
    """Why no block can stand behind the stage; empty if one can."""

    def widths(self, position: str) -> tuple[int, ...]:
        """Return the distinct widths of the places that a position means at this stage, ascending; none if it has none.

        Raises:
            ValueError: If there is no such position.
        """
        check_position(position)
        behind = () if self.refusal else (self.channels,)
        places = {"after_stage": behind, "in_residual": self.branches, "replace": self.slots}
        return tuple(sorted(set(places[position])))

    @property
    def positions(self) -> tuple[str, ...]:
        """The positions that the stage has."""
        return tuple(position for position in POSITIONS if self.widths(position))

    def absence(self, positions: Sequence[str]) -> str:
        """Return in words that the stage has none of these positions, which ones it has, and what it refuses."""
        refused = f"; after_stage is refused: {self.refusal}" if "after_stage" in positions and self.refusal else ""
        has = ", ".join(self.positions) or "none"
        return f"the stage has no position {' or '.join(positions)}; its positions: {has}{refused}"


@dataclass(frozen=True, kw_only=True)
class Placement:
    """One block, with its options, at one position of one stage: at every place that the position means there."""

    stage: int
    """Index of the stage, as timm's ``feature_info`` numbers them."""
    block: str
    """Name of the block, a key of ``nas.attention.BLOCKS``; at ``replace`` also ``none``, which takes attention out."""
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    """Options of the block; those not given take the block's defaults."""
    position: str = "after_stage"
    """Where in the stage the block stands, one of :data:`POSITIONS`."""
    init: str = "paper"
    """``paper`` for the published initialisation, ``identity`` for an exact pass-through at the start."""

    def __post_init__(self) -> None:
        if not is_int(self.stage) or self.stage < 0:
            raise ValueError(f"stage must be an integer >= 0, but got {self.stage!r}")
        check_position(self.position)
        if self.init not in INITS:
            raise ValueError(f"init must be one of {', '.join(INITS)}, but got {self.init!r}")
        if self.block == NONE:
            self._check_none()
        else:
            complete = spec_of(self.block).check(self.options)
            object.__setattr__(self, "options", dict(sorted(complete.items())))

    def _check_none(self) -> None:
        """Check a placement that takes the built-in attention out."""
        if self.position != "replace":
            raise ValueError(
                f"block 'none' takes the built-in attention out and must stand at replace, but got {self.position!r}; "
                "nothing is placed by leaving the placement out"
            )
        if self.options != {}:
            raise ValueError(f"options of 'none' must be empty, but got {self.options!r}")
        object.__setattr__(self, "options", {})

    def __hash__(self) -> int:
        return hash((self.stage, self.block, tuple(self.options.items()), self.position, self.init))

    def canonical(self, stage: Stage) -> Placement:
        """Return the placement as :meth:`Architecture.canonical` has it.

        Raises:
            ValueError: If the stage lacks the position, or the block or an option is impossible at one of its widths.
        """
        widths = stage.widths(self.position)
        if not widths:
            raise ValueError(stage.absence((self.position,)))
        if self.block == NONE:
            return dataclasses.replace(self, init="paper")
        options = BLOCKS[self.block].canonical_at(self.options, widths)
        init = "paper" if BLOCKS[self.block].starts_as_identity(options) else self.init
        return dataclasses.replace(self, options=options, init=init)

    def describe(self) -> str:
        """Return the placement in a few words, such as ``2: se(reduction=8)`` or ``2 replace: none``."""
        where = f"{self.stage}" if self.position == "after_stage" else f"{self.stage} {self.position}"
        return f"{where}: {self.block}" + ("" if self.block == NONE else f"({options_text(self.options)})")


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A backbone and the blocks placed in it: in one order, with every option spelt out.

    Equal networks have one JSON and one id after :meth:`canonical`, which knows the widths.
    """

    backbone: str
    """timm name of the backbone."""
    placements: tuple[Placement, ...] = ()
    """The placements, at most one per stage and position; none at all is the bare backbone."""

    def __post_init__(self) -> None:
        if not isinstance(self.backbone, str) or not self.backbone:
            raise ValueError(f"backbone must be the name of a timm model, but got {self.backbone!r}")
        ordered = tuple(sorted(self.placements, key=lambda placement: (placement.stage, placement.position)))
        sites = [(placement.stage, placement.position) for placement in ordered]
        for site, following in itertools.pairwise(sites):
            if site == following:
                raise ValueError(f"at most one block may stand at a stage and position, but got two at {site}")
        object.__setattr__(self, "placements", ordered)

    def canonical(self, stages: Mapping[int, Stage] | tuple[Stage, ...] | list[Stage]) -> Architecture:
        """Return the architecture with every option replaced by its effective value at the widths of its places.

        Where the places of a stage differ in width, that is a value that all of them can have, and one for all values
        with the same effect at each. Where a block's published start is an exact identity, both inits build one
        network, and ``paper`` stands for it; so it does where a block takes attention out and puts nothing in.

        Two architectures with at most one placement at each stage build the same network exactly when their canonical
        forms are equal. That is, as modules: on maps that are smaller than a window or a stride, two of these may
        compute the same. With several at one stage, a block in place of attention at the end of a branch is the same
        as none in its place and the block at the end of the branch, and has another form.

        Args:
            stages: The stages of the backbone.

        Raises:
            ValueError: If a placement names a stage that does not exist, a position that the stage does not have, or a
                block or an option that is impossible at one of the widths there.
        """
        by_index = dict(stages) if isinstance(stages, Mapping) else {stage.index: stage for stage in stages}
        placements = []
        for placement in self.placements:
            stage = by_index.get(placement.stage)
            if stage is None:
                known = ", ".join(str(index) for index in by_index)
                raise ValueError(f"{self.backbone} has no stage {placement.stage}; its stages: {known}")
            try:
                placements.append(placement.canonical(stage))
            except ValueError as error:
                where = f"{placement.position} of stage {stage.index} ({stage.name}) of {self.backbone}"
                raise ValueError(f"{where}: {error}") from error
        return dataclasses.replace(self, placements=tuple(placements))

    def to_dict(self) -> dict[str, Any]:
        """Return the architecture as JSON values."""
        placements = [dataclasses.asdict(placement) for placement in self.placements]
        return {"schema": SCHEMA, "backbone": self.backbone, "placements": placements}

    def to_json(self) -> str:
        """Return the canonical JSON: sorted keys, no spaces."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @cached_property  # kept beside the fields: what compares, hashes, replaces or prints these does not see it
    def id(self) -> str:
        """Twelve hexadecimal digits of the hash of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

    @classmethod
    def from_dict(cls, data: object) -> Architecture:
        """Read an architecture from JSON values, strictly.

        Raises:
            ValueError: On a key that is unknown or missing, a wrong type, an unknown block or an impossible option.
        """
        content = json_object(data, "architecture", required=("schema", "backbone", "placements"))
        if content["schema"] != SCHEMA or not is_int(content["schema"]):
            raise ValueError(f"schema must be {SCHEMA}, but got {short(content['schema'])}")
        if not isinstance(content["placements"], list):
            raise ValueError(f"placements must be a list, but got {short(content['placements'])}")
        placements = []
        for number, item in enumerate(content["placements"]):
            keys = json_object(item, f"placement {number}", ("stage", "block"), ("options", "position", "init"))
            placements.append(Placement(**keys))
        return cls(backbone=content["backbone"], placements=tuple(placements))

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Read an architecture from JSON, strictly.

        Raises:
            ValueError: On text that is not JSON, and as :meth:`from_dict`.
        """
        try:
            data = strict_json.loads(text)
        except strict_json.JsonError as error:
            raise ValueError(f"an architecture must be JSON, but {error}") from error
        return cls.from_dict(data)

    def describe(self) -> str:
        """Return the placements in a few words; ``bare backbone`` where there are none."""
        return "; ".join(placement.describe() for placement in self.placements) or "bare backbone"


def json_object(data: object, what: str, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return ``data`` if it is a JSON object with exactly the known keys.

    Raises:
        ValueError: If it is none, or on a key that is unknown or missing; ``what`` names it in the message.
    """
    if not isinstance(data, dict):
        raise ValueError(f"{what} must be a JSON object, but got {short(data)}")
    known = required + optional
    for key in data:
        if key not in known:
            hint = nearest(key, known)
            raise ValueError(f"{what} has the unknown key {short(key)}{hint}; known: {', '.join(known)}")
    for key in required:
        if key not in data:
            raise ValueError(f"{what} lacks the key {key!r}; needed: {', '.join(required)}")
    return data
