"""Options of the attention blocks: what a value may be, which values are searched, which of them build equal networks.

Nothing here needs torch.
"""

from __future__ import annotations

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from nas.attention.widths import (
    GROUP_LIMIT,
    HEAD_LIMIT,
    HIDDEN_FLOOR,
    LOCAL_EXTENTS,
    eca_kernel,
    fitting_heads,
    hidden_width,
    is_int,
    is_odd_kernel,
    largest_group,
    splits,
)

OptionValue = int | float | str | None
"""Value of an option; ``None`` stands for the paper's rule at the width at hand. Booleans are not values."""


def nearest(word: object, known: Iterable[str]) -> str:
    """Return a hint such as ``"; did you mean 'se'?"``, or nothing if no known word is close."""
    by_lower = {name.lower(): name for name in known}
    is_word = isinstance(word, str) and len(word) < 100  # to compare a long text takes long, and finds nothing
    close = difflib.get_close_matches(str(word).lower(), by_lower, n=1) if is_word else []
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""


def options_text(options: Mapping[str, OptionValue]) -> str:
    """Return options in one line, such as ``reduction=16, kernel_size=7``."""
    return ", ".join(f"{name}={value}" for name, value in options.items())


@dataclass(frozen=True, kw_only=True)
class Option(ABC):
    """One option of a block."""

    adapts: ClassVar[bool] = False
    """Whether the effective value depends on the width, so that one value may mean several networks at several."""

    default: OptionValue
    """The paper's value."""
    choices: tuple[OptionValue, ...]
    """Values that are searched unless a search space says otherwise; other values may be allowed, too."""
    help: str
    """One line on what the option does."""
    when: tuple[str, tuple[OptionValue, ...]] | None = None
    """An earlier option, and its effective values with which this one has an effect; None for always."""

    def active(self, earlier: Mapping[str, OptionValue]) -> bool:
        """Return whether the option has an effect beside these effective values of the options before it."""
        return self.when is None or earlier[self.when[0]] in self.when[1]

    def idle_at(self, widths: Sequence[int]) -> OptionValue:
        """Return the effective value that stands for all where the option has no effect: the default, if possible."""
        fits = all(self.allows(self.default, channels) for channels in widths)
        return self.canonical_at(self.default, widths) if fits else self.valid_at(widths)[0]

    def __post_init__(self) -> None:
        for value in (self.default, *self.choices):
            if not self.allows(value, None):
                raise ValueError(f"a default or choice must be {self.rule}, but got {value!r}")
        if self.default not in self.choices:
            raise ValueError(f"the default must be one of the choices {self.choices}, but got {self.default!r}")

    @property
    @abstractmethod
    def rule(self) -> str:
        """What a value must be, to follow "must be"."""

    @abstractmethod
    def allows(self, value: object, channels: int | None) -> bool:
        """Return whether a value is possible: at that width, or at any if ``channels`` is None."""

    def canonical(self, value: OptionValue, channels: int) -> OptionValue:
        """Return the one value that stands for all values that build the same network at that width."""
        return value

    def canonical_at(self, value: OptionValue, widths: Sequence[int]) -> OptionValue:
        """Return the one value that stands for all that build the same networks at every one of these widths.

        That is what the value comes to, where it comes to the same at all of them. Else it is the value itself: of
        the kinds that do not override this, ``None`` alone comes to several.
        """
        effective = {self.canonical(value, channels) for channels in widths}
        return effective.pop() if len(effective) == 1 else value

    def check(self, block: str, name: str, value: object, widths: Sequence[int] = ()) -> OptionValue:
        """Return the value if it is possible.

        Args:
            block: Name of the block, for the message.
            name: Name of the option, for the message.
            value: What was given.
            widths: Widths of the maps; without any, only rules that hold at every width are checked.

        Raises:
            ValueError: If the value is impossible; says the rule, the value and the choices.
        """
        forbidding = [channels for channels in widths or (None,) if not self.allows(value, channels)]
        if not forbidding:
            assert value is None or isinstance(value, (int, float, str))
            return value
        where = "" if forbidding[0] is None else f" at {forbidding[0]} channels"
        known = self.valid_at(widths) if widths else self.choices
        listed = ", ".join(str(choice) for choice in known) or "none at this width"
        raise ValueError(f"{block}: {name} must be {self.rule}, but got {value!r}{where}; choices: {listed}")

    def valid(self, channels: int) -> tuple[OptionValue, ...]:
        """Return the choices that are possible at that width, canonical, in order, each network once."""
        return self.valid_at((channels,))

    def valid_at(self, widths: Sequence[int]) -> tuple[OptionValue, ...]:
        """Return the choices that are possible at all these widths, canonical, in order, equal networks once."""
        fitting = (value for value in self.choices if all(self.allows(value, channels) for channels in widths))
        distinct = {self.canonical_at(value, widths) for value in fitting}
        return tuple(sorted(distinct, key=lambda value: (isinstance(value, str), value is not None, value)))


@dataclass(frozen=True, kw_only=True)
class Reduction(Option):
    """By how much a bottleneck divides the channels; any integer >= 1."""

    adapts = True

    floor: int = HIDDEN_FLOOR
    """Fewest hidden units."""

    @property
    def rule(self) -> str:
        return "an integer >= 1"

    def allows(self, value: object, channels: int | None) -> bool:
        return isinstance(value, int) and is_int(value) and value >= 1

    def canonical(self, value: OptionValue, channels: int) -> OptionValue:
        """Return the smallest choice that gives the same hidden width, or else the smallest integer that does."""
        return self.canonical_at(value, (channels,))

    def canonical_at(self, value: OptionValue, widths: Sequence[int]) -> OptionValue:
        """Return the smallest choice that gives the same hidden widths, or else the smallest integer that does."""
        assert isinstance(value, int)
        hidden = {channels: hidden_width(channels, value, self.floor) for channels in widths}
        for choice in sorted(choice for choice in self.choices if isinstance(choice, int)):
            if all(hidden_width(channels, choice, self.floor) == units for channels, units in hidden.items()):
                return choice
        # At each width the reductions with the same hidden width are an interval, whose first is the first with
        # channels // reduction <= hidden; a wider quotient is a wider bottleneck. All of the intervals hold the value.
        return max(channels // (units + 1) + 1 for channels, units in hidden.items())


@dataclass(frozen=True, kw_only=True)
class Count(Option):
    """A plain integer in a range; every value is another network."""

    low: int = 1
    """Least value."""
    high: int | None = None
    """Greatest value; None for no limit."""

    @property
    def rule(self) -> str:
        return f"an integer >= {self.low}" if self.high is None else f"an integer from {self.low} to {self.high}"

    def allows(self, value: object, channels: int | None) -> bool:
        if not isinstance(value, int) or not is_int(value):
            return False
        return value >= self.low and (self.high is None or value <= self.high)


@dataclass(frozen=True, kw_only=True)
class OddKernel(Option):
    """Kernel size over the map's rows and columns."""

    @property
    def rule(self) -> str:
        return "an odd integer >= 1"

    def allows(self, value: object, channels: int | None) -> bool:
        return is_odd_kernel(value)


@dataclass(frozen=True, kw_only=True)
class ChannelKernel(Option):
    """Kernel size along the channel axis; None is ECA's adaptive size."""

    adapts = True

    @property
    def rule(self) -> str:
        return "None (adaptive) or an odd integer from 1 to the number of channels"

    def allows(self, value: object, channels: int | None) -> bool:
        if value is None:
            return True
        return isinstance(value, int) and is_odd_kernel(value) and (channels is None or value <= channels)

    def canonical(self, value: OptionValue, channels: int) -> OptionValue:
        """Return the size itself, computed where it is adaptive."""
        return eca_kernel(channels) if value is None else value


@dataclass(frozen=True, kw_only=True)
class Groups(Option):
    """Into how many groups the channels are cut; None is as many as fit, at most 64."""

    adapts = True

    multiple: int = 1
    """What the channels of one group must be a multiple of."""
    limit: int = GROUP_LIMIT
    """Most groups where none are asked for."""

    @property
    def rule(self) -> str:
        cut = "groups" if self.multiple == 1 else f"({self.multiple} * groups)"
        return f"None (as many as fit, at most {self.limit}) or an integer >= 1 with channels % {cut} == 0"

    def allows(self, value: object, channels: int | None) -> bool:
        if value is None:
            return channels is None or largest_group(channels, self.multiple, self.limit) > 0
        if not isinstance(value, int) or not is_int(value) or value < 1:
            return False
        return channels is None or splits(channels, value, self.multiple)

    def canonical(self, value: OptionValue, channels: int) -> OptionValue:
        """Return the number of groups."""
        return largest_group(channels, self.multiple, self.limit) if value is None else value


@dataclass(frozen=True, kw_only=True)
class Choice(Option):
    """One of a few names."""

    names: tuple[str, ...]
    """All names that are allowed; ``choices`` may list fewer."""
    multiples: Mapping[str, int] = field(default_factory=dict)
    """For a name that is not possible at every width, what the channels must be a multiple of."""

    @property
    def rule(self) -> str:
        rules = {name: f" (channels % {multiple} == 0)" for name, multiple in self.multiples.items()}
        return f"one of {', '.join(name + rules.get(name, '') for name in self.names)}"

    def allows(self, value: object, channels: int | None) -> bool:
        if not isinstance(value, str) or value not in self.names:
            return False
        return channels is None or channels % self.multiples.get(value, 1) == 0

    def valid_at(self, widths: Sequence[int]) -> tuple[OptionValue, ...]:
        """Return the names that are searched and possible at all these widths, in the table's order."""
        return tuple(name for name in self.choices if all(self.allows(name, channels) for channels in widths))


@dataclass(frozen=True, kw_only=True)
class Number(Option):
    """A real number in a closed range."""

    low: float
    """Least value."""
    high: float
    """Greatest value."""

    @property
    def rule(self) -> str:
        return f"a number from {self.low:g} to {self.high:g}"

    def allows(self, value: object, channels: int | None) -> bool:
        if not isinstance(value, float) and not is_int(value):
            return False
        assert isinstance(value, (int, float))
        return math.isfinite(value) and self.low <= value <= self.high

    def check(self, block: str, name: str, value: object, widths: Sequence[int] = ()) -> OptionValue:
        """Return the value as a float, so that 1 and 1.0 are one value; raise as :meth:`Option.check`."""
        checked = super().check(block, name, value, widths)
        assert isinstance(checked, (int, float))
        return float(checked)


@dataclass(frozen=True, kw_only=True)
class Heads(Option):
    """Heads of an attention; None is as many as fit, at most 8, of at least 8 channels each."""

    adapts = True

    @property
    def rule(self) -> str:
        return f"None (as many as fit, at most {HEAD_LIMIT}) or an integer >= 1 with channels % heads == 0"

    def allows(self, value: object, channels: int | None) -> bool:
        if value is None:
            return True
        if not isinstance(value, int) or not is_int(value) or value < 1:
            return False
        return channels is None or channels % value == 0

    def canonical(self, value: OptionValue, channels: int) -> OptionValue:
        """Return the number of heads."""
        return fitting_heads(channels) if value is None else value

    def valid_at(self, widths: Sequence[int]) -> tuple[OptionValue, ...]:
        """Return the choices that leave a head at least 8 channels; one head is always among the possible."""
        most = min(fitting_heads(channels) for channels in widths)
        return tuple(v for v in super().valid_at(widths) if v is None or (isinstance(v, int) and v <= most))


@dataclass(frozen=True, kw_only=True)
class GroupWidth(Option):
    """Channels that a grouped convolution mixes; 1 is a depthwise one."""

    @property
    def rule(self) -> str:
        return "an integer >= 1 that divides the channels"

    def allows(self, value: object, channels: int | None) -> bool:
        if not isinstance(value, int) or not is_int(value) or value < 1:
            return False
        return channels is None or channels % value == 0


@dataclass(frozen=True, kw_only=True)
class Extent(Option):
    """Extent of a neighbourhood in pixels; 0 is the whole map."""

    @property
    def rule(self) -> str:
        return f"0 (global) or one of {', '.join(map(str, LOCAL_EXTENTS))}"

    def allows(self, value: object, channels: int | None) -> bool:
        return is_int(value) and value in (0, *LOCAL_EXTENTS)
