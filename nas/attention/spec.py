"""What is known of an attention block without building it. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from nas.attention.options import Option, OptionValue, nearest
from nas.attention.widths import is_int

COSTS = ("channel", "spatial", "joint", "mixing", "global")
"""Cost classes: gates per channel, per pixel, both; dense convolutions over the whole map; all pairs of pixels."""
INITS = ("paper", "identity")
"""The published initialisation, or an exact pass-through that training opens."""


@dataclass(frozen=True, kw_only=True)
class BlockSpec:
    """One row of the table of blocks."""

    name: str
    """Key in the table."""
    title: str
    """Title of the paper."""
    paper: str
    """URL of the paper."""
    cost: str
    """Cost class, one of ``COSTS``."""
    module: str
    """Module that holds the class; it imports torch, and is imported only when the block is built."""
    class_name: str
    """The class in that module."""
    options: Mapping[str, Option]
    """The block's options by name, in the order of the class's signature."""
    parameters: str
    """Number of parameters, as a Python expression; see :meth:`count`."""
    macs: str
    """Multiply-accumulates of convolutions and matrix products for one image, as a Python expression."""
    sizes: Mapping[str, str] = field(default_factory=dict)
    """Names that the two expressions use beside those of :meth:`count`, each an expression of those before it."""
    min_channels: int = 1
    """Narrowest map on which the block's parameters have any effect."""
    identity_when: Mapping[str, OptionValue] | None = None
    """Effective options with which the published start is already an exact identity; {} for always, None for never."""
    formula: str
    """The block in one line of text."""
    claim: str
    """What the paper claims for it."""
    costly: str
    """When it costs much, and when it does not."""
    traps: str
    """What goes wrong in code that circulates."""

    def __post_init__(self) -> None:
        if self.cost not in COSTS:
            raise ValueError(f"cost of {self.name} must be one of {', '.join(COSTS)}, but got {self.cost!r}")
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))
        earlier: dict[str, Option] = {}
        for name, option in self.options.items():
            if option.when is not None and option.when[0] not in earlier:
                raise ValueError(f"{self.name}: {name} depends on {option.when[0]}, which must stand before it")
            if option.when is not None and earlier[option.when[0]].adapts:
                raise ValueError(f"{self.name}: {name} depends on {option.when[0]}, which must not adapt to the width")
            earlier[name] = option

    def check(self, options: Mapping[str, object], channels: int | None = None) -> dict[str, OptionValue]:
        """Return the options with the defaults filled in.

        Args:
            options: Values by option name.
            channels: Width of the map; without it, only rules that hold at every width are checked.

        Raises:
            ValueError: On an unknown option or an impossible value; says the rule, what was given and the choices.
        """
        return self._complete(options, () if channels is None else (channels,))

    def _complete(self, options: Mapping[str, object], widths: Sequence[int]) -> dict[str, OptionValue]:
        """Return the options with the defaults filled in, if they are possible at all these widths."""
        if not isinstance(options, Mapping):
            raise ValueError(f"options of {self.name} must be a mapping of names to values, but got {options!r}")
        for name in options:
            self._require(name)
        if widths and (reason := self.possible_at(widths)) is not None:
            raise ValueError(reason)
        return {
            name: option.check(self.name, name, options.get(name, option.default), widths)
            for name, option in self.options.items()
        }

    def canonical(self, options: Mapping[str, object], channels: int) -> dict[str, OptionValue]:
        """Return the effective values: two sets of options build the same network exactly when these are equal.

        Raises:
            ValueError: As :meth:`check`.
        """
        return self.canonical_at(options, (channels,))

    def canonical_at(self, options: Mapping[str, object], widths: Sequence[int]) -> dict[str, OptionValue]:
        """Return options that stand for all that build the same networks at every one of these widths.

        They are possible at all of them. Two sets of options have the same effective values at each of the widths
        exactly when these are equal.

        Raises:
            ValueError: If the block or a value is impossible at one of the widths, and as :meth:`check`.
        """
        if not widths:
            raise ValueError(f"{self.name}: widths must be at least one, but got {widths!r}")
        complete = self._complete(options, widths)
        effective: dict[str, OptionValue] = {}
        for name, option in self.options.items():
            active = option.active(effective)
            effective[name] = option.canonical_at(complete[name], widths) if active else option.idle_at(widths)
        return effective

    def starts_as_identity(self, options: Mapping[str, object]) -> bool:
        """Return whether ``init="paper"`` already passes the map through exactly, so that both inits are one network.

        Raises:
            ValueError: As :meth:`check`.
        """
        if self.identity_when is None:
            return False
        complete = self.check(options)
        return all(complete[name] == value for name, value in self.identity_when.items())

    def count(self, options: Mapping[str, object], channels: int, height: int, width: int) -> tuple[int, int]:
        """Return parameters, and multiply-accumulates for one image, by the table's expressions.

        These use C (channels), H (height), W (width), N = H * W (pixels), the effective options by their names, and
        ``sizes``. They count the block with its published initialisation; the identity may add one scalar.

        Raises:
            ValueError: As :meth:`check`.
        """
        names: dict[str, object] = {"C": channels, "H": height, "W": width, "N": height * width}
        names |= self.canonical(options, channels)
        known = {"__builtins__": {}, "max": max, "min": min}
        for name, expression in self.sizes.items():
            names[name] = eval(expression, known, names)
        return int(eval(self.parameters, known, names)), int(eval(self.macs, known, names))

    def valid(self, option: str, channels: int) -> tuple[OptionValue, ...]:
        """Return the values searched by default that are possible at that width; no two build the same network.

        Raises:
            ValueError: If the block has no such option, or the width is no integer >= 1.
        """
        return self.valid_at(option, (channels,))

    def valid_at(self, option: str, widths: Sequence[int]) -> tuple[OptionValue, ...]:
        """Return the values searched by default that are possible at all these widths; no two are equal in effect.

        Raises:
            ValueError: If the block has no such option, or as :meth:`possible_at`.
        """
        self._require(option)
        return () if self.possible_at(widths) is not None else self.options[option].valid_at(widths)

    def possible(self, channels: int) -> str | None:
        """Return None if the block can be built at that width, or else the rule that forbids it.

        Raises:
            ValueError: If the width is no integer >= 1.
        """
        return self.possible_at((channels,))

    def possible_at(self, widths: Sequence[int]) -> str | None:
        """Return None if the block can be built with the same options at all these widths, or the rule that forbids it.

        Raises:
            ValueError: If a width is no integer >= 1.
        """
        for channels in widths:
            if not is_int(channels) or channels < 1:
                raise ValueError(f"{self.name}: channels must be an integer >= 1, but got {channels!r}")
            if channels < self.min_channels:
                return f"{self.name}: channels must be at least {self.min_channels}, but got {channels}"
        for name, option in self.options.items():
            if not option.valid_at(widths):
                alone = [channels for channels in widths if not option.valid(channels)]
                unfit = ", ".join(map(str, alone or widths))
                return f"{self.name}: {name} must be {option.rule}, but no value fits {unfit} channels"
        return None

    def _require(self, option: object) -> None:
        if option not in self.options:
            hint = nearest(option, self.options)
            raise ValueError(f"{self.name} has no option {option!r}{hint}; its options: {', '.join(self.options)}")
