"""Is a study sound? Each check looks at what the database holds, and says in words what it found and what mends it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from nas.architecture import Architecture
from nas.evaluation import Evaluation
from nas.protocol import Protocol
from nas.study.inventory import Inventory
from nas.study.trials import checks, id_of, still_stopped, tally, was_cut_off

SAME = 1e-9
"""Figures that differ by no more are the same."""
RESTORE = "put back a copy of the database that `run_search.py backup` has made"
_MOST_SHOWN = 6


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found."""

    check: str
    """What was looked at, in a word or two."""
    words: str
    """What was found."""
    cure: str = ""
    """What mends it; empty where nothing is wrong."""
    is_mendable: bool = False
    """Whether ``doctor --repair`` mends it."""

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.cure


def sound(check: str, words: str) -> Finding:
    """Return a finding of what is as it should be."""
    return Finding(check=check, words=words)


def mendable(check: str, words: str, cure: str) -> Finding:
    """Return a finding of what is wrong and is mended by the program."""
    return Finding(check=check, words=words, cure=cure, is_mendable=True)


def broken(check: str, words: str, cure: str) -> Finding:
    """Return a finding of what is wrong and takes a person."""
    return Finding(check=check, words=words, cure=cure)


def check_binding(attributes: Mapping[str, Any]) -> Finding:
    """Check that the study still has the space and the protocol that it was bound to: their hashes say so.

    Args:
        attributes: What the study says of itself.
    """
    name = "space, protocol"
    try:
        protocol, space = Protocol.from_dict(attributes["protocol"]), attributes["space"]
        hashes = {"protocol": (protocol.hash, attributes["protocol_hash"])}
        # A study that was made before this was kept says nothing of it.
        hashes |= {"space": (space_hash(space), attributes["space_hash"])} if "space_hash" in attributes else {}
    except (KeyError, TypeError, ValueError) as error:
        return broken(name, f"cannot be read: {error}", RESTORE)
    changed = [
        f"the {what} has the hash {now}, but was kept with {kept}"
        for what, (now, kept) in hashes.items()
        if now != kept
    ]
    if changed:
        return broken(name, "; ".join(changed), RESTORE)
    return sound(
        name,
        f"as they were: protocol {protocol.hash}"
        + "".join(f", space {now}" for what, (now, _) in hashes.items() if what == "space"),
    )


def space_hash(space: Mapping[str, Any]) -> str:
    """Return the hash of a search space from the JSON values that a study keeps of it."""
    return hashlib.sha256(json.dumps(space, sort_keys=True).encode()).hexdigest()[:16]


def check_architectures(held: Inventory) -> Finding:
    """Check that every trial says what it evaluates, and that this is kept and builds the id by which it is named."""
    name = "architectures"
    nameless = [trial.number for trial in held.trials if "architecture" not in trial.user_attrs]
    if nameless:
        cure = f"another program has made them: {RESTORE}, or search under another name"
        return broken(name, f"{_trials(nameless)} name no architecture", cure)
    named = {id_of(trial) for trial in held.trials}
    absent = sorted(named - held.architectures.keys())
    if absent:
        return broken(name, f"{len(absent)} that trials name are not kept: {_some(absent)}", RESTORE)
    wrong = sorted(key for key in named if _rebuilt(held.architectures[key]) != key)
    if wrong:
        return broken(name, f"{len(wrong)} are damaged, and no longer what they are named by: {_some(wrong)}", RESTORE)
    return sound(name, f"all {len(named)} of the {len(held.trials)} trials are kept and rebuild to their ids")


def _rebuilt(text: str) -> str:
    """Return the id of what a JSON text builds; empty if that is nothing."""
    try:
        return Architecture.from_json(text).id
    except (ValueError, RecursionError):
        return ""


def check_evaluations(held: Inventory) -> Finding:
    """Check that what was measured is there for every finished trial, and is what the trial says."""
    name = "evaluations"
    finished = [trial for trial in held.trials if trial.state == TrialState.COMPLETE]
    if lost := lost_evaluations(held):
        cure = "their trials are taken for failed, and their architectures evaluated again"
        return mendable(
            name, f"{_trials(trial.number for trial in lost)} finished, but what was measured is gone", cure
        )
    if differ := differing(held):
        cure = "the cache counts: the trials are made to say what it says"
        return mendable(name, f"{_trials(trial.number for trial in differ)} and the cache say different figures", cure)
    if unreadable := [key for key in held.evaluations if held.evaluation(key) is None]:
        cure = "they are removed: nobody can use them"
        return mendable(name, f"{len(unreadable)} in the cache cannot be read: {_some(sorted(unreadable))}", cure)
    mine = {id_of(trial) for trial in finished}
    unused = len(held.evaluations.keys() - mine)
    more = f"; {unused} more under this protocol are reused if they are proposed" if unused else ""
    return sound(name, f"all {len(mine)} of the finished trials are kept, and agree with them{more}")


def lost_evaluations(held: Inventory) -> list[FrozenTrial]:
    """Return the finished trials for which nothing that can be read was kept."""
    return [
        trial for trial in held.trials if trial.state == TrialState.COMPLETE and held.evaluation(id_of(trial)) is None
    ]


def differing(held: Inventory) -> list[FrozenTrial]:
    """Return the finished trials that say another accuracy, or another ratio of latencies, than was kept.

    The latency in ms is not compared: it follows the bare backbone's, which may have been timed again since.
    """
    found = []
    for trial in held.trials:
        if trial.state == TrialState.COMPLETE and (kept := held.evaluation(id_of(trial))) is not None:
            ratio = trial.user_attrs.get("latency_ratio", kept.latency.ratio)
            if abs(trial.values[0] - kept.accuracy) > SAME or abs(ratio - kept.latency.ratio) > SAME:
                found.append(trial)
    return found


def check_budget(held: Inventory, epochs: int, budget: int | None) -> Finding:
    """Check that nothing was trained twice to the end, and count what was.

    Args:
        held: What the study has.
        epochs: Epochs of a whole training.
        budget: What the latest search asked for, in whole trainings; None where that is not known.
    """
    name = "budget"
    if again := twice(held):
        cure = "the later ones are taken for cut off; the first ones count in any case"
        return mendable(name, f"{_trials(trial.number for trial in again)} finished what another trial had", cure)
    known: dict[str, Evaluation] = {key: kept for key in held.evaluations if (kept := held.evaluation(key)) is not None}
    count = tally(held.trials, known, epochs)
    words = f"{count.finished} architectures finished, none of them twice"
    words += f"; {count.stopped} stopped early" if count.stopped else ""
    words += f"; {count.paid} epochs, {count.spent:g} whole trainings"
    words += f" of {budget} that were asked for" if budget is not None else ""
    return sound(name, words)


def twice(held: Inventory) -> list[FrozenTrial]:
    """Return the trials that finished an architecture which an earlier trial had finished."""
    seen: set[str] = set()
    found = []
    for trial in held.trials:
        if trial.state == TrialState.COMPLETE:
            found += [trial] if id_of(trial) in seen else []
            seen.add(id_of(trial))
    return found


def check_running(held: Inventory, dead: Container[int]) -> Finding:
    """Check that whoever has a trial in work is alive.

    Args:
        held: What the study has.
        dead: Numbers of the trials whose worker is dead.
    """
    name = "trials in work"
    running = [trial.number for trial in held.trials if trial.state == TrialState.RUNNING]
    waiting = [trial.number for trial in held.trials if trial.state == TrialState.WAITING]
    if stale := [number for number in running if number in dead]:
        cure = "their architectures are queued again, as the next search would do"
        return mendable(name, f"{_trials(stale)}: the worker died", cure)
    words = f"{len(running)}, by workers that live, or did until lately" if running else "none"
    words += f"; {len(waiting)} wait to be repeated by the next search" if waiting else ""
    return sound(name, words)


def check_ends(held: Inventory) -> Finding:
    """Check that whatever was cut off is finished in another trial, or will be."""
    name = "trials cut off"
    cut = {id_of(trial): trial for trial in held.trials if was_cut_off(trial)}
    others = {id_of(trial) for trial in held.trials if not was_cut_off(trial)}
    if lost := [trial.number for key, trial in cut.items() if key not in others and not checks(trial)]:
        cure = "their architectures are queued again"
        return mendable(name, f"{_trials(lost)}: no other trial has the architecture", cure)
    failed = sum(trial.state == TrialState.FAIL and not was_cut_off(trial) for trial in held.trials)
    count = sum(map(was_cut_off, held.trials))
    words = f"{count}, each with another trial for its architecture" if count else "none"
    return sound(name, words + (f"; {failed} failed for a reason of their own" if failed else ""))


def needed(held: Inventory) -> set[str]:
    """Return the ids of the architectures whose training may be gone on with, from a file that holds it."""
    at_work = (TrialState.RUNNING, TrialState.WAITING)
    return {id_of(trial) for trial in held.trials if trial.state in at_work} | {
        id_of(trial) for trial in still_stopped(held.trials)
    }


def _trials(numbers: Any) -> str:
    """Return some numbers of trials in words."""
    found = list(numbers)
    return ("trial " if len(found) == 1 else "trials ") + _some([str(number) for number in found])


def _some(names: list[str]) -> str:
    return ", ".join(names[:_MOST_SHOWN]) + (
        f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
    )
