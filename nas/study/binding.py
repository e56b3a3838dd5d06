"""What a study is bound to: a name, a search space and a protocol, which no later run may change."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from typing import Any

import optuna

from nas.limits import Limits
from nas.protocol import Protocol
from nas.space import ResolvedSpace
from nas.strict_json import short

METRICS = ("accuracy", "latency_ms")
"""Names of the two objectives: the first is maximised, the second minimised."""
LIMITS = "limits"
"""The attribute that says what an architecture may cost at most."""
INPUTS = "inputs"
"""The attribute that says how data and trained weights were asked for."""
SEARCH = "search"
"""The entry of those that says how the study is searched, beyond what it is bound to."""
RUNGS = "rungs"
"""The attribute that says by which rungs trainings were stopped; a study is not bound to them."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names of devices in Windows, with any ending."""
_TAKEN = ("warm", "costs")
"""Folders beside those of studies."""
_MARK = "protocol_hash"
"""The attribute that is written last: a study without it was never finished being made, or is not ours."""


class StudyError(ValueError):
    """A study cannot be opened or resumed as asked; the message says why."""


def check_name(name: str) -> None:
    """Raise unless a study's name can also be the name of its folder.

    Raises:
        StudyError: If it cannot.
    """
    if not is_name(name):
        rule = "letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 100"
        kept = (
            ""
            if not _NAME.fullmatch(name)
            else ", and no name that is taken (con, nul, warm, costs, what ends in .db ...)"
        )
        raise StudyError(f"a study's name must be {rule}{kept}, but got {short(name)}")


def is_name(name: str) -> bool:
    """Tell whether a study's name can also be the name of its folder, on every system."""
    is_taken = name in _TAKEN or name.endswith((".", ".db"))
    return _NAME.fullmatch(name) is not None and not _DEVICE.fullmatch(name) and not is_taken


def bind(
    name: str,
    storage: optuna.storages.BaseStorage,
    *,
    space: ResolvedSpace,
    protocol: Protocol,
    limits: Limits,
    inputs: Mapping[str, Any] | None = None,
) -> None:
    """Make a study, or check that the one of that name has the same space, protocol and limits. Call it under a lock.

    One that has no trial yet takes the new ones. The latest ``inputs`` are kept: the data may have moved. Whoever finds
    a study bound finds them, too.

    Raises:
        StudyError: If it has others, with the difference, or is not ours.
    """
    # Compared as JSON, so that a tuple and the list that was read back are the same.
    bound = {"protocol": protocol.to_dict(), "space": space.to_dict(), LIMITS: limits.to_dict()}
    wanted: dict[str, Any] = json.loads(json.dumps(bound))
    noted = {} if inputs is None else {INPUTS: json.loads(json.dumps(dict(inputs)))}
    if name not in optuna.get_all_study_names(storage):
        optuna.create_study(study_name=name, storage=storage, directions=["maximize", "minimize"])
    study = optuna.load_study(study_name=name, storage=storage)
    found = study.user_attrs
    changed = differences({key: found[key] for key in wanted}, wanted) if _MARK in found else []
    begun = bool(study.get_trials(deepcopy=False))
    if _MARK not in found or (changed and not begun):
        if begun or len(study.directions) != len(METRICS):
            raise StudyError(f"study {name!r} was not made by this program; choose another name with --study")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(list(METRICS))
        noted = {**noted, **wanted, "space_hash": space.hash, _MARK: protocol.hash}
    elif changed:
        shown = "; ".join(changed[:4]) + (f"; and {len(changed) - 4} more" if len(changed) > 4 else "")
        raise StudyError(
            f"study {name!r} has another space, protocol or limits ({shown}); "
            "resume it with the same settings, or choose another name with --study"
        )
    for key, value in noted.items():
        if found.get(key) != value:
            study.set_user_attr(key, value)


def is_bound(study: optuna.Study) -> bool:
    """Tell whether a study was made here."""
    return _MARK in study.user_attrs


def differences(old: object, new: object, where: str = "") -> list[str]:
    """Return what differs between two JSON values, one short line each: ``protocol.epochs: 3 -> 5``."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for key in [*old, *(key for key in new if key not in old)]:
            name = f"{where}.{key}" if where else str(key)
            lines += differences(old.get(key, "absent"), new.get(key, "absent"), name)
        return lines
    return [] if old == new else [f"{where}: {_short(old)} -> {_short(new)}"]


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
