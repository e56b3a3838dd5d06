"""An architecture as data: a backbone and the attention blocks that are placed in it. Needs neither torch nor timm."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nas.attention import BLOCKS, INITS, spec_of
from nas.attention.options import OptionValue, nearest, options_text
from nas.attention.widths import is_int

SCHEMA = 1
"""Version of the JSON form; a reader refuses a version that it does not know."""
POSITIONS = ("after_stage",)
"""Where in a stage a block can stand."""


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


@dataclass(frozen=True, kw_only=True)
class Placement:
    """One block, with its options, at one stage of a backbone."""

    stage: int
    """Index of the stage, as timm's ``feature_info`` numbers them."""
    block: str
    """Name of the block, a key of ``nas.attention.BLOCKS``."""
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    """Options of the block; those not given take the block's defaults."""
    position: str = "after_stage"
    """Where in the stage the block stands."""
    init: str = "paper"
    """``paper`` for the published initialisation, ``identity`` for an exact pass-through at the start."""

    def __post_init__(self) -> None:
        if not is_int(self.stage) or self.stage < 0:
            raise ValueError(f"stage must be an integer >= 0, but got {self.stage!r}")
        spec = spec_of(self.block)
        if not isinstance(self.options, Mapping):
            raise ValueError(f"options of {self.block} must be a mapping of names to values, but got {self.options!r}")
        if self.position not in POSITIONS:
            raise ValueError(f"position must be one of {', '.join(POSITIONS)}, but got {self.position!r}")
        if self.init not in INITS:
            raise ValueError(f"init must be one of {', '.join(INITS)}, but got {self.init!r}")
        complete = spec.check(self.options)
        object.__setattr__(self, "options", dict(sorted(complete.items())))

    def __hash__(self) -> int:
        return hash((self.stage, self.block, tuple(self.options.items()), self.position, self.init))

    def describe(self) -> str:
        """Return the placement in a few words, such as ``2: se(reduction=8)``."""
        return f"{self.stage}: {self.block}({options_text(self.options)})"


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
        for site in sites:
            if sites.count(site) > 1:
                raise ValueError(f"at most one block may stand at a stage and position, but got two at {site}")
        object.__setattr__(self, "placements", ordered)

    def canonical(self, stages: Mapping[int, Stage] | tuple[Stage, ...] | list[Stage]) -> Architecture:
        """Return the architecture with every option replaced by its effective value at the stage's width.

        Where a block's published start is an exact identity, both inits build one network, and ``paper`` stands for it.

        Two architectures build the same network exactly when their canonical forms are equal. That is, as modules: on
        maps that are smaller than a window or a stride, two of these may compute the same.

        Args:
            stages: The stages of the backbone.

        Raises:
            ValueError: If a placement names a stage that does not exist, or an option that is impossible at its width.
        """
        by_index = dict(stages) if isinstance(stages, Mapping) else {stage.index: stage for stage in stages}
        placements = []
        for placement in self.placements:
            stage = by_index.get(placement.stage)
            if stage is None:
                known = ", ".join(str(index) for index in by_index)
                raise ValueError(f"{self.backbone} has no stage {placement.stage}; its stages: {known}")
            try:
                options = BLOCKS[placement.block].canonical(placement.options, stage.channels)
            except ValueError as error:
                raise ValueError(f"stage {stage.index} ({stage.name}) of {self.backbone}: {error}") from error
            init = "paper" if BLOCKS[placement.block].starts_as_identity(options) else placement.init
            placements.append(dataclasses.replace(placement, options=options, init=init))
        return dataclasses.replace(self, placements=tuple(placements))

    def to_dict(self) -> dict[str, Any]:
        """Return the architecture as JSON values."""
        placements = [dataclasses.asdict(placement) for placement in self.placements]
        return {"schema": SCHEMA, "backbone": self.backbone, "placements": placements}

    def to_json(self) -> str:
        """Return the canonical JSON: sorted keys, no spaces."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits of the hash of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

    @classmethod
    def from_dict(cls, data: object) -> Architecture:
        """Read an architecture from JSON values, strictly.

        Raises:
            ValueError: On a key that is unknown or missing, a wrong type, an unknown block or an impossible option.
        """
        content = _object(data, "architecture", required=("schema", "backbone", "placements"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema must be {SCHEMA}, but got {content['schema']!r}")
        if not isinstance(content["placements"], list):
            raise ValueError(f"placements must be a list, but got {content['placements']!r}")
        placements = []
        for number, item in enumerate(content["placements"]):
            keys = _object(item, f"placement {number}", ("stage", "block"), ("options", "position", "init"))
            placements.append(Placement(**keys))
        return cls(backbone=content["backbone"], placements=tuple(placements))

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Read an architecture from JSON, strictly.

        Raises:
            ValueError: On text that is not JSON, and as :meth:`from_dict`.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"an architecture must be JSON, but {error}") from error
        return cls.from_dict(data)

    def describe(self) -> str:
        """Return the placements in a few words; ``bare backbone`` where there are none."""
        return "; ".join(placement.describe() for placement in self.placements) or "bare backbone"


def _object(data: object, what: str, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return ``data`` if it is a JSON object with exactly the known keys."""
    if not isinstance(data, dict):
        raise ValueError(f"{what} must be a JSON object, but got {data!r}")
    known = required + optional
    for key in data:
        if key not in known:
            raise ValueError(f"{what} has the unknown key {key!r}{nearest(key, known)}; known: {', '.join(known)}")
    for key in required:
        if key not in data:
            raise ValueError(f"{what} lacks the key {key!r}; needed: {', '.join(required)}")
    return data
