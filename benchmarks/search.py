"""Is the search better than random, and than plain Optuna? Whole searches, replayed on a table of trainings.

    python benchmarks/search.py                        # all, 50 searches each, on all cores
    python benchmarks/search.py --searches 10 --only ours,uniform
    python benchmarks/search.py --only ours --rung 3   # ours looks at trainings earlier than half way
    python benchmarks/search.py --plot search.html

Every search sees the validation accuracies of one seed, as a real one does. It is judged by what it would hand over: by
those accuracies the front of what it has trained to the end and of the bare backbone, which everybody knows. Of these
architectures the truth counts: the test accuracy with the seeds that the search did not see, and the latency. Controls
that the space lacks are paid for, and left out: no other search could find them.

area    what the handed-over architectures dominate beyond the bare backbone's accuracy, up to the latency of the
        slowest on the true front, as a share of what the true front dominates there
regret  by how much what looks best of these within a limit of latency is less accurate than the best of the space
        within it, in percentage points: the mean over a hundred limits from the bare backbone's latency to that one

Ranges are 95 % intervals of the mean over the searches: they say what chance in the search does, on this table. The
half of the searches that sees one seed is judged by the other; both halves are printed, too. The truth is itself one
test of a finite number of images, and its front the luckiest of all architectures, which makes every area smaller and
every regret larger than they are. Latencies are those that the searches saw.

Cost is in epochs, and told in full trainings; a figure at a cost is that of the last trial that was paid for by then.
What ours takes up again after it was stopped costs the rest alone, as where its weights were kept.
Plain Optuna trains again what it proposes again; in the last column that is free.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from attnbench.replay import Coin, Searcher, Table, conditional, ours, plain, slots, uniform
from attnbench.worth import (
    COST,
    LONGEST,
    Searches,
    cost_factor,
    entering,
    interval,
    joined,
    replay,
    words,
    wrong_stops,
)

from nas.rungs import FEWEST, RISK, Rungs, usual
from nas.study.gain import PAIRS

OURS, WHOLE = "ours", "ours, nothing stopped"
RANDOM, RULED = "random (stages first)", "random with rungs"
RANDOM_SLOTS = "plain random, slots"
PATIENT = ("uniform random", RANDOM, RANDOM_SLOTS)
"""The searches that go on for so long."""
PART = 10
"""So many searches of a kind are one piece of work for a process."""


def print_comparison(found: Sequence[Searches], table: Table) -> None:
    """Print area and regret of each kind at some costs."""
    costs, now = (10, 20, COST, 100), COST * table.epochs
    shown = "".join(f"{f'area at {cost}':>17}" for cost in costs)
    seeds = "seeds " + "/".join(map(str, table.seeds))
    print(f"{'search':<36}{shown}{seeds:>14}{f'regret at {COST}':>16}{'again':>7}{'area if free':>17}")
    for each in found:
        shown = [words(each.at(cost * table.epochs)) if cost <= longest(each.name) else "-" for cost in costs]
        areas = "".join(f"{figure:>17}" for figure in shown)
        area = each.at(now)
        halves = "/".join(f"{area[np.array(each.seeds) == seed].mean():.3f}" for seed in table.seeds)
        free = words(each.at(now, again_is_free=True)) if each.duplicates(now) else "-"
        regret = words(each.at(now, "regret"), 2)
        print(f"{each.name:<36}{areas}{halves:>14}{regret:>16}{each.duplicates(now):>7.1f}{free:>17}")
    print(
        f"seeds: area at {COST} of those that saw that seed. again: those of {COST} trainings that were there before.\n"
        f"area if free: at {COST}, if those cost nothing"
    )


def print_factors(found: Sequence[Searches], epochs: int) -> None:
    mine = found[0]
    for each in found[1:]:
        if longest(each.name) == LONGEST:
            factor, low, high = cost_factor(mine, each, epochs, COST)
            print(
                f"{each.name} reaches the area of {mine.name} at {COST} trainings at {factor:.2f} [{low:.2f}, "
                f"{high:.2f}] times the cost (inf: not within {LONGEST} trainings)"
            )


def print_rungs(table: Table, pairs: Sequence[tuple[Searches, Searches]]) -> None:
    """Say what it saves to stop trainings and what that costs: each kind against the same without it."""
    shares = (0.4, 0.6, 1.0)
    parts = ("stopped", "wrong", "lost", "own wrong", "own lost")
    heads = "".join(f"{f'at {share:.0%} of it':>17}" for share in shares)
    print(f"\n{'stopping early':<36}{heads}{''.join(f'{part:>11}' for part in parts)}")
    now = COST * table.epochs
    for ruled, whole in pairs:
        areas = "".join(f"{words(ruled.at(share * now) - whole.at(now)):>17}" for share in shares)
        rows = ruled.within(now)
        figures = []
        for own in (False, True):
            counts = [wrong_stops(table, row, seed, own) for row, seed in zip(rows, ruled.seeds, strict=True)]
            stopped, members, both = map(sum, zip(*counts, strict=True))
            if not own:
                figures.append(stopped / sum(len({trial.architecture for trial in row}) for row in rows))
            figures += [both / max(1, stopped), both / max(1, members)]
        print(f"{ruled.name:<36}{areas}{''.join(f'{figure:>11.3f}' for figure in figures)}")
    print(
        f"at: difference of the area to that of the same searches without stopping at the cost of {COST}, at shares\n"
        "of that cost. stopped: share of the architectures that was stopped and not taken up again. wrong: share of\n"
        "these that is on the true front. lost: share of the true front's members that came up and is among them.\n"
        "own: of the front that the search itself would have had, had it finished all"
    )
    for ruled, whole in pairs:
        share, low, high = cost_factor(whole, ruled, table.epochs, longest=COST)
        same = cost_factor(whole, whole, table.epochs, longest=COST)[1:]
        print(
            f"to the area of {whole.name}, as it is in the mean at {COST}: {ruled.name} at {share:.2f} [{low:.2f}, "
            f"{high:.2f}] of the cost; the former itself, for chance alone, at [{same[0]:.2f}, {same[1]:.2f}]"
        )


def print_oracle(table: Table, whole: Searches, rung: int, first: int) -> None:
    """Say what could be saved at best without training other architectures; the first so many are finished."""
    shares = []
    for trials in whole.trials:
        on = entering(trials[:COST], table.ratios)
        spent = [table.epochs if wanted or number < first else rung for number, wanted in enumerate(on)]
        shares.append(sum(spent) / (table.epochs * len(spent)))
    print(
        f"an oracle that stops at epoch {rung} all that does not enter its search's front in the end would\n"
        f"spend {words(np.array(shares))} of the epochs of {whole.name}"
    )


def kinds(rungs: Rungs, rung: int) -> dict[str, Searcher]:
    """Return all kinds of searches; the first is ours as it comes.

    Args:
        rungs: Those of random search.
        rung: That of ours.
    """
    found: dict[str, Searcher] = {
        OURS: ours(rungs=Rungs(epochs=(rung,))),
        WHOLE: ours(),
        "uniform random": uniform,
        RANDOM: ours("random"),
        RULED: ours("random", rungs=rungs),
    }
    for sampler in ("tpe", "nsga2"):  # gp asks again and again in this space: two seconds a proposal
        found[f"ours, sampler {sampler}"] = ours(sampler)
    found[RANDOM_SLOTS] = plain("random", slots)
    for sampler in ("tpe", "tpe multivariate", "nsga2", "gp"):
        found[f"plain {sampler}, slots"] = plain(sampler, slots)
    for sampler in ("tpe", "tpe multivariate"):  # the other two see no question but those that every trial answers
        found[f"plain {sampler}, conditional"] = plain(sampler, conditional)
    return found


def longest(name: str) -> int:
    """Return the cost, in full trainings, that is replayed of a kind of search."""
    if name in PATIENT:
        return LONGEST
    return COST if name == RULED or name.startswith("ours, sampler") else 2 * COST


def run_kind(table: Table, name: str, rungs: Rungs, rung: int, searches: int, first: int) -> Searches:
    """Run the searches of a kind; what may train again goes on until it has trained enough that is new."""
    distinct = COST if name.startswith("plain") else 0
    return replay(table, name, kinds(rungs, rung)[name], searches, first, longest(name), distinct)


def coin_like(ruled: Searches, cost: float) -> Coin:
    """Return a coin that stops as often what may be stopped, at the rung that stopped most.

    It tosses after :data:`nas.rungs.FEWEST` whole trainings, and never about what is taken up again.
    """
    trials = []
    for row in ruled.within(cost):
        before = np.cumsum([0, *(not trial.stopped for trial in row[:-1])])
        trials += [trial for trial, count in zip(row, before, strict=True) if count >= FEWEST and not trial.resumed]
    rungs = [trial.epochs for trial in trials if trial.stopped]
    return Coin(rung=max(set(rungs), key=rungs.count) if rungs else 1, share=len(rungs) / max(1, len(trials)))


_WORK: tuple[Table, Rungs, int] | None = None  # of a process, so that the table is read once


def _begin(path: Path | None, rungs: Rungs, rung: int) -> None:
    global _WORK
    _WORK = Table.load(*([path] if path else [])), rungs, rung


def _part(name: str, searches: int, first: int) -> Searches:
    assert _WORK is not None
    table, rungs, rung = _WORK
    return run_kind(table, name, rungs, rung, searches, first)


def replays(names: Sequence[str], table: Table, rungs: Rungs, arguments: argparse.Namespace) -> Iterator[Searches]:
    """Run all searches of each kind, in several processes if there are to be any."""
    if arguments.workers == 1:
        for name in names:
            yield run_kind(table, name, rungs, arguments.rung, arguments.searches, arguments.first)
        return
    starts = range(0, arguments.searches, PART)
    with ProcessPoolExecutor(
        arguments.workers, initializer=_begin, initargs=(arguments.table, rungs, arguments.rung)
    ) as pool:
        parts = {
            name: [
                pool.submit(_part, name, min(PART, arguments.searches - start), arguments.first + start)
                for start in starts
            ]
            for name in names
        }
        for name in names:
            yield joined([part.result() for part in parts[name]])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=50, help="searches of each kind (default: 50)")
    parser.add_argument("--first", type=int, default=1000, help="seed of the first search (default: 1000)")
    parser.add_argument("--only", help="kinds that begin with one of these words, with commas between them")
    parser.add_argument("--rung", type=int, help="epoch at which ours looks at a training (default: half of them)")
    parser.add_argument("--rungs", help="those of random search, with commas between them (default: the usual ones)")
    parser.add_argument("--risk", type=float, default=RISK, help="that of random search's rungs (default: %(default)s)")
    parser.add_argument("--table", type=Path, help="packed table (default: the one that comes along)")
    parser.add_argument("--plot", type=Path, help="write area and regret against cost as a page")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes (default: as many as cores)"
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    try:
        table = Table.load(*([arguments.table] if arguments.table else []))
        if len(table.seeds) < 2:
            raise ValueError("the table needs two seeds: one that a search sees, one that judges it")
        epochs = tuple(map(int, arguments.rungs.split(","))) if arguments.rungs else usual(table.epochs)
        rungs = Rungs(epochs=epochs, risk=arguments.risk)
        rungs.check(table.epochs)
        arguments.rung = table.epochs // 2 if arguments.rung is None else arguments.rung
        Rungs(epochs=(arguments.rung,)).check(table.epochs)
        if min(arguments.searches, arguments.workers) < 1:
            raise ValueError("--searches and --workers must be at least 1")
    except (OSError, EOFError, ValueError) as error:
        sys.exit(f"search.py: {error}")
    offered = kinds(rungs, arguments.rung)
    names = [name for name in offered if name.startswith(tuple((arguments.only or "").split(",")))]
    if not names:
        sys.exit(f"search.py: --only must be beginnings of: {'; '.join(offered)}")
    print(
        f"{len(table.inside)} architectures, seeds {table.seeds}, {table.epochs} epochs; "
        f"{arguments.searches} searches of each kind, from seed {arguments.first}\n"
    )
    found: list[Searches] = []
    for each in replays(names, table, rungs, arguments):
        found.append(each)
        print(f"{each.name}: {words(each.at(COST * table.epochs))} at {COST}", file=sys.stderr, flush=True)
    print_comparison(found, table)
    if names[0] == OURS:
        print()
        print_factors(found, table.epochs)
    compare_rungs(table, {each.name: each for each in found}, rungs, arguments)
    if arguments.plot:
        plot(found, table.epochs, arguments.plot)


def compare_rungs(table: Table, found: dict[str, Searches], rungs: Rungs, arguments: argparse.Namespace) -> None:
    """Hold the searches with rungs against those without, and against a coin that stops as often."""
    pairs = []
    for ruled, whole in ((OURS, WHOLE), (RULED, RANDOM)):
        if ruled not in found or whole not in found:
            continue
        pairs.append((found[ruled], found[whole]))
        if ruled == OURS:
            coin = ours(coin=coin_like(found[ruled], COST * table.epochs))
            tossed = replay(table, "ours with a coin", coin, arguments.searches, arguments.first, COST)
            pairs.append((tossed, found[whole]))
    if pairs:
        print_rungs(table, pairs)
    for whole in {whole.name: whole for _, whole in pairs}.values():
        print_oracle(table, whole, *((arguments.rung, PAIRS) if whole.name == WHOLE else (rungs.epochs[0], FEWEST)))


def plot(found: Sequence[Searches], epochs: int, path: Path) -> None:
    """Draw area and regret against cost, each with the 95 % interval of the mean."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=1, cols=2, subplot_titles=("area, share of the true front's", "regret, points"))
    colours = ("#0072B2", "#000000", "#9A9A9A", "#56B4E9", "#E69F00", "#D55E00", "#009E73", "#CC79A7")
    for number, each in enumerate(found):
        costs = np.arange(1, min(longest(each.name), 2 * COST) + 1)
        colour = colours[number % len(colours)]
        dash = "solid" if number < len(colours) else "dot"
        for column, what in enumerate(("area", "regret"), 1):
            rows = [interval(each.at(cost * epochs, what)) for cost in costs]
            mean, half = np.array(rows).T
            style = {"x": costs, "legendgroup": each.name, "mode": "lines"}
            line = {"color": colour, "dash": dash, "width": 2}
            figure.add_trace(
                go.Scatter(**style, y=mean, line=line, name=each.name, showlegend=column == 1), row=1, col=column
            )
            band = {"color": colour, "width": 0}
            figure.add_trace(
                go.Scatter(**style, y=mean - half, line=band, showlegend=False, hoverinfo="skip"), row=1, col=column
            )
            red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
            fill = {"fill": "tonexty", "fillcolor": f"rgba({red},{green},{blue},0.12)"}
            figure.add_trace(
                go.Scatter(**style, y=mean + half, line=band, showlegend=False, hoverinfo="skip", **fill),
                row=1,
                col=column,
            )
    figure.update_xaxes(title_text="cost, full trainings")
    figure.update_layout(template="plotly_white", width=1200, height=520, legend={"orientation": "h", "y": -0.2})
    figure.write_html(path, include_plotlyjs=True)


if __name__ == "__main__":
    main()
