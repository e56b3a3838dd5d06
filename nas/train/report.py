"""What full trainings come to: test accuracies with their intervals, and the difference to the bare backbone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from nas.architecture import Architecture
from nas.evaluation import wilson_interval
from nas.train.paired import Difference
from nas.train.settings import counted


@dataclass(frozen=True, kw_only=True)
class Tested:
    """One network, fully trained and tested."""

    kind: str
    """``architecture`` or ``bare``."""
    seed: int
    """Seed of the training."""
    epoch: int
    """The epoch whose weights were tested, from 1."""
    correct: tuple[bool, ...]
    """For each test image, in the order of the split, whether it is classified correctly."""
    val_accuracy: float | None
    """Share of the validation images that these weights classify correctly; None where val was trained on."""
    train_seconds: float
    """Wall time of the epochs, in seconds."""

    @property
    def accuracy(self) -> float:
        """Share of the test images that are classified correctly, 0 to 1."""
        return sum(self.correct) / len(self.correct)

    def interval(self) -> tuple[float, float]:
        """Return the 95 % Wilson interval of the accuracy: the spread due to the number of test images."""
        return wilson_interval(self.accuracy, len(self.correct))

    def words(self) -> str:
        """Return the accuracy with its interval."""
        low, high = self.interval()
        return f"{self.accuracy:.2%} [{100 * low:.2f}, {100 * high:.2f}] on {counted(len(self.correct), 'test image')}"

    def to_json(self) -> str:
        """Return all fields as one line of JSON; the images as a string of 0 and 1."""
        fields = dataclasses.asdict(self)
        return json.dumps({**fields, "correct": "".join("01"[each] for each in self.correct)})


def read_tested(path: Path) -> Tested | None:
    """Read back what :meth:`Tested.to_json` wrote; None if it is not there.

    Raises:
        ValueError: If the file holds something else.
    """
    if not path.exists():
        return None
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return Tested(**{**fields, "correct": tuple(each == "1" for each in fields["correct"])})
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} does not hold a test result: {error}; give another --out") from error


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What full trainings of one config come to."""

    architecture: Architecture
    """What was trained."""
    found: tuple[Tested, ...]
    """Its trainings, a seed each."""
    bare: tuple[Tested, ...]
    """Those of the bare backbone, with the same seeds; empty if it was not trained."""
    difference: Difference | None
    """Accuracy of the architecture minus that of the bare backbone; None if that was not trained."""
    folder: Path
    """Where the results lie."""
    weights: Path
    """The weights of the first seed's network."""
    facts: Mapping[str, str]
    """How it was trained, in words."""

    def to_dict(self) -> dict[str, Any]:
        """Return what train.json holds."""

        def row(each: Tested) -> dict[str, Any]:
            low, high = each.interval()
            fields = {"test_accuracy": each.accuracy, "test_low": low, "test_high": high, "images": len(each.correct)}
            kept = ("seed", "epoch", "val_accuracy", "train_seconds")
            return {"kind": each.kind, **{name: getattr(each, name) for name in kept}, **fields}

        found: dict[str, Any] = {"architecture": self.architecture.to_dict(), "weights": str(self.weights)}
        found["trainings"] = [row(each) for each in (*self.found, *self.bare)]
        if self.difference is not None:
            found["difference"] = {
                **dataclasses.asdict(self.difference),
                "within_noise": self.difference.within_noise,
                "sentence": self.difference.sentence(),
            }
        return {**found, "facts": dict(self.facts)}

    def text(self) -> str:
        """Return the report, as Markdown."""
        lines = [f"# Full training of {self.architecture.describe()}", ""]
        lines += ["| network | seed | test accuracy | 95 % interval | val accuracy | epoch | seconds |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for each in (*self.found, *self.bare):
            low, high = each.interval()
            val = "" if each.val_accuracy is None else f"{each.val_accuracy:.2%}"
            lines.append(
                f"| {each.kind} | {each.seed} | {each.accuracy:.2%} | {100 * low:.2f} to {100 * high:.2f} | {val} | "
                f"{each.epoch} | {each.train_seconds:.1f} |"
            )
        if len(self.found) > 1:
            means = [f"{kind[0].kind} {fmean(each.accuracy for each in kind):.2%}" for kind in self._kinds()]
            lines += ["", f"Mean over {len(self.found)} seeds: {', '.join(means)}."]
        if self.difference is not None:
            lines += ["", self.difference.sentence()]
        lines += ["", *(f"- {name}: {words}" for name, words in self.facts.items())]
        which = f", of seed {self.found[0].seed}" if len(self.found) > 1 else ""
        lines += [f"- Weights{which}: `{self.weights}`, the state dict of what `nas.load` builds from the config", ""]
        return "\n".join(lines)

    def _kinds(self) -> list[tuple[Tested, ...]]:
        return [kind for kind in (self.found, self.bare) if kind]
