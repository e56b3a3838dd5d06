"""What may be combined, as a declaration that knows no widths: in Python, or as JSON.

The JSON has the names of :class:`SearchSpace`'s fields, each with the same meaning; only ``backbones`` and ``blocks``
must be there. It is data: nothing in it is executed::

    {"backbones": ["test_resnet"], "blocks": {"se": {"reduction": [4, 16]}, "eca": {}}, "stages": [2, 3]}
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas import strict_json
from nas.architecture import NONE, POSITIONS, Stage, check_position, json_object
from nas.attention import BLOCKS, INITS
from nas.attention.options import OptionValue, nearest
from nas.attention.widths import is_int
from nas.space.resolved import ResolvedSpace
from nas.space.site import Site, Values
from nas.strict_json import short

SCHEMA = 1
"""Version of the JSON form; a reader refuses a version that it does not know."""
MOST_VARIANTS = 10_000
"""Most combinations of the option values that a declaration names for one block: all of them are looked at."""


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """A declaration of what may be combined. "None" is always a choice at every stage.

    Raises:
        ValueError: On an unknown block, option, position or init, on an impossible option value, and on empty choices.
    """

    backbones: tuple[str, ...]
    """timm names; with more than one, the backbone is searched too."""
    blocks: Mapping[str, Values] | Sequence[str]
    """Block names, each with the option values to search; an option that is not named takes the block's own choices."""
    stages: tuple[int, ...] | None = None
    """Stages where a block may stand, as timm's ``feature_info`` numbers them; None for all."""
    positions: tuple[str, ...] = ("after_stage",)
    """Where in a stage a block may stand, of ``nas.architecture.POSITIONS``; with more than one that is searched too.

    With ``replace``, taking the built-in attention out is a choice, too.
    """
    init: str = "identity"
    """``identity`` or ``paper``: the initialisation of every block."""
    max_blocks: int | None = None
    """At how many stages at most something is placed, or taken out; None for all of them."""

    def __post_init__(self) -> None:
        fields = (("backbones", self.backbones), ("stages", self.stages), ("positions", self.positions))
        for name, value in fields:
            if name == "stages" and value is None:
                continue
            if not isinstance(value, tuple) or not value or len(set(map(repr, value))) != len(value):
                raise ValueError(f"{name} must be a tuple of distinct entries, at least one, but got {short(value)}")
        for backbone in self.backbones:
            if not isinstance(backbone, str) or not backbone:
                raise ValueError(f"backbones must be names of timm models, but got {short(backbone)}")
        for index in self.stages or ():
            if not is_int(index) or index < 0:
                raise ValueError(f"stages must be integers >= 0, but got {short(index)}")
        for position in self.positions:
            check_position(position)
        if self.init not in INITS:
            raise ValueError(f"init must be one of {', '.join(INITS)}, but got {short(self.init)}")
        if self.max_blocks is not None and (not is_int(self.max_blocks) or self.max_blocks < 1):
            raise ValueError(
                f"max_blocks must be an integer >= 1, or None for no bound, but got {short(self.max_blocks)}"
            )
        if isinstance(self.blocks, str) or not self.blocks:
            raise ValueError(f"blocks must name at least one block, but got {short(self.blocks)}")
        given = self.blocks if isinstance(self.blocks, Mapping) else {name: {} for name in self.blocks}
        object.__setattr__(self, "blocks", {block: _checked(block, values) for block, values in given.items()})

    @property
    def values(self) -> Mapping[str, Values]:
        """The blocks, each with the option values that the declaration names."""
        assert isinstance(self.blocks, Mapping)  # __post_init__ made it one
        return self.blocks

    def to_dict(self) -> dict[str, Any]:
        """Return the declaration as JSON values."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {"schema": SCHEMA, **{name: _listed(value) for name, value in fields.items()}}

    def to_json(self) -> str:
        """Return the declaration as JSON, which :meth:`from_json` reads."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_dict(cls, data: object) -> SearchSpace:
        """Read a declaration from JSON values, strictly.

        Raises:
            ValueError: On a key that is unknown or missing, a wrong type, and on what no declaration may say.
        """
        optional = ("schema", "stages", "positions", "init", "max_blocks")
        content = dict(json_object(data, "a search space", ("backbones", "blocks"), optional))
        schema = content.pop("schema", SCHEMA)
        if schema != SCHEMA or not is_int(schema):
            raise ValueError(f"schema must be {SCHEMA}, but got {short(schema)}")
        for name in ("backbones", "stages", "positions"):
            if name not in content or (name == "stages" and content[name] is None):
                continue
            if not isinstance(content[name], list):
                raise ValueError(f"{name} must be a list, but got {short(content[name])}")
            content[name] = tuple(content[name])
        blocks = content["blocks"]
        if not isinstance(blocks, (dict, list)) or not all(isinstance(name, str) for name in blocks):
            raise ValueError(f"blocks must be a list of names, or map names to options, but got {short(blocks)}")
        if len(set(blocks)) < len(blocks):
            raise ValueError(f"blocks must be distinct, but got {short(blocks)}")
        return cls(**content)

    @classmethod
    def from_json(cls, text: str | bytes) -> SearchSpace:
        """Read a declaration from JSON, strictly; nothing in it is executed.

        Raises:
            ValueError: On text that is not JSON, and as :meth:`from_dict`.
        """
        try:
            data = strict_json.loads(text)
        except strict_json.JsonError as error:
            raise ValueError(f"a search space must be JSON, but {error}") from error
        return cls.from_dict(data)

    def resolve(self, stages: Mapping[str, Sequence[Stage]]) -> ResolvedSpace:
        """Check the declaration against the stages of its backbones.

        Args:
            stages: For each backbone its stages.

        Raises:
            ValueError: If a stage does not exist or has none of the positions, if no stage has one of the positions, or
                if a named option value is impossible at one of the widths there.
        """
        return ResolvedSpace(space=self, sites={name: self._sites(name, stages[name]) for name in self.backbones})

    def _sites(self, backbone: str, stages: Sequence[Stage]) -> tuple[Site, ...]:
        """Return where a block may stand in a backbone, and what."""
        known = {stage.index: stage for stage in stages}
        for index in self.stages or ():
            if index not in known:
                has = ", ".join(str(number) for number in known)
                raise ValueError(f"{backbone} has no stage {index}; its stages: {has}")
        chosen = [known[index] for index in (self.stages or known)]
        for stage in chosen if self.stages is not None else ():
            if not any(stage.widths(position) for position in self.positions):
                where = f"stage {stage.index} ({stage.name}) of {backbone}"
                raise ValueError(f"{where}: {stage.absence(self.positions)}")
        for position in self.positions:
            if not any(stage.widths(position) for stage in chosen):
                raise ValueError(_nowhere(backbone, position, chosen))
        return tuple(
            self._site(backbone, stage, position)
            for stage in chosen
            for position in self.positions
            if stage.widths(position)
        )

    def _site(self, backbone: str, stage: Stage, position: str) -> Site:
        widths = stage.widths(position)
        offered = {}
        for block, named in self.values.items():
            spec = BLOCKS[block]
            reason = spec.possible_at(widths)
            if reason is not None and not named:
                continue
            try:
                if reason is not None:
                    raise ValueError(reason)
                offered[block] = {
                    option: _effective(block, option, named[option], widths)
                    if option in named
                    else spec.valid_at(option, widths)
                    for option in spec.options
                }
            except ValueError as error:
                listed = ", ".join(map(str, widths))
                where = f"{position} of stage {stage.index} ({stage.name}, {listed} channels) of {backbone}"
                raise ValueError(f"{where}: {error}") from error
        return Site(stage=stage, position=position, blocks=offered)


def _checked(block: str, values: Values) -> dict[str, tuple[OptionValue, ...]]:
    """Return the named option values of a block, or raise on what no width could make right."""
    if block not in BLOCKS:
        hint = "; 'none' is always a choice and is not listed" if block == NONE else nearest(block, BLOCKS)
        raise ValueError(f"unknown block {block!r}{hint}; known: {', '.join(BLOCKS)}")
    if not isinstance(values, Mapping):
        raise ValueError(f"options of {block} must map names to tuples of values, but got {short(values)}")
    for option, choices in values.items():
        if not isinstance(choices, (tuple, list)) or not choices:
            raise ValueError(f"{block}.{option} must be a tuple of values, at least one, but got {short(choices)}")
    variants = math.prod(map(len, values.values()))
    if variants > MOST_VARIANTS:
        raise ValueError(f"the values of {block} must make at most {MOST_VARIANTS} combinations, but make {variants}")
    for option, choices in values.items():
        for value in choices:
            BLOCKS[block].check({option: value})
    return {option: tuple(choices) for option, choices in values.items()}


def _listed(value: Any) -> Any:
    """Return a value with lists in place of its tuples, as JSON has them."""
    if isinstance(value, Mapping):
        return {name: _listed(each) for name, each in value.items()}
    return [*value] if isinstance(value, tuple) else value


def _effective(
    block: str, option: str, values: Sequence[OptionValue], widths: Sequence[int]
) -> tuple[OptionValue, ...]:
    """Return the values that are distinct in effect at these widths, in the order that the declaration gives."""
    known = BLOCKS[block].options[option]
    checked = [known.check(block, option, value, widths) for value in values]
    return tuple(dict.fromkeys(known.canonical_at(value, widths) for value in checked))


def _nowhere(backbone: str, position: str, stages: Sequence[Stage]) -> str:
    """Return in words that none of the stages has a position, which ones they have, and what they refuse."""
    listed = ", ".join(str(stage.index) for stage in stages)
    has = ", ".join(known for known in POSITIONS if any(stage.widths(known) for stage in stages)) or "none"
    refusals = dict.fromkeys(stage.refusal for stage in stages if position == "after_stage")
    refused = f"; after_stage is refused: {'; '.join(refusals)}" if refusals else ""
    return f"{backbone} has no position {position} at any of the stages {listed}; their positions: {has}{refused}"
