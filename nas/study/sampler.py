"""Propose the next architecture. A proposal is a pure function of the space, the seed and what is known so far.

``additive`` is our own, see :mod:`nas.study.gain`, and ``random`` answers every question of the space with a uniform
draw; the others are Optuna's. Those are asked in a study in memory that is rebuilt from what is known, with a sampler
that is seeded anew for every proposal, so that a search that was killed and resumed proposes what it would have anyway.

They are told the accuracy and the *nominal* latency, which is counted and not clocked: a clock's noise would make every
run propose other architectures. The measured latency is what the study records and what the front is drawn from, and
what limits of latency are about: with those, another run may propose others.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import optuna

from nas.architecture import Architecture
from nas.space import ResolvedSpace
from nas.threads import one_thread_of_numpy, threads_of_torch

if TYPE_CHECKING:
    from nas.study.encoding import Ints

SAMPLERS = ("auto", "additive", "gp", "tpe", "nsga2", "random")
"""Names of the samplers; ``auto`` is ``additive``, which is ``gp`` in a space of several backbones."""
Distribution = optuna.distributions.BaseDistribution
_DUPLICATES = 20
_DRAWS = 1000


@dataclass(frozen=True, kw_only=True)
class Known:
    """An architecture that is finished, stopped early, failed or in work."""

    id: str
    """The architecture's id."""
    params: Mapping[str, Any]
    """Optuna's parameters; empty for an architecture that the space does not contain."""
    values: tuple[float, float] | None
    """Accuracy and nominal latency in ms of a finished one."""
    pending: bool = False
    """Whether it is in work."""
    memory: Mapping[str, Any] = field(default_factory=dict)
    """What the sampler noted about its proposal."""
    excess: Mapping[str, float] = field(default_factory=dict)
    """How far it is beyond each limit, as a share of the limit: 0 or less is within."""
    nominal_ms: float | None = None
    """Nominal latency in ms of one without an accuracy: beyond the limits, or stopped early."""
    curve: Sequence[float] = ()
    """Validation accuracy after each epoch of one that was finished or stopped early, 0 to 1.

    What was stopped early has a curve and a ``nominal_ms``, and no ``values``; Optuna's samplers are not told of it.
    """


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """The next architecture to evaluate."""

    architecture: Architecture
    params: Mapping[str, Any] = field(default_factory=dict)
    """Optuna's parameters; empty for an architecture that the space does not contain."""
    control: str = ""
    """Label of a control; empty for a sampled architecture."""
    resumes: bool = False
    """Whether its training was stopped early, and is to be taken up again."""
    memory: Mapping[str, Any] = field(default_factory=dict)
    explains: int | None = None
    """Number of the trial whose blocks are being checked with it; None for what the search itself wants."""


def resolve_sampler(name: str) -> str:
    """Return the sampler that a name means.

    Raises:
        ValueError: If the name is unknown.
    """
    if name not in SAMPLERS:
        raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, but got {name!r}")
    return "additive" if name == "auto" else name


def propose(space: ResolvedSpace, known: Sequence[Known], *, sampler: str, seed: int) -> Proposal | None:
    """Return the next architecture, or None when every architecture of the space is known.

    Controls come first. A sampled duplicate is answered from what is known, and the sampler is asked again. Our own may
    propose to take up a training that was stopped early.

    Args:
        space: The search space.
        known: What is finished, stopped early, failed or in work, in the order in which it was proposed.
        sampler: One of :data:`SAMPLERS`.
        seed: Seed of the search.
    """
    seen = {entry.id for entry in known}
    for control in space.controls():
        if control.architecture.id not in seen:
            return Proposal(architecture=control.architecture, params=control.choices, control=control.label)
    name = resolve_sampler(sampler)
    if name == "additive" and len(space.sites) > 1:
        name = "gp"  # what several backbones have in common is not for sums of effects to say
    if name == "additive":
        with one_thread_of_numpy():
            proposal = _suggest(space, known, _derive(seed, len(known)))
    elif name == "random":
        proposal = None
    else:
        with threads_of_torch(1):  # a GP of so few points is slowed down by threads: 0.29 s, not 0.40 s at 40 trials
            proposal = _ask(space, known, sampler=name, seed=seed)
    return proposal or _draw(space, seen, random.Random(_derive(seed, len(known), "draw")))


def _suggest(space: ResolvedSpace, known: Sequence[Known], seed: int, *, at_once: bool = False) -> Proposal | None:
    """Ask the model of this space, at once or after the start-up; None where it finds nothing to train."""
    import numpy as np

    from nas.study.encoding import encoding_of
    from nas.study.gain import STARTUP, Observed, suggest

    encoding = encoding_of(space)
    inside = _encoded(space, known)
    entries = [entry for _, entry in inside]
    limits = sorted({name for entry in entries for name in entry.excess})
    nan = float("nan")
    times = [entry.values[1] if entry.values else entry.nominal_ms for entry in entries]
    excess = [[entry.excess.get(name, nan) for name in limits] for entry in entries]
    # What failed, for want of memory mostly, is as good as beyond a limit: its neighbours may fail, too.
    failed = [not (entry.pending or entry.values or entry.excess or entry.curve) for entry in entries]
    if any(failed):
        trained = [entry.values is not None or bool(entry.curve) for entry in entries]
        signs = [1.0 if bad else -1.0 if good else nan for bad, good in zip(failed, trained, strict=True)]
        excess = [[*row, sign] for row, sign in zip(excess, signs, strict=True)]
    rung, epochs = _rung(entries)
    observed = Observed(
        vectors=np.array([vector for vector, _ in inside], dtype=np.int64).reshape(len(inside), len(encoding.stages)),
        pending=np.array([entry.pending for entry in entries], dtype=bool),
        accuracy=np.array([entry.values[0] if entry.values else nan for entry in entries]),
        early=np.array([entry.curve[rung - 1] if 0 < rung <= len(entry.curve) else nan for entry in entries]),
        rest=np.array([1 - len(entry.curve) / epochs if _is_stopped(entry) else nan for entry in entries]),
        nominal_ms=np.array([nan if time is None else time for time in times]),
        excess=np.array(excess, dtype=float).reshape(len(entries), len(limits) + any(failed)),
    )
    vector = suggest(encoding, observed, seed, 0 if at_once else STARTUP)
    if vector is None:
        return None
    architecture = encoding.architecture(vector)
    begun = {entry.id for entry in entries if _is_stopped(entry)}
    return Proposal(
        architecture=architecture, params=space.answers(architecture) or {}, resumes=architecture.id in begun
    )


def _encoded(space: ResolvedSpace, known: Sequence[Known]) -> list[tuple[Ints, Known]]:
    """Return what is known of architectures that are made of the space's blocks, each once, with its vector."""
    from nas.study.encoding import encoding_of

    encoding = encoding_of(space)
    # Controls that the space lacks, as with fewer blocks at once, have no parameters, and still tell of its blocks.
    controls = {control.architecture.id: control.architecture for control in space.controls()}
    return [
        (vector, entry)
        for entry in _merged(known)
        if entry.params or entry.id in controls
        if (vector := encoding.vector(entry.id, partial(_architecture, space, entry, controls))) is not None
    ]


def _merged(known: Sequence[Known]) -> list[Known]:
    """Return each architecture once: what came of it last, and what its curve was if it is in work again."""
    found: dict[str, Known] = {}
    for entry in known:
        before = found.get(entry.id)
        if before is not None and entry.pending and _is_stopped(before):
            found[entry.id] = replace(before, pending=True)
        elif before is None or before.values is None:
            found[entry.id] = entry
    return list(found.values())


def _is_stopped(entry: Known) -> bool:
    return bool(entry.curve) and entry.values is None and not entry.pending


def _rung(entries: Sequence[Known]) -> tuple[int, int]:
    """Return the epoch at which the last one was stopped, 0 for none, and the epochs of a whole training."""
    epochs = max((len(entry.curve) for entry in entries if entry.values is not None), default=0)
    stopped = [len(entry.curve) for entry in entries if entry.curve and entry.values is None]
    return stopped[-1] if stopped else 0, max([epochs, *(length + 1 for length in stopped)])


def goes_on(space: ResolvedSpace, known: Sequence[Known], identifier: str, *, seed: int) -> bool:
    """Tell whether a training is worth more per epoch to our own sampler than all others, new or begun.

    It is, too, while fewer than :data:`nas.study.gain.PAIRS` architectures that the model sees were trained to the end.

    Args:
        space: The search space.
        known: What is known, this architecture as one that was stopped now.
        identifier: Its id.
        seed: Seed of the search.
    """
    from nas.study.gain import PAIRS

    if sum(entry.values is not None for _, entry in _encoded(space, known)) < PAIRS:
        return True
    with one_thread_of_numpy():
        proposal = _suggest(space, known, _derive(seed, len(known)), at_once=True)
    return proposal is None or proposal.architecture.id == identifier


def _architecture(space: ResolvedSpace, entry: Known, controls: Mapping[str, Architecture]) -> Architecture:
    """Return the architecture of what is known: a control, or what Optuna's parameters mean."""
    if entry.id in controls:
        return controls[entry.id]
    return space.sample(lambda name, _options: entry.params[name])


def _ask(space: ResolvedSpace, known: Sequence[Known], *, sampler: str, seed: int) -> Proposal | None:
    """Ask the sampler until it proposes something new; None if it keeps proposing duplicates."""
    by_id = {entry.id: entry for entry in known}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = _rebuild(space, known)
        for attempt in range(_DUPLICATES):
            study.sampler = _make(sampler, _derive(seed, len(known), attempt))
            trial = study.ask()
            architecture = space.sample(trial.suggest_categorical)
            duplicate = by_id.get(architecture.id)
            if duplicate is None:
                frozen = study.get_trials(deepcopy=False)[trial.number]
                memory = {key: value for key, value in frozen.system_attrs.items() if _is_memory(key)}
                return Proposal(architecture=architecture, params=trial.params, memory=memory)
            values = _values(duplicate, known)
            if values is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                for name, excess in duplicate.excess.items():
                    trial.set_constraint(name, excess)
                study.tell(trial, values)
    return None


def _is_memory(key: str) -> bool:
    return key.startswith("NSGAIISampler:")  # the generation, without which evolution would start anew every time


def _draw(space: ResolvedSpace, seen: set[str], generator: random.Random) -> Proposal | None:
    """Draw at random until something is new; walk through the whole space where even that fails."""
    params: dict[str, Any] = {}

    def choose(name: str, options: Sequence[Any]) -> Any:
        params[name] = generator.choice(list(options))
        return params[name]

    for _ in range(_DRAWS):
        params.clear()
        architecture = space.sample(choose)
        if architecture.id not in seen:
            return Proposal(architecture=architecture, params=dict(params))
    # The walk meets at most len(seen) known architectures before a new one.
    for architecture in itertools.islice(space.enumerate(), len(seen) + 1):
        if architecture.id not in seen:
            return Proposal(architecture=architecture, params=space.answers(architecture) or {})
    return None


def distributions(space: ResolvedSpace, params: Mapping[str, Any]) -> dict[str, Distribution]:
    """Return Optuna's distributions of the parameters of one architecture of the space."""
    found: dict[str, Distribution] = {}

    def choose(name: str, options: Sequence[Any]) -> Any:
        found[name] = optuna.distributions.CategoricalDistribution(tuple(options))
        return params[name]

    if params:
        space.sample(choose)
    return found


def _rebuild(space: ResolvedSpace, known: Sequence[Known]) -> optuna.Study:
    """Return a study in memory that holds what is known."""
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=optuna.samplers.RandomSampler(0))
    for entry in known:
        values = _values(entry, known)
        if not entry.params or (values is None and not entry.pending):
            continue
        state = optuna.trial.TrialState.RUNNING if entry.pending else optuna.trial.TrialState.COMPLETE
        study.add_trial(
            optuna.trial.create_trial(
                state=state,
                values=None if entry.pending else values,
                params=dict(entry.params),
                distributions=distributions(space, entry.params),
                system_attrs=dict(entry.memory),
                constraints=None if entry.pending else dict(entry.excess),
            )
        )
    return study


def _values(entry: Known, known: Sequence[Known]) -> tuple[float, float] | None:
    """Return what Optuna is told of an architecture, None for nothing; one beyond the limits stands for an average one.

    The sampler learns from the constraints what is beyond the limits; a low accuracy would teach it something false.
    """
    if entry.values is not None or entry.nominal_ms is None or entry.curve:
        return entry.values
    accuracies = [other.values[0] for other in known if other.values is not None]
    return (statistics.fmean(accuracies) if accuracies else 0.0), entry.nominal_ms


def _make(name: str, seed: int) -> optuna.samplers.BaseSampler:
    if name == "gp":
        return optuna.samplers.GPSampler(seed=seed, warn_independent_sampling=False)
    if name == "tpe":
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
    return optuna.samplers.NSGAIISampler(seed=seed, population_size=20)


def _derive(*parts: object) -> int:
    """Return a seed of 32 bits that depends on all parts."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")
